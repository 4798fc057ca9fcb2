import t from 'tap';
import { LineNotes } from '../../../src/recipe/script/engine-job-notes.ts';

function notesOf(...pieces: ['stdout' | 'stderr', string | Buffer][]): string[] {
  const lines: string[] = [];
  const notes = new LineNotes((line) => lines.push(line));
  for (const [stream, text] of pieces) notes.add(stream, Buffer.from(text));
  notes.end();
  return lines;
}

t.test('LineNotes gives whole lines, each stream on its own, and the rest at the end', async (t) => {
  t.same(notesOf(['stdout', 'one\ntw'], ['stderr', 'err\n'], ['stdout', 'o\n\nlast']), ['one', 'err', 'two', '', 'last']);
});

t.test('LineNotes joins a character that came in two pieces', async (t) => {
  const bytes = Buffer.from('ü\n');
  t.same(notesOf(['stdout', bytes.subarray(0, 1)], ['stdout', bytes.subarray(1)]), ['ü']);
});

t.test('LineNotes cuts a line without an end', async (t) => {
  const lines = notesOf(['stdout', 'x'.repeat(20_000)]);
  t.same(
    lines.map(({ length }) => length),
    [8192, 8192, 3616],
  );
});
