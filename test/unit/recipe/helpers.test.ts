import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { writeTree } from '../../../src/recipe/helpers/directory.ts';
import { binSh, caCertificates, usrBinEnv } from '../../../src/recipe/helpers/links.ts';
import { mergeDrvs } from '../../../src/recipe/helpers/merge-drvs.ts';
import { fakeNss } from '../../../src/recipe/helpers/nss.ts';
import { shadowSetup } from '../../../src/recipe/helpers/shadow-setup.ts';
import { Tree } from '../../../src/recipe/tree/tree.ts';
import { quietContext } from '../../helpers/tiny-store.ts';

t.test('fakeNss() has root and nobody, with more lines between them', async (t) => {
  const found = shown(fakeNss({ extraPasswdLines: ['a:x:1:1::/:/bin/sh'], extraGroupLines: ['a:x:1:'] }));
  t.strictSame(found, {
    etc: 'directory 755',
    'etc/group': 'root:x:0:\na:x:1:\nnobody:x:65534:\n',
    'etc/nsswitch.conf': 'hosts: files dns\n',
    'etc/passwd': 'root:x:0:0:root user:/var/empty:/bin/sh\na:x:1:1::/:/bin/sh\nnobody:x:65534:65534:nobody:/var/empty:/bin/sh\n',
    var: 'directory 755',
    'var/empty': 'directory 755',
  });
  t.throws(() => fakeNss({ extraPasswdLines: ['a\nb'] }), {
    code: 'E_RECIPE',
    message: 'Cannot use recipe: /extraPasswdLines/0: want one line',
  });
});

t.test('binSh() and usrBinEnv() are links to what the image has', async (t) => {
  t.strictSame(shown(binSh({ bash: '/nix/store/x-bash/bin/bash' })), { bin: 'directory 755', 'bin/sh': '-> /nix/store/x-bash/bin/bash' });
  t.strictSame(shown(usrBinEnv({ coreutils: '/nix/store/x' }))['usr/bin/env'], '-> /nix/store/x/bin/env');
  t.throws(() => usrBinEnv({ coreutils: '/usr' }), { code: 'E_RECIPE', message: /would lead to itself/ });
  t.throws(() => binSh({ bash: 'bash' }), { code: 'E_RECIPE', message: 'Cannot use recipe: /bash: want an absolute path' });
});

t.test('caCertificates() has the bundle at three places', async (t) => {
  const linked = shown(caCertificates({ bundle: '/nix/store/x/ca.crt' }));
  const places = ['etc/pki/tls/certs/ca-bundle.crt', 'etc/ssl/certs/ca-bundle.crt', 'etc/ssl/certs/ca-certificates.crt'];
  t.strictSame(
    places.map((place) => linked[place]),
    places.map(() => '-> /nix/store/x/ca.crt'),
  );
  const dir = temporary(t);
  writeFileSync(path.join(dir, 'real.crt'), 'a certificate\n');
  symlinkSync('real.crt', path.join(dir, 'link.crt'));
  await writeTree(caCertificates({ source: path.join(dir, 'link.crt') }), made(dir, 'own'), signal());
  t.equal(readFileSync(path.join(dir, 'own/etc/ssl/certs/ca-certificates.crt'), 'utf8'), 'a certificate\n');
  t.equal(readlinkSync(path.join(dir, 'own/etc/pki/tls/certs/ca-bundle.crt')), '/etc/ssl/certs/ca-certificates.crt');
  t.throws(() => caCertificates({ source: '/none' }), { code: 'E_RECIPE', message: /^Cannot use recipe: \/source: "\/none": ENOENT/ });
  t.throws(() => caCertificates({ source: dir }), { code: 'E_RECIPE', message: /^Cannot use recipe: \/source: .*: it is no file/ });
});

t.test('shadowSetup() makes what is missing, and leaves shadow alone where there is a passwd', async (t) => {
  const dir = temporary(t);
  const run = (root: string): void => {
    const script = shadowSetup({ shell: '/bin/bash' }).replaceAll('/etc/', `${root}/etc/`);
    execFileSync('bash', ['-e', '-c', script]);
  };
  const empty = made(dir, 'empty');
  run(empty);
  run(empty);
  t.equal(readFileSync(`${empty}/etc/passwd`, 'utf8'), 'root:x:0:0::/root:/bin/bash\n');
  t.equal(readFileSync(`${empty}/etc/shadow`, 'utf8'), 'root:!x:::::::\n');
  t.equal(readFileSync(`${empty}/etc/group`, 'utf8'), 'root:x:0:\n');
  t.equal(readFileSync(`${empty}/etc/gshadow`, 'utf8'), 'root:x::\n');
  t.equal(
    readFileSync(`${empty}/etc/pam.d/other`, 'utf8'),
    'account sufficient pam_unix.so\nauth sufficient pam_rootok.so\npassword requisite pam_unix.so nullok yescrypt\nsession required pam_unix.so\n',
  );
  t.equal(readFileSync(`${empty}/etc/login.defs`, 'utf8'), '');
  const full = made(dir, 'full');
  mkdirSync(`${full}/etc`);
  writeFileSync(`${full}/etc/passwd`, 'mine\n');
  run(full);
  t.equal(readFileSync(`${full}/etc/passwd`, 'utf8'), 'mine\n');
  t.throws(() => lstatSync(`${full}/etc/shadow`), { code: 'ENOENT' });
  t.throws(() => shadowSetup({ shell: '/bin/$(id)' }), { code: 'E_RECIPE' });
});

