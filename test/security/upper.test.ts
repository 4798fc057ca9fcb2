/** Hostile upper directories, through the real worker. The ids are those of the threat model, part C. */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import t, { type Test } from 'tap';
import { type CaptureOptions, captureLayer } from '../../src/capture/capture-layer.ts';
import { RootlayerError } from '../../src/core/errors.ts';
import { setXattrHere } from '../../src/host/libc.ts';
import { requires } from '../helpers/requires.ts';
import { diffTrees, listTree } from '../helpers/tree.ts';
import { CaptureHarness, memberNames, readMembers } from '../root/capture/harness.ts';

requires(t, 'root', 'launcher', 'setfattr', 'setfacl', 'bsdtar', 'perl');
t.setTimeout(300_000);

const harness = await CaptureHarness.start(t);

/** An upper directory that must be refused: its script, and the outcome. */
type Refusal = { name: string; script: string; code: string; says: RegExp; options?: CaptureOptions };

const REFUSED: readonly Refusal[] = [
  { name: 'U05 block device 8:0', script: 'mkdir d; mknod d/disk b 8 0', code: 'E_CAPTURE_DEVICE', says: /"d\/disk".*8:0/ },
  { name: 'U05 char device 1:1', script: 'mknod mem c 1 1', code: 'E_CAPTURE_DEVICE', says: /"mem".*1:1/ },
  { name: 'U05 char device 10:200', script: 'mknod tun c 10 200', code: 'E_CAPTURE_DEVICE', says: /"tun".*10:200/ },
  ...[
    'touch d/.wh.x',
    'mkdir d/.wh.x',
    'ln -s a d/.wh.x',
    'touch d/.wh..wh..opq',
    'touch d/.wh.',
    'mkdir -p d/e; touch d/e/.wh.passwd',
  ].map(
    (script): Refusal => ({
      name: `U07 ${script}`,
      script: `mkdir d; ${script}`,
      code: 'E_CAPTURE_WHITEOUT_NAME',
      says: /"d\/.*\.wh\./,
    }),
  ),
  {
    name: 'U08 redirect',
    script: 'mkdir d; setfattr -n trusted.overlay.redirect -v /etc d',
    code: 'E_CAPTURE_OVERLAY',
    says: /"d\/".*trusted\.overlay\.redirect/,
  },
  {
    name: 'U08 metacopy',
    script: 'echo > f; setfattr -n trusted.overlay.metacopy f',
    code: 'E_CAPTURE_OVERLAY',
    says: /"f".*trusted\.overlay\.metacopy/,
  },
  {
    name: 'U11 many values',
    script: `touch f; for n in 1 2 3; do setfattr -n user.$n -v "$(printf 'x%.0s' {1..50000})" f; done`,
    code: 'E_LIMIT_XATTR',
    says: /"f".*131072/,
  },
  {
    name: 'U11 a smaller limit',
    script: 'mkdir d; setfattr -n user.12345 -v 12345 d',
    code: 'E_LIMIT_XATTR',
    says: /"d\/".*14 bytes/,
    options: { limits: { maxXattrBytes: 14 } },
  },
  {
    name: 'U15 a file of 4 TiB',
    script: 'truncate -s 4T huge',
    code: 'E_LIMIT_RESULT',
    says: /"huge".*4398046514176 bytes, want at most 8589934592/,
  },
  {
    name: 'U15 more bytes than a limit',
    script: 'for n in 1 2 3; do head -c 4000 /dev/zero > $n; done',
    code: 'E_LIMIT_RESULT',
    says: /"3".*15360 bytes, want at most 15359/,
    options: { limits: { maxBytes: 15_359 } },
  },
  {
    name: 'more entries than a limit',
    script: 'touch 1 2 3',
    code: 'E_LIMIT_RESULT',
    says: /"3".*3 entries/,
    options: { limits: { maxEntries: 3 } },
  },
  { name: 'U17 a path above 64 KiB', script: deepTree(400), code: 'E_CAPTURE_DEPTH', says: /65\d{3} bytes, want at most 65536/ },
  { name: 'U21 an owner outside the range', script: 'touch f; chown 65536 f', code: 'E_CAPTURE', says: /"f".*65536:0/ },
  { name: 'U21 a group outside the range', script: 'mkdir d; chown :4294967294 d', code: 'E_CAPTURE', says: /"d\/".*0:4294967294/ },
];

/** Directories with names of 200 bytes, one in the other, and a file in the last; no path of that length can be named in one call. */
function deepTree(depth: number): string {
  return `perl -e 'for (1..${depth}) { mkdir("n" x 200) && chdir("n" x 200) or die } open(F, ">", "leaf") or die; print F "deep"'`;
}

