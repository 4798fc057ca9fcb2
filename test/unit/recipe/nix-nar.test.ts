import { execFileSync } from 'node:child_process';
import t from 'tap';
import { narHashHex, narSumOf } from '../../../src/recipe/nix/nar.ts';
import { requires } from '../../helpers/requires.ts';
import { makeTinyStore, PATHS } from '../../helpers/tiny-store.ts';

const HEX = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';

t.test('narSumOf() is what nix-hash and nix-store --dump say', async (t) => {
  if (!requires(t, 'nix-hash', 'nix-store')) return;
  const store = makeTinyStore(t);
  for (const [name, path] of Object.entries(PATHS)) {
    const at = store.root + path;
    const hash = execFileSync('nix-hash', ['--type', 'sha256', at], { encoding: 'utf8' }).trim();
    const { length } = execFileSync('nix-store', ['--dump', at]);
    t.strictSame(narSumOf(Buffer.from(at)), { hex: hash, sizeBytes: length }, name);
  }
});

t.test('narHashHex() reads the three spellings of a hash', async (t) => {
  t.equal(narHashHex(`sha256:${HEX}`), HEX);
  t.equal(narHashHex('sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='), HEX);
  t.equal(narHashHex('sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s'), HEX);
});

t.test('narHashHex() refuses other hashes', async (t) => {
  for (const text of ['', HEX, `sha512:${HEX}`, `sha256:${HEX.slice(1)}`, 'sha256-abc=', `sha256:${'e'.repeat(52)}`]) {
    t.throws(() => narHashHex(text), { code: 'E_RECIPE', message: /is none of sha256$/ }, text);
  }
});
