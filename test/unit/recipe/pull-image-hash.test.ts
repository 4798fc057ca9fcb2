import { createHash } from 'node:crypto';
import t from 'tap';
import { checkHash, parseSha256, sriOf } from '../../../src/recipe/archive/pull-hash.ts';

const EMPTY = createHash('sha256').digest();
const NIX = '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73';
const SRI = 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=';

t.test('parseSha256() reads hex, base 32 of Nix and base 64, with and without a prefix', async (t) => {
  const hex = EMPTY.toString('hex');
  for (const text of [hex, hex.toUpperCase(), `sha256:${hex}`, NIX, `sha256:${NIX}`, SRI, SRI.slice(7), SRI.slice(7, -1)]) {
    t.same(parseSha256(text), EMPTY, text);
  }
});

t.test('parseSha256() gives null for anything else', async (t) => {
  const wrong = ['', 'x', '0'.repeat(63), `sha512-${'A'.repeat(86)}==`, NIX.replace('0', 'e'), `z${NIX.slice(1)}`, `md5:${'0'.repeat(32)}`];
  for (const text of wrong) t.equal(parseSha256(text), null, text);
});

t.test('sriOf() gives base 64 with padding', async (t) => {
  t.equal(sriOf(EMPTY), SRI);
});

t.test('checkHash() names both hashes', async (t) => {
  checkHash('a', EMPTY, Buffer.from(EMPTY));
  t.throws(() => checkHash('a', EMPTY, Buffer.alloc(32)), { code: 'E_DIGEST', message: /has the hash sha256-47DE.*, want sha256-AAAA/ });
});