t.test('captureLayer() refuses what a layer must not hold, and lets go of it', async (t) => {
  await harness.capture(harness.makeDirectory(), null);
  const before = await heldByWorker();
  for (const { name, script, code, says, options } of REFUSED) {
    const upper = harness.makeDirectory(script);
    await rejectsWith(t, harness.capture(upper, null, options), code, says, name);
  }
  t.strictSame(await heldByWorker(), before, 'descriptors and current directory of the worker');
});

/** What could keep a mount busy: how many descriptors the file's own worker has open, and its current directory. */
async function heldByWorker(): Promise<{ descriptors: number; directory: string }> {
  // After an answer the worker only waits for the next request.
  await harness.capture(harness.makeDirectory(), null);
  const worker = descendants(process.pid).findLast((pid) => peakMemoryKib(pid) > 0) ?? 0;
  return { descriptors: readdirSync(`/proc/${worker}/fd`).length, directory: readlinkSync(`/proc/${worker}/cwd`) };
}

async function rejectsWith(t: Test, work: Promise<unknown>, code: string, says: RegExp, name: string): Promise<void> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof RootlayerError)) {
    t.fail(`${name}: got ${String(error)}, want ${code}`);
    return;
  }
  t.equal(error.code, code, `${name}: code`);
  t.match(error.message, says, `${name}: message`);
}

t.test('U01 captureLayer() never follows a symlink that is swapped in', async (t) => {
  const canary = harness.makeDirectory('for n in 1 2 3 4 5 6 7 8; do echo canary-content > $n; done');
  const upper = harness.makeDirectory(`mkdir d; for n in 1 2 3 4 5 6 7 8; do echo plain > d/$n; done; ln -s ${canary} l`);
  const swapper = startSwapper(upper);
  try {
    for (let round = 0; round < 300; round += 1) {
      const tar = await harness.capture(upper, null).then(
        (layer) => layer.tar,
        (error: unknown) => {
          if (error instanceof RootlayerError && error.code === 'E_CAPTURE_CHANGED') return null;
          throw error;
        },
      );
      if (tar === null) continue;
      if (readFileSync(tar).includes('canary-content')) t.fail('the content behind the symlink is in the layer');
      rmSync(tar);
    }
    t.pass('300 captures without the canary');
  } finally {
    swapper.stop();
  }
  const swapped = harness.makeDirectory(`ln -s ${canary} d`);
  execFileSync('tar', ['-C', swapped, '-chf', path.join(canary, 'tar'), '.']);
  t.ok(readFileSync(path.join(canary, 'tar')).includes('canary-content'), 'a packer that follows symlinks has the canary');
});

/** Exchanges the names `d` and `l` as fast as it can, until stopped. */
function startSwapper(directory: string): { stop(): void } {
  const script = 'while (1) { rename("d", "t"); rename("l", "d"); rename("t", "l") }';
  const child = spawn('perl', ['-e', script], { cwd: directory, stdio: 'ignore' });
  return { stop: () => child.kill('SIGKILL') };
}

t.test('U03 captureLayer() gives 4,096 fifos and opens none', { timeout: 30_000 }, async (t) => {
  const upper = harness.makeDirectory('mkfifo {1..4096}');
  const members = readMembers((await harness.capture(upper, null)).tar).filter(({ type }) => type === 'fifo');
  t.equal(members.length, 4096);
});

t.test('U04 captureLayer() leaves sockets out with one warning', async (t) => {
  const upper = harness.makeDirectory(`
    mkdir d; perl -MSocket -e 'for (@ARGV) { socket(my $s, AF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un($_)) or die }' d/a d/b c
  `);
  const layer = await harness.capture(upper, null);
  t.strictSame(memberNames(layer.tar), ['./', 'd/']);
  t.strictSame(layer.warnings, ['left out a socket, which layers cannot hold: "c" and 2 more']);
});

t.test('U05 captureLayer() keeps devices when it is told to, and opens none', async (t) => {
  const upper = harness.makeDirectory('mknod disk b 8 0; mknod mem c 1 1; mknod tun c 10 200');
  const members = readMembers((await harness.capture(upper, null, { devices: 'keep' })).tar).slice(1);
  t.strictSame(
    members.map(({ name, type, devMajor, devMinor }) => [name.toString(), type, devMajor, devMinor]),
    [
      ['disk', 'block', 8, 0],
      ['mem', 'char', 1, 1],
      ['tun', 'char', 10, 200],
    ],
  );
});

