import { spawnSync } from 'node:child_process';
import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import t, { type Test } from 'tap';
import type { TarMember } from '../../../../src/core/tar/entry.ts';
import { encodeEntry, endOfArchive, padding } from '../../../../src/core/tar/writer.ts';
import { requires } from '../../../helpers/requires.ts';
import { archive, GNU, gnuLong, header, member, outcomeOf, pax, readTar } from '../../../helpers/tar-builder.ts';

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');
const isRoot = process.getuid?.() === 0;
const NONE = { uid: 0, gid: 0, size: 0, mtimeSec: 1700000000, linkName: Buffer.alloc(0), devMajor: 0, devMinor: 0, xattrs: [] };
const CAPABILITY = Buffer.from('0100000200040000000000000000000000000000', 'hex');

type Written = { member: TarMember; body: Buffer };

const file = (name: string | Buffer, fields: Partial<TarMember> = {}): Written => {
  const body = Buffer.from(`body of ${String(name).slice(-20)}`);
  const from = typeof name === 'string' ? bytes(name) : name;
  return { member: { ...NONE, name: from, type: 'file', mode: 0o644, size: body.length, ...fields }, body };
};
const other = (name: string, type: TarMember['type'], fields: Partial<TarMember> = {}): Written => ({
  member: { ...NONE, name: bytes(name), type, mode: type === 'symlink' ? 0o777 : 0o755, ...fields },
  body: Buffer.alloc(0),
});

const deep = `${'p'.repeat(200)}/`.repeat(14);
const directoriesOfDeep = Array.from({ length: 14 }, (_, at) => other(deep.slice(0, 201 * (at + 1)), 'directory'));

/** Everything that is hard to carry. A directory comes before what is in it. */
const WRITTEN: readonly Written[] = [
  file('plain'),
  file('n'.repeat(100)),
  file('n'.repeat(101)),
  file('n'.repeat(255)),
  file(Buffer.from('é'.repeat(127))),
  file('\xff\xfe short'),
  file(`\xff\xfe ${'long'.repeat(50)}`),
  file('new\nline'),
  file(`new\nline ${'long'.repeat(50)}`),
  file('-rf'),
  file('back\\slash'),
  file(' blanks '),
  file('\x1b[31mred\x7f'),
  file('late', { mtimeSec: 8 ** 11 }),
  file('early', { mtimeSec: -1000 }),
  file('owned', { uid: 3_000_000, gid: 2 ** 31 + 5 }),
  file('xattr', { xattrs: [{ name: bytes('user.binary'), value: bytes('\x00\xff\n=\n10 path=x\n\x00') }] }),
  file('setuid', { mode: 0o4755 }),
  other('dir/', 'directory', { mode: 0o1777 }),
  file('dir/file'),
  ...directoriesOfDeep,
  file(`${deep}deep`),
  other('link', 'symlink', { linkName: bytes('plain') }),
  other('long link', 'symlink', { linkName: bytes('t'.repeat(300)) }),
  other('odd link', 'symlink', { linkName: bytes(`\xff\n${'t'.repeat(300)}`) }),
  other('hard', 'hardlink', { linkName: bytes('plain'), mode: 0o644 }),
  other('hard of long', 'hardlink', { linkName: bytes('n'.repeat(255)), mode: 0o644 }),
  other('fifo', 'fifo', { mode: 0o600 }),
];

const tarOfAll = Buffer.concat([...WRITTEN.flatMap(({ member, body }) => [encodeEntry(member), body, padding(body.length)]), endOfArchive]);

/** What a tree must look like, by hexadecimal name. */
const WANTED = Object.fromEntries(
  WRITTEN.map(({ member, body }) => {
    const source = member.type === 'hardlink' ? WRITTEN.find((one) => one.member.name.equals(member.linkName)) : undefined;
    return [hexName(member.name), treeEntry(source?.member ?? member, source?.body ?? body)];
  }),
);

const EXTRACTORS: Record<string, (tar: string, dir: string) => [program: string, args: string[]]> = {
  tar: (tar, dir) => ['tar', ['--xattrs', '--xattrs-include=*', '-xpf', tar, '-C', dir]],
  bsdtar: (tar, dir) => ['bsdtar', ['--xattrs', '-xpf', tar, '-C', dir]],
  python3: (tar, dir) => [
    'python3',
    ['-c', 'import sys, tarfile\nwith tarfile.open(sys.argv[1]) as tar: tar.extractall(sys.argv[2], numeric_owner=True)', tar, dir],
  ],
};

