import t from 'tap';
import { DetachKeys } from '../../../src/cli/terminal-keys.ts';

/** What comes of pieces that are typed one after another. */
function typed(...pieces: string[]): [string, boolean][] {
  const keys = new DetachKeys();
  return pieces.map((piece) => {
    const { bytes, isDetach } = keys.push(Buffer.from(piece, 'latin1'));
    return [bytes.toString('latin1'), isDetach];
  });
}

t.test('DetachKeys finds ctrl-p ctrl-q, in one piece or in two, and drops what is behind it', (t) => {
  t.same(typed('ab\x10\x11cd'), [['ab', true]]);
  t.same(typed('a\x10', '\x11'), [
    ['a', false],
    ['', true],
  ]);
  t.same(typed('\x10\x10\x11'), [['\x10', true]]);
  t.end();
});

t.test('DetachKeys passes all else on, a lone ctrl-p with the next key', (t) => {
  t.same(typed('a\x11\x00\xff'), [['a\x11\x00\xff', false]]);
  t.same(typed('\x10', 'x', '\x11'), [
    ['', false],
    ['\x10x', false],
    ['\x11', false],
  ]);
  t.same(typed('\x10\x10', '\x10', 'y'), [
    ['\x10', false],
    ['\x10', false],
    ['\x10y', false],
  ]);
  t.end();
});