t.test('mergeDrvs() merges directories and archives, the later over the earlier', async (t) => {
  const dir = temporary(t);
  const first = made(dir, 'first');
  mkdirSync(`${first}/bin`);
  writeFileSync(`${first}/bin/tool`, 'first');
  writeFileSync(`${first}/.hidden`, 'h', { mode: 0o600 });
  symlinkSync('tool', `${first}/bin/link`);
  const second = made(dir, 'second');
  mkdirSync(`${second}/bin`);
  writeFileSync(`${second}/bin/tool`, 'second');
  chmodSync(`${second}/bin/tool`, 0o755);
  for (const [name, flag] of [
    ['plain.tar', '-c'],
    ['packed.tar.gz', '-cz'],
  ] as const) {
    const from = made(dir, name.slice(0, 5));
    writeFileSync(`${from}/${name.slice(0, 5)}.txt`, name);
    execFileSync('tar', [`${flag}f`, path.join(dir, name), '-C', from, '.']);
  }
  const derivations = [first, second, path.join(dir, 'plain.tar'), path.join(dir, 'packed.tar.gz')];
  await using merged = await mergeDrvs({ derivations }, quietContext());
  const tree = merged.kind === 'tree' ? merged.tree : new Tree();
  await writeTree(tree, made(dir, 'out'), signal());
  const out = path.join(dir, 'out');
  t.equal(readFileSync(`${out}/bin/tool`, 'utf8'), 'second');
  t.equal(lstatSync(`${out}/bin/tool`).mode & 0o777, 0o755);
  t.equal(lstatSync(`${out}/.hidden`).mode & 0o777, 0o600);
  t.equal(readlinkSync(`${out}/bin/link`), 'tool');
  t.equal(readFileSync(`${out}/plain.txt`, 'utf8'), 'plain.tar');
  t.equal(readFileSync(`${out}/packe.txt`, 'utf8'), 'packed.tar.gz');
});

t.test('mergeDrvs() waits for no pipe, and reads no device', async (t) => {
  const pipe = path.join(temporary(t), 'pipe');
  execFileSync('mkfifo', [pipe]);
  for (const name of [pipe, '/dev/null']) {
    await t.rejects(mergeDrvs({ derivations: [name] }, quietContext()), {
      code: 'E_RECIPE',
      message: `Cannot use recipe: /derivations/0: "${name}": it is a device, pipe or socket, want a directory or an archive`,
    });
  }
});

t.test('writeTree() keeps hard links: many links to a large file take its room once', async (t) => {
  const dir = temporary(t);
  const from = made(dir, 'from');
  writeFileSync(`${from}/a`, 'x');
  for (const name of ['b', 'c']) linkSync(`${from}/a`, `${from}/${name}`);
  execFileSync('tar', ['-cf', path.join(dir, 'a.tar'), '-C', from, '.']);
  await using merged = await mergeDrvs({ derivations: [path.join(dir, 'a.tar')] }, quietContext());
  await writeTree(merged.kind === 'tree' ? merged.tree : new Tree(), made(dir, 'out'), signal());
  const inodes = ['a', 'b', 'c'].map((name) => lstatSync(path.join(dir, 'out', name)).ino);
  t.equal(new Set(inodes).size, 1);
});

t.test('writeTree() makes no set-id programs: an archive may be of somebody else', async (t) => {
  const dir = temporary(t);
  const from = made(dir, 'from');
  writeFileSync(`${from}/tool`, 'x');
  chmodSync(`${from}/tool`, 0o6755);
  chmodSync(from, 0o755);
  made(from, 'shared');
  chmodSync(`${from}/shared`, 0o3775);
  execFileSync('tar', ['-cf', path.join(dir, 'a.tar'), '-C', from, '.']);
  await using merged = await mergeDrvs({ derivations: [path.join(dir, 'a.tar')] }, quietContext());
  const tree = merged.kind === 'tree' ? merged.tree : new Tree();
  t.equal(tree.lookup(Buffer.from('tool'))?.mode, 0o6755);
  await writeTree(tree, made(dir, 'out'), signal());
  t.equal(lstatSync(path.join(dir, 'out/tool')).mode & 0o7777, 0o755);
  t.equal(lstatSync(path.join(dir, 'out/shared')).mode & 0o7777, 0o1775);
});

t.test('mergeDrvs() gives the list alone with onlyDeps, and names what is not there', async (t) => {
  await using list = await mergeDrvs({ derivations: ['/a', '/b'], onlyDeps: true }, quietContext());
  t.match(list, { kind: 'text', text: '/a /b\n' });
  await t.rejects(mergeDrvs({ derivations: [temporary(t), '/no/such'] }, quietContext()), {
    code: 'E_RECIPE',
    message: 'Cannot use recipe: /derivations/1: "/no/such": there is no such file or directory',
  });
});

/** What is in a tree: texts, links, and directories with their modes. */
function shown(tree: Tree): Record<string, string> {
  const entries = [...tree.entries()].filter(({ path: at }) => at.length > 0);
  return Object.fromEntries(
    entries.map(({ path: at, node }) => {
      if (node.type === 'symlink') return [at.toString(), `-> ${node.target.toString()}`];
      if (node.type === 'file' && node.source.kind === 'bytes') return [at.toString(), node.source.bytes.toString()];
      return [at.toString(), `${node.type} ${node.mode.toString(8)}`];
    }),
  );
}

function temporary(t: Test): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'helpers-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

function made(dir: string, name: string): string {
  mkdirSync(path.join(dir, name));
  return path.join(dir, name);
}

function signal(): AbortSignal {
  return new AbortController().signal;
}