t.test('U06 captureLayer() makes whiteouts of char 0:0 only, and never links of them', async (t) => {
  const lower = harness.makeDirectory('touch a b c');
  const upper = harness.makeDirectory('mknod a c 0 0; ln a b; mknod c c 1 3; mknod d b 0 0');
  const names = memberNames((await harness.capture(upper, lower, { devices: 'keep' })).tar);
  t.strictSame(names, ['./', '.wh.a', '.wh.b', 'c', 'd']);
});

t.test('U06 captureLayer() reads whiteouts in the form of a marked file, in a directory that is marked for them', async (t) => {
  const lower = harness.makeDirectory('mkdir d; touch d/a d/b');
  const upper = harness.makeDirectory(`
    mkdir d; setfattr -n trusted.overlay.opaque -v x d
    touch d/a; setfattr -n trusted.overlay.whiteout -v y d/a; echo full > d/b; setfattr -n trusted.overlay.whiteout -v y d/b
  `);
  t.strictSame(memberNames((await harness.capture(upper, lower)).tar), ['./', 'd/', 'd/.wh.a', 'd/b']);
});

t.test('U08 captureLayer() strips what overlayfs leaves behind', async (t) => {
  const upper = harness.makeDirectory(`
    echo x > f; mkdir d
    for name in origin impure uuid nlink upper protattr; do setfattr -n trusted.overlay.$name -v y f; setfattr -n trusted.overlay.$name -v y d; done
    setfattr -n trusted.overlay.uuid -v y .
  `);
  const layer = await harness.capture(upper, null);
  t.strictSame([layer.warnings, readMembers(layer.tar).flatMap(({ xattrs }) => xattrs)], [[], []]);
});

t.test('U09 captureLayer() drops forged user.overlay attributes with a warning', async (t) => {
  const upper = harness.makeDirectory(`
    mkdir d; echo x > f; setfattr -n user.overlay.opaque -v y d; setfattr -n user.overlay.redirect -v /etc f
    setfattr -n user.overlay.whiteout -v y f; setfattr -n user.kept -v 1 f
  `);
  const layer = await harness.capture(upper, null);
  const xattrs = readMembers(layer.tar).flatMap((member) => member.xattrs.map(({ name }) => `${member.name} ${name}`));
  t.strictSame(xattrs, ['f user.kept']);
  t.strictSame(layer.warnings.toSorted(), [
    'left out the attribute "user.overlay.opaque": "d/"',
    'left out the attribute "user.overlay.redirect": "f"',
    'left out the attribute "user.overlay.whiteout": "f"',
  ]);
});

t.test('U10 captureLayer() gives capabilities as revision 2, and drops those of another user namespace', async (t) => {
  const upper = harness.makeDirectory(`
    touch two three foreign
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 two
    setfattr -n security.capability -v 0x010000030004000000000000000000000000000000000000 three
    setfattr -n security.capability -v 0x0100000300040000000000000000000000000000a0860100 foreign
  `);
  const layer = await harness.capture(upper, null);
  const revision2 = '0100000200040000000000000000000000000000';
  t.strictSame(
    readMembers(layer.tar).flatMap((member) => member.xattrs.map(({ name, value }) => `${member.name} ${name} ${value.toString('hex')}`)),
    [`three security.capability ${revision2}`, `two security.capability ${revision2}`],
  );
  t.strictSame(layer.warnings, ['left out the attribute "security.capability": "foreign"']);
});

t.test('U11 captureLayer() keeps attributes byte by byte', async (t) => {
  const upper = harness.makeDirectory('touch f');
  const wanted: [string, Buffer][] = [
    ['user.\xff\xfe', Buffer.from('not utf-8')],
    ['user.empty', Buffer.alloc(0)],
    ['user.large', Buffer.alloc(65_536, 0xa5)],
    ['user.new\nline', Buffer.from('a\nb\0c=d\n')],
    ['user.with=sign', Buffer.from('12 SCHILY.xattr.user.x=1\n')],
  ];
  const file = Buffer.from(path.join(upper, 'f'));
  for (const [name, value] of wanted) setXattrHere(file, Buffer.from(name, 'latin1'), value);
  const member = readMembers((await harness.capture(upper, null)).tar).at(-1);
  const found = member?.xattrs.map(({ name, value }): [string, Buffer] => [name.toString('latin1'), value]);
  t.strictSame(
    found?.toSorted(([a], [b]) => (a < b ? -1 : 1)),
    wanted.toSorted(([a], [b]) => (a < b ? -1 : 1)),
  );
});

