import t from 'tap';
import { digestOf, hexOf, isDigest, parseDigest } from '../../../src/core/digest.ts';

const HEX = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

t.test('parseDigest() takes sha256 with 64 lower-case hex digits, and hexOf() gives these', (t) => {
  t.equal(parseDigest(`sha256:${HEX}`), `sha256:${HEX}`);
  t.equal(hexOf(parseDigest(`sha256:${HEX}`)), HEX);
  t.equal(digestOf(Buffer.from(HEX, 'hex')), `sha256:${HEX}`);
  t.equal(digestOf(HEX), `sha256:${HEX}`);
  t.end();
});

const MALFORMED: Record<string, string> = {
  empty: '',
  'no algorithm': HEX,
  'upper-case hex': `sha256:${HEX.toUpperCase()}`,
  'one digit short': `sha256:${HEX.slice(1)}`,
  'one digit long': `sha256:${HEX}0`,
  'a path': 'sha256:../../../etc/shadow',
  'a path of the right length': `sha256:${'../'.repeat(22).slice(0, 64)}`,
  'another algorithm': `sha512:${HEX}${HEX}`,
  'upper-case algorithm': `SHA256:${HEX}`,
  'a line break at the end': `sha256:${HEX}\n`,
  'a space': ` sha256:${HEX}`,
  'a NUL byte': `sha256:${HEX.slice(1)}\0`,
  'full-width digits': `sha256:${'\uff10'.repeat(64)}`,
  'two colons': `sha256::${HEX}`,
  'a slash': `sha256/${HEX}`,
};

for (const [what, text] of Object.entries(MALFORMED)) {
  t.test(`A52 parseDigest() refuses ${what}`, (t) => {
    t.throws(() => parseDigest(text), { code: 'E_REF' });
    t.notOk(isDigest(text));
    t.end();
  });
}
