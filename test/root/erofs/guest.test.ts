/** The kernel that guests have, which is another than the host's, reads the images too. */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { AGENT, buildGuestImage } from '../../../src/guest/guest-image.ts';
import { findKernel } from '../../../src/guest/kernel.ts';
import { close } from '../../../src/host/libc.ts';
import { openLowerView } from '../../../src/overlay/lower.ts';
import { chooseMounter } from '../../../src/overlay/mounter.ts';
import { extractDockerLayers } from '../../helpers/docker-archive-layers.ts';
import { readTar } from '../../helpers/engine.ts';
import { makeScratchDisk } from '../../helpers/guest-disks.ts';
import { GuestMachine } from '../../helpers/guest-vm.ts';
import { baseImagePath, requires } from '../../helpers/requires.ts';
import { listTree } from '../../helpers/tree.ts';
import { DiskHarness, mountImage, run } from './harness.ts';

t.setTimeout(300_000);
requires(
  t,
  'root',
  'overlay',
  'erofs',
  'loop',
  'launcher',
  'base-image',
  'vm-kernel',
  'qemu-system-x86_64',
  'mkfs.ext4',
  'setfattr',
  'setfacl',
);
const harness = await DiskHarness.start(t);

const FIXTURE = `
mkdir -p fixture/many fixture/links fixture/acls etc usr/share/perl5; cd fixture
echo cap > cap; setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 cap
for n in 1 2 3; do echo $n > same$n; setfattr -n user.same -v same same$n; setfattr -n user.own -v own$n same$n; done
setfattr -n user.large -v 0x$(printf 'ab%.0s' {1..1500}) same3
echo acl > acl; setfacl -m u:1000:rw,g:5:r acl; setfacl -d -m u:7:rwx acls
ln -s "$(printf 'x%.0s' {1..4000})" long; ln -s short short; chown -h 8:9 short
echo 1 > "$(printf '\\377\\376')"; echo 2 > "$(printf 'y%.0s' {1..255})"; echo 3 > '!first'
mknod block b 7 42; mkfifo fifo; echo linked > links/a; ln links/a links/b
for ((n = 0; n < 3000; n++)); do echo $n > many/a-name-of-some-length-$n; done
truncate -s 3M hole; printf end >> hole; head -c 5000 /dev/urandom > tail; head -c 400000 /dev/urandom > large; chown 60000:65535 large
cd ..; mknod etc/motd c 0 0; setfattr -n trusted.overlay.opaque -v y usr/share/perl5; echo new > usr/share/perl5/new
find . -depth -exec touch -h -d @1600000000.25 {} +
touch -d '1960-02-03 04:05:06.7 UTC' fixture/tail; touch -d '2100-01-01 00:00:00.999999999 UTC' fixture/large
`;

/** Everything that find can tell, and contents; the directories that a job has of its own left out. */
const LIST = `
find . -mindepth 1 \\( -path ./dev -o -path ./proc -o -path ./sys \\) -prune -o -printf '%y %m %U:%G %T@ %l %P\\n' \\( -type d -o -printf '%n %s %P\\n' \\) | LC_ALL=C sort
find fixture usr/lib/os-release etc -type f -exec md5sum {} + | LC_ALL=C sort
`;

t.test('the kernel of guests shows layers as the store does, and copies all of a file up', async (t) => {
  const layers = ['top', 'base'].map((name) => path.join(harness.directory, name));
  const [top = '', base = ''] = layers;
  for (const layer of layers) mkdirSync(layer);
  run('bash', ['-e', '-c', FIXTURE], top);
  for (const layer of extractDockerLayers(baseImagePath(), harness.newPath('archive')))
    run('tar', ['-xpf', layer, '--numeric-owner', '-C', base]);
  const lowers = [(await harness.make(top)).image, (await harness.make(base)).image];
  const kernel = { kernel: findKernel(), agentPath: AGENT, outputDir: path.join(harness.directory, 'guest') };
  const machine = await GuestMachine.boot(await buildGuestImage(kernel, new AbortController().signal), harness.directory);
  const ran = await machine.run({
    disks: [makeScratchDisk(path.join(harness.directory, 'scratch')), ...lowers],
    script: `cd /; ${LIST} find fixture -maxdepth 2 ! -path "*many/*" -exec touch -h -d @1 {} +`,
    records: [
      ...[1, 2].map((disk): [string, number] => ['lower', disk]),
      ...([
        ['scratch', 0],
        ['memory', 2 ** 28],
        ['pids', 256],
        ['fsize', 2 ** 26],
        ['end', ''],
      ] as [string, number][]),
      ...([
        ['env', 'PATH=/usr/bin'],
        ['exec', '/bin/bash'],
        ['arg', '-e'],
        ['arg', '/dev/rootlayer/script'],
      ] as [string, string][]),
    ],
  });
  t.same({ error: ran.error, stderr: ran.stderr, status: ran.end['status'] }, { error: null, stderr: '', status: '0' });
  const expected = await listMerged(lowers);
  const [wanted, got] = [new Set(expected.split('\n')), new Set(ran.stdout.split('\n'))];
  t.ok(wanted.size > 20_000);
  t.same(
    {
      missing: [...wanted].filter((line) => !got.has(line)).slice(0, 20),
      unexpected: [...got].filter((line) => !wanted.has(line)).slice(0, 20),
    },
    { missing: [], unexpected: [] },
  );
  const xattrs = Object.fromEntries(listTree(top).flatMap((entry) => (entry.xattrs === undefined ? [] : [[entry.path, entry.xattrs]])));
  const copied = readTar(ran.tar).flatMap(({ header }) => {
    const values = header.xattrs.map(({ name, value }) => [name.toString('latin1'), value.toString('hex')]);
    return values.length === 0 ? [] : [[header.name.toString('latin1').replace(/^\.\/|\/$/g, ''), Object.fromEntries(values)]];
  });
  t.same(Object.fromEntries(copied), xattrs);
});

async function listMerged(images: readonly string[]): Promise<string> {
  const mounts = images.map(mountImage);
  const view = await openLowerView(await chooseMounter(), mounts);
  try {
    return execFileSync('bash', ['-e', '-c', `cd /proc/self/fd/3; ${LIST}`], {
      encoding: 'latin1',
      maxBuffer: 64 * 2 ** 20,
      stdio: ['ignore', 'pipe', 'pipe', view],
    });
  } finally {
    for (const fd of [view, ...mounts]) close(fd);
  }
}
