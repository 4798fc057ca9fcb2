import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readdirSync } from 'node:fs';
import t from 'tap';
import { DirectoryPath } from '../../../src/capture/directory-path.ts';
import { isErrno } from '../../../src/host/errno.ts';
import { statFd } from '../../../src/host/libc.ts';

const directory = mkdtempSync('/dev/shm/rootlayer-directory-path-');
t.teardown(() => execFileSync('rm', ['-rf', directory]));

const DEPTH = 3000;
const NAME = Buffer.from('name-of-a-directory');

t.test('DirectoryPath walks any depth down and up with a few descriptors', (t) => {
  execFileSync('perl', ['-e', `for (1..${DEPTH}) { mkdir("${NAME}") && chdir("${NAME}") or die }`], { cwd: directory });
  const root = openSync(directory, constants.O_DIRECTORY);
  const countBefore = countDescriptors();
  const inodes: bigint[] = [statFd(root).ino];
  let most = 0;
  {
    using chain = new DirectoryPath(root);
    for (let depth = 1; depth <= DEPTH; depth += 1) {
      chain.enter(NAME);
      inodes.push(statFd(chain.fd).ino);
    }
    most = Math.max(most, countDescriptors() - countBefore);
    for (let depth = DEPTH - 1; depth >= 0; depth -= 1) {
      chain.leave();
      if (statFd(chain.fd).ino !== inodes[depth]) t.fail(`at depth ${depth}: another directory`);
      if (depth % 100 === 0) most = Math.max(most, countDescriptors() - countBefore);
    }
    chain.enter(NAME);
    t.equal(chain.depth, 1);
  }
  t.equal(countDescriptors(), countBefore, 'all are closed, but the caller’s own');
  t.ok(most <= 40, `${most} at most`);
  closeSync(root);
  t.end();
});

t.test('DirectoryPath enters no symlink, no file and nothing outside', (t) => {
  execFileSync('bash', ['-c', 'mkdir real; ln -s real link; ln -s / up; touch file'], { cwd: directory });
  const root = openSync(directory, constants.O_DIRECTORY);
  const countBefore = countDescriptors();
  using chain = new DirectoryPath(root);
  for (const [name, errno] of [
    ['link', 'ELOOP'],
    ['up', 'ELOOP'],
    ['file', 'ENOTDIR'],
    ['..', 'EXDEV'],
    ['none', 'ENOENT'],
  ] as const) {
    try {
      chain.enter(Buffer.from(name));
      t.fail(`${name} was entered`);
    } catch (error) {
      t.ok(isErrno(error, errno, 'ENOTDIR'), `${name}: ${String(error)}`);
    }
  }
  t.equal(countDescriptors(), countBefore);
  closeSync(root);
  t.end();
});

function countDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}