t.test('U11 captureLayer() refuses more names than the kernel lists', async (t) => {
  const upper = harness.makeDirectory('touch f');
  const file = Buffer.from(path.join(upper, 'f'));
  for (let n = 0; n < 2000; n += 1) setXattrHere(file, `user.${n}-${'x'.repeat(60)}`, Buffer.alloc(0));
  await rejectsWith(t, harness.capture(upper, null), 'E_LIMIT_XATTR', /"f".*extended attributes/, '2,000 names of 70 bytes');
});

t.test('U12 captureLayer() keeps ACLs and drops labels, on symlinks too', async (t) => {
  const upper = harness.makeDirectory(`
    touch acl label; mkdir d; ln -s x link
    setfacl -m u:1000:rw acl; setfacl -d -m g:5:rx d
    setfattr -n security.selinux -v label_t label; setfattr -h -n security.selinux -v label_t link; setfattr -h -n trusted.md5sum -v 0 link
  `);
  const layer = await harness.capture(upper, null);
  t.strictSame(
    readMembers(layer.tar).flatMap((member) => member.xattrs.map(({ name }) => `${member.name} ${name}`)),
    ['acl system.posix_acl_access', 'd/ system.posix_acl_default'],
  );
  t.strictSame(layer.warnings.toSorted(), [
    'left out the attribute "security.selinux": "label" and 1 more',
    'left out the attribute "trusted.md5sum": "link"',
  ]);
});

t.test('U13 captureLayer() gives 65,000 links to one inode as one body', async (t) => {
  const upper = harness.makeDirectory(`
    mkdir a b; head -c 100000 /dev/zero > a/body
    perl -e 'for (1..64999) { link("a/body", ($_ % 2 ? "a" : "b") . "/$_") or die $! }'
  `);
  const layer = await harness.capture(upper, null);
  const members = readMembers(layer.tar);
  const links = members.filter(({ type }) => type === 'hardlink');
  t.equal(links.length, 64_999);
  t.ok(links.every(({ linkName }) => linkName.toString() === 'a/1'));
  t.strictSame(
    members.filter(({ type }) => type === 'file').map(({ name, size }) => [name.toString(), size]),
    [['a/1', 100_000]],
  );
  t.ok(layer.sizeBytes < 50 * 1024 * 1024, `${layer.sizeBytes} bytes`);
});

t.test('U16 captureLayer() never makes a tar of a file that is shorter or longer than its size', async (t) => {
  // Files of sysfs say 4096 bytes and have few; those of procfs say 0 and have some.
  await rejectsWith(t, harness.capture('/sys/devices/virtual/net/lo/statistics', null), 'E_CAPTURE_CHANGED', /4096 bytes/, 'shorter');
  await rejectsWith(t, harness.capture('/proc/sys/kernel/random', null), 'E_CAPTURE_CHANGED', /0 bytes/, 'longer');
  const upper = harness.makeDirectory('echo still works > f');
  t.equal((await harness.capture(upper, null)).entries, 2, 'the worker lives on');
});

t.test('U17 captureLayer() walks a tree deeper than any path in one call', async (t) => {
  const layer = await harness.capture(harness.makeDirectory(deepTree(320)), null);
  const last = readMembers(layer.tar).at(-1);
  t.equal(layer.entries, 322);
  t.equal(last?.name.length, 320 * 201 + 'leaf'.length);
  t.equal(last?.body.toString(), 'deep');
});

t.test('U17 captureLayer() walks 5,000 levels, more than it may open descriptors', async (t) => {
  const script = `perl -e 'for (1..5000) { open(F, ">", "f") or die; mkdir("d") && chdir("d") or die; open(F, ">", "z") or die }'`;
  const upper = harness.makeDirectory(script);
  const layer = await harness.capture(upper, null);
  t.equal(layer.entries, 1 + 3 * 5000);
});

