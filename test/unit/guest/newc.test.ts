import { execFileSync } from 'node:child_process';
import { lstatSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { writeNewc } from '../../../src/guest/newc.ts';
import { requires } from '../../helpers/requires.ts';

const ENTRIES = [
  { name: 'dir', mode: 0o040751 },
  { name: 'dir/file', mode: 0o100640, data: Buffer.from('five\n') },
  { name: 'dir/empty', mode: 0o104755 },
  { name: 'link', mode: 0o120777, data: Buffer.from('dir/file') },
];

t.test('writeNewc() writes what cpio reads', (t) => {
  if (!requires(t, 'cpio')) return;
  const archive = writeNewc([...ENTRIES, { name: 'console', mode: 0o020600, device: [5, 1] as const }]);
  const listed = execFileSync('cpio', ['-itv', '--numeric-uid-gid', '--quiet'], {
    input: archive,
    env: { PATH: process.env['PATH'], TZ: 'UTC', LC_ALL: 'C' },
  });
  const lines = listed.toString().trim().split('\n');
  t.strictSame(
    lines.map((line) => line.replace(/\s+/g, ' ')),
    [
      'drwxr-x--x 2 0 0 0 Jan 1 1970 dir',
      '-rw-r----- 1 0 0 5 Jan 1 1970 dir/file',
      '-rwsr-xr-x 1 0 0 0 Jan 1 1970 dir/empty',
      'lrwxrwxrwx 1 0 0 8 Jan 1 1970 link -> dir/file',
      'crw------- 1 0 0 5, 1 Jan 1 1970 console',
    ],
  );
  t.end();
});

t.test('writeNewc() keeps bodies and targets', (t) => {
  if (!requires(t, 'cpio')) return;
  const dir = mkdtempSync(path.join(tmpdir(), 'newc-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  execFileSync('cpio', ['-i', '--quiet', '--no-preserve-owner'], { input: writeNewc(ENTRIES), cwd: dir });
  t.equal(readFileSync(path.join(dir, 'dir/file'), 'utf8'), 'five\n');
  t.equal(readlinkSync(path.join(dir, 'link')), 'dir/file');
  t.equal(lstatSync(path.join(dir, 'dir')).mode, 0o040751);
  t.end();
});

t.test('writeNewc() aligns headers and bodies to four bytes, and gives the same bytes again', (t) => {
  for (let length = 0; length < 5; length += 1) {
    const entries = [{ name: 'n'.repeat(length + 1), mode: 0o100644, data: Buffer.alloc(length, 'x') }];
    const archive = writeNewc(entries);
    t.equal(archive.length % 4, 0);
    t.equal(archive.indexOf('070701', 6) % 4, 0, `a body of ${length} bytes`);
    t.ok(archive.equals(writeNewc(entries)));
  }
  t.end();
});
