import { mkdirSync } from 'node:fs';
import t from 'tap';
import { runInOverlay, runInOverlays } from '../../helpers/overlay.ts';
import { randomOperations } from '../../helpers/random-ops.ts';
import { requires } from '../../helpers/requires.ts';
import { diffTrees, listTree } from '../../helpers/tree.ts';
import { UmociLayout } from '../../helpers/umoci.ts';
import { BASE_ITEMS, makeBaseTree } from './base-tree.ts';
import { CaptureHarness, memberNames } from './harness.ts';

requires(t, 'root', 'overlay', 'launcher', 'umoci', 'unshare', 'setfattr', 'setfacl');
// 200 sequences, each with an overlay and an unpack of its own.
t.setTimeout(600_000);

const harness = await CaptureHarness.start(t);
const source = harness.newPath('source');
mkdirSync(source);
makeBaseTree(source);
const base = await harness.pack(source);
const layout = new UmociLayout(harness.newPath('layout'));
layout.addImage('base', [base.tar]);
/** The lower directory of all overlays here: the base as umoci unpacks it. */
const lower = harness.newPath('lower');
layout.unpack('base', lower);

t.test('packTree() gives a tar that umoci unpacks to the same tree', (t) => {
  t.strictSame(diffTrees(listTree(source), listTree(lower)), []);
  t.end();
});

/** Scripts with what is hard about overlays; each must obey the law too. */
const CASES: Record<string, string> = {
  'a new file in an old directory': 'echo new > etc/new',
  'a changed file': 'echo more >> etc/passwd',
  'a changed mode of a directory only': 'chmod 711 var/log',
  'a changed root directory': 'chmod 750 .; setfattr -n user.root -v r .',
  'a deleted file': 'rm etc/hosts',
  'a deleted directory': 'rm -r usr/lib/deep',
  'a directory deleted and made again': 'rm -r etc/conf.d; mkdir etc/conf.d; echo 3 > etc/conf.d/3',
  'a directory deleted and made again empty': 'rm -r etc/conf.d; mkdir etc/conf.d',
  'a new directory, renamed': 'mkdir first; echo x > first/x; mv first second',
  'a directory moved over a directory': 'mkdir new; echo x > new/x; rm -r etc/conf.d; mv new etc/conf.d',
  'a directory in place of a file': 'rm top; mkdir top; echo in > top/in',
  'a file in place of a directory': 'rm -r usr/lib/deep; echo file > usr/lib/deep',
  'a symlink in place of a directory': 'rm -r usr/lib/deep; ln -s nowhere usr/lib/deep',
  'a directory in place of a symlink': 'rm lib; mkdir lib; echo x > lib/x',
  'a fifo in place of a file': 'rm top; mkfifo top',
  'a moved base directory': 'mv usr/lib moved',
  'a new name for a base file': 'ln etc/passwd etc/link',
  'a write to one name of a hard-linked base file': 'echo changed > usr/lib/two',
  'a deleted name of a hard-linked base file': 'rm usr/lib/one',
  'new hard links across directories': 'echo x > z; ln z etc/y; ln z bin/x; setfattr -n user.x -v y z',
  'hard links of a symlink and of a fifo': 'ln -s a s1; ln -P s1 s2; mkfifo f1; ln f1 f2',
  'attributes changed and removed':
    'setfattr -n user.one -v 2 etc/attrs; setfattr -x user.dir etc; setfacl -b etc/acl; setfattr -x security.capability bin/ping',
  'a socket in place of a file': `rm top; perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un("top")) or die'`,
  'sparse and empty files': 'truncate -s 3M big-hole; : > empty',
  'times far away': 'touch -d @-5 before; touch -d @8589934592 after; touch -d @0.9 zero',
  'large owners': 'touch big; chown 65535:65534 big',
};

t.test('captureLayer() makes a layer that, over the base, equals the merged tree', async (t) => {
  for (const [index, [name, script]] of Object.entries(CASES).entries()) {
    const tag = `case-${index}`;
    const directory = harness.newPath('case');
    mkdirSync(directory);
    const run = runInOverlay(directory, lower, script);
    const layer = await harness.capture(run.upper, lower);
    layout.addImage(tag, [base.tar, layer.tar]);
    const applied = harness.newPath('applied');
    layout.unpack(tag, applied);
    t.strictSame(
      diffTrees(listTree(run.merged, { ignoreSockets: true }), listTree(applied)),
      [],
      `${name}: ${memberNames(layer.tar).join(' ')}`,
    );
  }
});

const SEQUENCES = 200;
const BATCH = 20;
const OPERATIONS = 25;

t.test('captureLayer() keeps the law for 200 random sequences of operations', async (t) => {
  for (let first = 0; first < SEQUENCES; first += BATCH) {
    const seeds = Array.from({ length: BATCH }, (_seed, n) => first + n + 1);
    const directory = harness.newPath('batch');
    mkdirSync(directory);
    const runs = runInOverlays(
      directory,
      lower,
      seeds.map((seed) => randomOperations(seed, BASE_ITEMS, OPERATIONS)),
    );
    for (const [n, run] of runs.entries()) {
      const tag = `random-${seeds[n]}`;
      const layer = await harness.capture(run.upper, lower);
      layout.addImage(tag, [base.tar, layer.tar]);
      const applied = harness.newPath('applied');
      layout.unpack(tag, applied);
      const report = diffTrees(listTree(run.merged), listTree(applied));
      t.strictSame(report, [], `seed ${seeds[n]}, ${layer.entries} entries`);
    }
  }
});