t.test('U18, U19 captureLayer() gives any name to GNU tar and bsdtar, byte by byte', async (t) => {
  const upper = harness.makeDirectory(`
    mkdir d; cd d
    for name in "$(printf 'n%.0s' {1..255})" "$(printf '\\377\\376')" "$(printf 'new\\nline')" 'back\\slash' '-rf' '..x' '...' ' ' 'a*?[]' '\${HOME}' \
      "$(printf '\\303\\251')" "$(printf 'e\\314\\201')" "$(printf '\\303\\237')" ss A a "$(printf '\\033[31mred')" '.w' 'wh.'; do
      echo "in $name" > "./$name"; ln -s -- "$name" "./L$(printf %s "$name" | md5sum | cut -c1-8)"
    done
    mkdir "$(printf 'm%.0s' {1..255})"; echo long > "$(printf 'm%.0s' {1..255})/$(printf 'n%.0s' {1..255})"
    ln "$(printf '\\377\\376')" "$(printf '\\377\\375')"
  `);
  const { tar } = await harness.capture(upper, null);
  // bsdtar puts the time of the directory it extracts into before the last file.
  const options = { ignoreRootMtime: true };
  const wanted = listTree(upper, options);
  for (const [name, command] of [
    ['GNU tar', ['tar', '--numeric-owner', '-xpf', tar]],
    ['bsdtar', ['bsdtar', '--numeric-owner', '-xpf', tar]],
  ] as const) {
    const target = harness.newPath('extracted');
    mkdirSync(target);
    const [program, ...args] = command;
    execFileSync(program, args, { cwd: target, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C.UTF-8' } });
    t.strictSame(diffTrees(wanted, listTree(target, options)), [], name);
  }
});

t.test('U20 captureLayer() packs 300,000 files of one directory in less than 300 MiB', async (t) => {
  const upper = harness.makeDirectory(`perl -e 'for (1..300000) { open(F, ">", "file-number-$_") or die }'`);
  const own = await CaptureHarness.start(t);
  const layer = await own.capture(upper, null);
  t.equal(layer.entries, 300_001);
  const peakKib = Math.max(...descendants(process.pid).map(peakMemoryKib));
  t.ok(peakKib < 300 * 1024, `the largest child took ${peakKib} KiB`);
});

t.test('U22 captureLayer() gives whole seconds, rounded down, of any time', async (t) => {
  const times = { a: '@-1.5', b: '@0.999999999', c: '@8589934592.5', d: '@253402300799', e: '@1.1' };
  const upper = harness.makeDirectory(
    Object.entries(times)
      .map(([name, time]) => `touch -d ${time} ${name}`)
      .join('\n'),
  );
  const read = async (options: CaptureOptions): Promise<(number | undefined)[]> =>
    readMembers((await harness.capture(upper, null, options)).tar)
      .slice(1)
      .map(({ raw }) => raw.mtimeSec);
  t.strictSame(await read({}), [-2, 0, 8_589_934_592, 253_402_300_799, 1]);
  t.strictSame(await read({ sourceDateEpoch: 0 }), [-2, 0, 0, 0, 0]);
});

t.test('U28 captureLayer() survives the death of its worker', async (t) => {
  const before = new Set(descendants(process.pid));
  const own = await CaptureHarness.start(t);
  const upper = harness.makeDirectory('truncate -s 200G hole');
  const output = openSync(own.newPath('layer'), 'wx');
  const directory = openSync(upper, constants.O_DIRECTORY);
  try {
    const started = deferredProgress();
    const work = captureLayer(
      own.worker,
      { upper: directory, output, lower: null },
      { limits: { maxBytes: 2 ** 45 } },
      started.progress,
      new AbortController().signal,
    );
    const outcome = rejectsWith(t, work, 'E_WORKER', /died/, 'killed in the middle');
    await started.promise;
    // The deepest one is the worker itself; its parent, the launcher, tells of its end.
    const worker = descendants(process.pid).findLast((pid) => !before.has(pid) && peakMemoryKib(pid) > 0);
    process.kill(worker ?? Number.NaN, 'SIGKILL');
    await outcome;
    t.equal((await harness.capture(harness.makeDirectory('touch f'), null)).entries, 2, 'another worker still works');
  } finally {
    closeSync(output);
    closeSync(directory);
  }
});

/** Resolves with the first progress that is reported. */
function deferredProgress(): { promise: Promise<void>; progress: () => void } {
  let progress: () => void = () => {};
  const promise = new Promise<void>((resolve) => {
    progress = resolve;
  });
  return { promise, progress: () => progress() };
}

/** Process ids of all children, and theirs. */
function descendants(pid: number): number[] {
  const listed = execFileSync('ps', ['-e', '-o', 'pid=,ppid=']).toString().trim().split('\n');
  const parents = listed.map((line) => line.trim().split(/\s+/).map(Number));
  const of = (parent: number): number[] => parents.flatMap(([child = 0, its = 0]) => (its === parent ? [child, ...of(child)] : []));
  return of(pid);
}

function peakMemoryKib(pid: number): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
  } catch {
    return 0; // a process of the list itself, such as ps, that has ended
  }
}
