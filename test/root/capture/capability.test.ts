import t from 'tap';
import { toRevision2 } from '../../../src/capture/capability.ts';

const REVISION_2 = Buffer.from('0100000200040000000000000000000001000000', 'hex');

t.test('toRevision2() keeps a value of revision 2', (t) => {
  t.strictSame(toRevision2(REVISION_2), REVISION_2);
  t.end();
});

t.test('toRevision2() takes the root id off a value of revision 3 when it is 0', (t) => {
  t.strictSame(toRevision2(Buffer.from('010000030004000000000000000000000100000000000000', 'hex')), REVISION_2);
  t.end();
});

t.test('toRevision2() widens a value of revision 1', (t) => {
  t.strictSame(toRevision2(Buffer.from('010000010004000002000000', 'hex')), Buffer.from('0100000200040000020000000000000000000000', 'hex'));
  t.end();
});

t.test('toRevision2() gives null for what the kernel would not read, or reads for another user namespace', (t) => {
  const bad = {
    empty: '',
    short: '010000',
    'revision 2 cut': '01000002000400000000000000000000010000',
    'revision 2 with more': '010000020004000000000000000000000100000000',
    'revision 3 of revision 2 length': '0100000300040000000000000000000001000000',
    'revision 4': '010000040004000000000000000000000100000000000000',
    'unknown flag': '0300000200040000000000000000000001000000',
    'root id 100000': '0100000300040000000000000000000001000000a0860100',
    'root id 2^32-1': '0100000300040000000000000000000001000000ffffffff',
  };
  for (const [name, hex] of Object.entries(bad)) t.equal(toRevision2(Buffer.from(hex, 'hex')), null, name);
  t.end();
});
