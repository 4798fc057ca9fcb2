import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { type CommandOptions, rootlayer } from '../helpers/command.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { JUDGES, judgeArchive } from '../helpers/image-judges.ts';
import { repoRoot } from '../helpers/repo.ts';
import { requires } from '../helpers/requires.ts';
import { copyForUsers } from '../helpers/user-copy.ts';

t.setTimeout(180_000);
requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'setpriv', 'find', 'pigz', 'zstd', ...JUDGES);

const USER = { uid: 1000, group: 4242 };

// Not where the test runner says: users must be able to enter it.
const directory = mkdtempSync('/dev/shm/recipes-');
chmodSync(directory, 0o755);
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
const app = copyForUsers(directory, ['commander', 'tar-stream', 'zod']);
const home = path.join(directory, 'home');
cpSync(path.join(repoRoot, 'examples/recipes'), home, { recursive: true });
mkdirSync(path.join(home, 'out'));
for (const dir of [home, path.join(home, 'out')]) chmodSync(dir, 0o777);
const options: CommandOptions = { user: USER, main: app.main, cwd: home, env: { TMPDIR: home } };

t.test('a user without a daemon builds what runs no script', async (t) => {
  const { status, stderr, stdout } = await rootlayer(['build', 'buildImage.json', '-o', 'out/', '--json'], options);
  t.equal(status, 0, stderr);
  t.match(JSON.parse(stdout), { output: { path: path.join(home, 'out/docker-image-hello.tar.gz') }, imageName: 'hello' });
  cpSync(path.join(home, 'out/docker-image-hello.tar.gz'), path.join(home, 'docker-image-hello.tar.gz'));
});

t.test('a user reads only what they may', async (t) => {
  writeFileSync(path.join(home, 'secret'), 'x', { mode: 0o600 });
  const recipe = JSON.stringify({ function: 'buildImage', name: 'x', copyToRoot: 'secret' });
  const { status, stderr } = await rootlayer(['build', '-', '-o', 'out/x.tar'], { ...options, input: recipe });
  t.equal(status, 125);
  t.match(stderr, /^rootlayer: Cannot read ".*secret": EACCES/m);
});

t.test('a user without a daemon is told so when a script must run', async (t) => {
  const gone = ['--socket', path.join(directory, 'none.sock')];
  const { status, stderr } = await rootlayer(['build', 'buildLayeredImage.json', '-o', 'out/x.tar', ...gone], options);
  t.equal(status, 125);
  t.match(stderr, /^rootlayer: Cannot reach the daemon/m);
});

t.test('a user builds by the scripts of a recipe with a daemon, with the bytes that root gets', async (t) => {
  const daemon = await startDaemon(t, { directory, args: ['--group', String(USER.group)] });
  const build = async (out: string, over: CommandOptions): Promise<string> => {
    const { stdout } = await daemon.clientOk(['build', 'buildLayeredImage.json', '-o', out, '--json'], { ...over, cwd: home });
    return JSON.parse(stdout).output.digest;
  };
  const own = await build('out/own.tar.zst', options);
  t.equal(own, await build('out/root.tar.zst', {}));
  const { config, rootfs } = judgeArchive(t, path.join(home, 'out/own.tar.zst'));
  t.equal(config.config.User, '1000:1000');
  t.ok(rootfs);
});
