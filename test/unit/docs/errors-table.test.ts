import { readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { ERROR_CODES } from '../../../src/core/errors.ts';
import { repoRoot } from '../../helpers/repo.ts';

type Row = { code: string; status: number; retryable: boolean; meaning: string; remedy: string };

const rows = readFileSync(path.join(repoRoot, 'docs/errors.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| `E_'))
  .map(parseRow);

t.test('docs/errors.md has one row per code of ERROR_CODES, in its order', async (t) => {
  t.strictSame(
    rows.map(({ code, status, retryable }) => ({ code, status, retryable })),
    Object.entries(ERROR_CODES).map(([code, { status, retryable }]) => ({ code, status, retryable })),
  );
});

t.test('docs/errors.md says of each code what the table says, and what to do', async (t) => {
  const meanings = Object.values(ERROR_CODES).map(({ says }) => `${says}.`);
  t.strictSame(
    rows.map(({ meaning }) => meaning.charAt(0).toLowerCase() + meaning.slice(1)),
    meanings,
  );
  t.strictSame(
    rows.filter(({ remedy }) => !/^[A-Z].{10,}\.$/.test(remedy)).map(({ code }) => code),
    [],
  );
});

function parseRow(line: string): Row {
  const [, code = '', status, again, meaning = '', remedy = ''] = line.split('|').map((cell) => cell.trim());
  return { code: code.replaceAll('`', ''), status: Number(status), retryable: again === 'yes', meaning, remedy };
}