for (const [judge, command] of Object.entries(EXTRACTORS)) {
  for (const locale of ['C', 'C.UTF-8']) {
    t.test(`encodeEntry() is read back byte by byte by ${judge} in locale ${locale}`, (t) => {
      if (!requires(t, judge)) return;
      inTempDir((dir) => {
        const tar = path.join(dir, 'a.tar');
        const tree = path.join(dir, 'tree');
        writeFileSync(tar, tarOfAll);
        mkdirSync(tree);
        const [program, args] = command(tar, tree);
        run(t, program, args, locale);
        t.same(withoutLinkTimes(readTree(tree), judge), withoutLinkTimes(WANTED, judge));
        // Python's tarfile has no attributes.
        if (judge !== 'python3') t.equal(userXattr(tree, 'xattr'), '00ff0a3d0a313020706174683d780a00');
      });
      t.end();
    });
  }
}

t.test('encodeEntry() is read back byte by byte by umoci, which reads as Go does', (t) => {
  if (!requires(t, 'umoci', 'root')) return;
  inTempDir((dir) => {
    const tar = path.join(dir, 'a.tar');
    const capable = file('capable', { xattrs: [{ name: bytes('security.capability'), value: CAPABILITY }] });
    // A capability survives a change of owner only when it is set after it, which is umoci's part.
    writeFileSync(tar, Buffer.concat([encodeEntry(capable.member), capable.body, padding(capable.body.length), tarOfAll]));
    const image = `${dir}/oci:t`;
    run(t, 'umoci', ['init', '--layout', `${dir}/oci`]);
    run(t, 'umoci', ['new', '--image', image]);
    run(t, 'umoci', ['raw', 'add-layer', '--image', image, tar]);
    run(t, 'umoci', ['raw', 'unpack', '--image', image, `${dir}/tree`]);
    const { [hexName(bytes('capable'))]: capableEntry, ...tree } = readTree(`${dir}/tree`);
    t.match(capableEntry, { mode: 0o100644 });
    t.same(tree, WANTED);
    t.equal(userXattr(`${dir}/tree`, 'xattr'), '00ff0a3d0a313020706174683d780a00');
    t.equal(userXattr(`${dir}/tree`, 'capable', 'security.capability'), CAPABILITY.toString('hex'));
  });
  t.end();
});

t.test('encodeEntry() gives tarfile of Python every number', (t) => {
  if (!requires(t, 'python3')) return;
  const devices = [other('char', 'char', { devMajor: 4095, devMinor: 2 ** 20 - 1 }), other('block', 'block', { devMajor: 8, devMinor: 1 })];
  const huge = [
    file('id', { size: 0, uid: 2 ** 32 - 2, gid: 2 ** 32 - 2 }),
    file('old', { size: 0, mtimeSec: -(2 ** 40) }),
    file('new', { size: 0, mtimeSec: 2 ** 40 }),
    file('mode', { size: 0, mode: 0o7777 }),
  ];
  const members = [...devices, ...huge].map((one) => one.member);
  const script = `import sys, tarfile, io, json
tar = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))
print(json.dumps([[m.name, m.type.decode(), m.mode, m.uid, m.gid, m.size, int(m.mtime), m.devmajor, m.devminor] for m in tar]))`;
  const input = Buffer.concat([...members.map((one) => encodeEntry(one)), endOfArchive]);
  const result = spawnSync('python3', ['-c', script], { input });
  const typeflags: Record<string, string> = { char: '3', block: '4', file: '0' };
  const want = members.map((m) => [m.name.toString(), typeflags[m.type], m.mode, m.uid, m.gid, m.size, m.mtimeSec, m.devMajor, m.devMinor]);
  t.same(JSON.parse(result.stdout.toString()), want);
  t.end();
});

t.test('encodeEntry() of a file of 8 GiB and more is listed with its size', (t) => {
  if (!requires(t, 'tar', 'bsdtar', 'python3')) return;
  const size = 8 ** 11 + 1;
  const input = encodeEntry({ ...NONE, name: bytes('huge'), type: 'file', mode: 0o644, size });
  const python = 'import sys, tarfile\nprint(tarfile.open(fileobj=sys.stdin.buffer, mode="r|").next().size)';
  // The body is missing, so the programs end in an error behind the listing.
  t.match(spawnSync('tar', ['-tv'], { input }).stdout.toString(), ` ${size} `);
  t.match(spawnSync('bsdtar', ['-tvf', '-'], { input }).stdout.toString(), ` ${size} `);
  t.equal(spawnSync('python3', ['-c', python], { input }).stdout.toString(), `${size}\n`);
  t.end();
});

