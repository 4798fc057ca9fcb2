import t from 'tap';
import { digestOf } from '../../../src/core/digest.ts';
import { canonicalImageName, formatImageRef, parseImageName, parseImageRef, splitImageName } from '../../../src/core/reference.ts';

const DIGEST = digestOf('a'.repeat(64));

t.test('parseImageName() gives one spelling of a name', async (t) => {
  const rows: [string, string][] = [
    ['debian', 'debian:latest'],
    ['debian:bookworm', 'debian:bookworm'],
    ['library/debian:bookworm', 'library/debian:bookworm'],
    ['docker.io/debian:12', 'debian:12'],
    ['docker.io/library/debian:12', 'debian:12'],
    ['index.docker.io/library/debian:12', 'debian:12'],
    ['docker.io/bitnami/redis:7', 'bitnami/redis:7'],
    ['docker.io/library/a/b:1', 'library/a/b:1'],
    ['registry.example/team/app:v1.2-rc_3', 'registry.example/team/app:v1.2-rc_3'],
    ['registry.example:5000/app', 'registry.example:5000/app:latest'],
    ['localhost/app:1', 'localhost/app:1'],
    ['localhost:5000/app:1', 'localhost:5000/app:1'],
    ['[::1]:5000/app:1', '[::1]:5000/app:1'],
    ['HOST/app:1', 'HOST/app:1'],
    ['a__b/c-d---e/f.g_h:T', 'a__b/c-d---e/f.g_h:T'],
    [`a:${'t'.repeat(128)}`, `a:${'t'.repeat(128)}`],
  ];
  for (const [text, name] of rows) t.equal(parseImageName(text), name, text);
});

t.test('parseImageName() refuses what is no name', async (t) => {
  const rows = [
    ...[
      '',
      ':tag',
      'a:',
      'A',
      'a/B',
      'a//b',
      '/a',
      'a/',
      '-a',
      'a-',
      'a..b',
      'a___b',
      'a:b:c',
      'a:-t',
      'a:.t',
      'a b',
      'a\n',
      'é',
      '../a',
      'a/../b',
    ],
    ...[
      'a@b',
      'a:t@sha256:00',
      '-host.example/a',
      'host:999999/a',
      `${'a'.repeat(256)}`,
      `a:${'t'.repeat(129)}`,
      'a'.repeat(64),
      'sha256:abc/x',
    ],
  ];
  for (const text of rows) t.throws(() => parseImageName(text), { code: 'E_REF' }, JSON.stringify(text));
});

t.test('splitImageName() gives name and tag apart', async (t) => {
  t.same(splitImageName('registry.example:5000/a/b:c'), { name: 'registry.example:5000/a/b', tag: 'c' });
});

t.test('canonicalImageName() writes registry and library out', async (t) => {
  t.equal(canonicalImageName('debian:12'), 'docker.io/library/debian:12');
  t.equal(canonicalImageName('bitnami/redis:7'), 'docker.io/bitnami/redis:7');
  t.equal(canonicalImageName('registry.example/a:1'), 'registry.example/a:1');
});

t.test('parseImageRef() tells names, digests and scratch apart', async (t) => {
  t.same(parseImageRef('scratch'), { kind: 'scratch' });
  t.same(parseImageRef(DIGEST), { kind: 'digest', digest: DIGEST });
  t.same(parseImageRef('debian'), { kind: 'name', name: 'debian:latest' });
  for (const text of ['scratch', DIGEST, 'debian:12']) t.equal(formatImageRef(parseImageRef(text)), text);
});

t.test('parseImageRef() refuses malformed digests (A52)', async (t) => {
  const hex = 'a'.repeat(64);
  const rows = [
    ...[
      'sha256:',
      'sha256:../../x',
      `sha256:${hex.slice(1)}`,
      `sha256:${hex}0`,
      `sha256:${hex.toUpperCase()}`,
      `sha256:${hex}\n`,
      `sha256: ${hex}`,
    ],
    ...[`SHA256:${hex}`, `sha256:${hex}/x`, `sha256:../${hex}`, `sha256:${'g'.repeat(64)}`, `sha256:0x${hex.slice(2)}`],
    ...[`sha256:${hex}:${hex}`, `sha256:${hex}@x`, `\u0000sha256:${hex}`, `sha256%3A${hex}`, ':'],
  ];
  for (const text of rows) t.throws(() => parseImageRef(text), { code: 'E_REF' }, JSON.stringify(text));
});