t.test('TarReader reads what other programs write', (t) => {
  if (!requires(t, 'tar', 'bsdtar', 'python3')) return;
  inTempDir((dir) => {
    const names = ['a', 'n'.repeat(150), `${'d'.repeat(120)}/${'f'.repeat(120)}`, 'é'.repeat(60), 'link'];
    mkdirSync(path.join(dir, 'd'.repeat(120)));
    for (const name of names.slice(0, 4)) writeFileSync(path.join(dir, name), name);
    spawnSync('ln', ['-s', 't'.repeat(150), 'link'], { cwd: dir });
    spawnSync('touch', ['-d', '2020-01-01T00:00:00.25Z', 'a'], { cwd: dir });
    const python = (format: string): string[] => [
      'python3',
      '-c',
      `import sys, tarfile\ntar = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.${format})\nfor n in sys.argv[1:]: tar.add(n)\ntar.close()`,
    ];
    const writers: [string, string[]][] = [
      ...['gnu', 'oldgnu', 'posix'].map((format): [string, string[]] => [
        `GNU tar, ${format}`,
        ['tar', `--format=${format}`, '-cf-', '--'],
      ]),
      ...['pax', 'gnutar', 'paxr'].map((format): [string, string[]] => [
        `bsdtar, ${format}`,
        ['bsdtar', `--format=${format}`, '-cf-', '--'],
      ]),
      ['Python, GNU', python('GNU_FORMAT')],
      ['Python, PAX', python('PAX_FORMAT')],
    ];
    for (const [what, [program = '', ...args]] of writers) {
      const result = spawnSync(program, [...args, ...names], { cwd: dir, env: { ...process.env, LC_ALL: 'C.UTF-8' } });
      const found = readTar(result.stdout).map(({ entry, body }) => [entry.name.toString(), body.toString(), entry.linkName.toString()]);
      t.same(found, [...names.slice(0, 4).map((name) => [name, name, '']), ['link', '', 't'.repeat(150)]], what);
      const [first] = readTar(result.stdout);
      t.equal(first?.entry.mtimeSec, 1577836800, what);
      if (/posix|pax$|PAX/.test(what)) t.equal(first?.entry.mtimeNsec, 250000000, what);
    }
  });
  t.end();
});

t.test('A18 A19 TarReader sees in archives with PAX sizes what GNU tar, bsdtar and tarfile see', (t) => {
  if (!requires(t, 'tar', 'bsdtar', 'python3')) return;
  const inner = member({ name: 'smuggled' }, 'evil');
  const block = (text: string): Buffer => Buffer.from(text.padEnd(512, '\0'));
  const sized = (size: number): Buffer => pax([['size', String(size)]]);
  const long = 'n'.repeat(200);
  const rows: [string, Buffer][] = [
    ['header 0, PAX a member', archive(sized(1024), header({ name: 'outer', size: 0 }), inner)],
    ['header a member, PAX 0', archive(sized(0), header({ name: 'outer', size: 1024 }), inner)],
    ['header small, PAX large', archive(sized(1030), header({ name: 'outer', size: 4 }), inner, block('tail'))],
    ['header large, PAX small', archive(sized(4), header({ name: 'outer', size: 1030 }), block('body'), inner)],
    [
      'the next member is untouched',
      archive(sized(4), header({ name: 'outer', size: 0 }), block('body'), member({ name: 'next' }, 'NEXT')),
    ],
    ['a long name between', archive(sized(4), gnuLong('L', long), header({ magic: GNU, size: 0 }), block('body'), inner)],
    ['a long name before', archive(gnuLong('L', long), sized(4), header({ magic: GNU, size: 0 }), block('body'), inner)],
    ['a link', archive(sized(0), header({ name: 'l', type: '2', linkName: 'x' }), inner)],
  ];
  const names = 'import sys, tarfile, io\ntar = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))\n';
  const python = `${names}print(" ".join(m.name + ":" + (tar.extractfile(m).read().decode("latin1") if m.isreg() else "") for m in tar), end="")`;
  for (const [what, input] of rows) {
    const ours = readTar(input);
    const listing = ours.map(({ entry }) => `${entry.name.toString('latin1')}\n`).join('');
    const bodies = Buffer.concat(ours.map(({ body }) => body)).toString('latin1');
    for (const [program, list, extract] of [
      ['tar', ['-tf', '-'], ['-xOf', '-']],
      ['bsdtar', ['-tf', '-'], ['-xOf', '-']],
    ] as const) {
      t.equal(spawnSync(program, list, { input }).stdout.toString('latin1'), listing, `${what}: names of ${program}`);
      t.equal(spawnSync(program, extract, { input }).stdout.toString('latin1'), bodies, `${what}: bodies of ${program}`);
    }
    t.equal(spawnSync('python3', ['-c', python], { input }).stdout.toString('utf8'), outcomeOf(input), `${what}: tarfile`);
  }
  t.end();
});

type TreeEntry = { mode: number; mtimeSec: number; owner: string; content: string };

function treeEntry(member: TarMember, body: Buffer): TreeEntry {
  const kinds: Record<TarMember['type'], number> = {
    file: 0o100000,
    hardlink: 0o100000,
    symlink: 0o120000,
    char: 0o020000,
    block: 0o060000,
    directory: 0o040000,
    fifo: 0o010000,
  };
  return {
    mode: kinds[member.type] | member.mode,
    // What is put into a directory changes its time, and not every program sets it again.
    mtimeSec: member.type === 'directory' ? 0 : member.mtimeSec,
    owner: isRoot ? `${member.uid}:${member.gid}` : '',
    content: (member.type === 'symlink' ? member.linkName : body).toString('latin1'),
  };
}

function hexName(name: Buffer): string {
  return (name.at(-1) === 0x2f ? name.subarray(0, -1) : name).toString('hex');
}

/** tarfile of Python leaves the times of symlinks as they come. */
function withoutLinkTimes(tree: Record<string, TreeEntry>, judge: string): Record<string, TreeEntry> {
  if (judge !== 'python3') return tree;
  const isLink = ({ mode }: TreeEntry): boolean => mode === 0o120777;
  return Object.fromEntries(Object.entries(tree).map(([name, entry]) => [name, isLink(entry) ? { ...entry, mtimeSec: 0 } : entry]));
}

/** The tree below a directory as {@link WANTED} describes it. */
function readTree(root: string): Record<string, TreeEntry> {
  const found: Record<string, TreeEntry> = {};
  const visit = (dir: Buffer, prefix: Buffer): void => {
    for (const name of readdirSync(dir, { encoding: 'buffer' })) {
      const full = Buffer.concat([dir, bytes('/'), name]);
      const stat = lstatSync(full);
      const relative = Buffer.concat([prefix, name]);
      const content = stat.isFile()
        ? readFileSync(full)
        : stat.isSymbolicLink()
          ? readlinkSync(full, { encoding: 'buffer' })
          : Buffer.alloc(0);
      found[relative.toString('hex')] = {
        mode: stat.mode,
        mtimeSec: stat.isDirectory() ? 0 : Math.floor(stat.mtimeMs / 1000),
        owner: isRoot ? `${stat.uid}:${stat.gid}` : '',
        content: content.toString('latin1'),
      };
      if (stat.isDirectory()) visit(full, Buffer.concat([relative, bytes('/')]));
    }
  };
  visit(bytes(root), Buffer.alloc(0));
  return found;
}

function userXattr(tree: string, name: string, attribute = 'user.binary'): string {
  const script = 'import os, sys\nprint(os.getxattr(sys.argv[1], sys.argv[2]).hex(), end="")';
  const result = spawnSync('python3', ['-c', script, path.join(tree, name), attribute]);
  return result.stdout.toString() + result.stderr.toString();
}

function run(t: Test, program: string, args: string[], locale = 'C.UTF-8'): void {
  const result = spawnSync(program, args, { env: { ...process.env, LC_ALL: locale }, timeout: 60_000 });
  // With warnings bsdtar ends in 1; every name, byte and number is compared after this.
  t.ok(result.status === 0 || (program === 'bsdtar' && result.status === 1), `${program} ${args[0]}: ${result.stderr.toString()}`);
}

function inTempDir(work: (dir: string) => void): void {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'rootlayer-tar-'));
  try {
    chmodSync(dir, 0o700);
    work(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
