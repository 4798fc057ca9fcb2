import type { Tally } from './tally.ts';
import type { FileResult } from './test-file.ts';

/** Gives the lines about one test file: one when all passed, else the failures with what is known about them. */
export function formatFile(file: string, { tally, durationMs, errorTail }: FileResult): string {
  const bad = tally.failures.length > 0;
  const skipped = tally.skips.length === 0 ? '' : `, ${tally.skips.length} skipped`;
  const head = `${bad ? 'FAIL' : 'ok  '} ${file}  ${tally.passed} passed${skipped}  ${(durationMs / 1000).toFixed(1)} s`;
  const failures = tally.failures.map(({ name, detail }) => `  FAILED ${name}\n${indent(detail)}`);
  const skips = tally.skips.map(({ name, reason }) => `  skipped ${name}: ${reason}`);
  const tail = bad && errorTail !== '' ? [`  standard error ends with:\n${indent(errorTail)}`] : [];
  return `${[head, ...failures, ...skips, ...tail].join('\n')}\n`;
}

/** Gives the end of a run: the names of what failed, and the line of counts. */
export function formatSummary(total: Tally): string {
  const names = total.failures.map(({ name }) => `FAILED ${name}\n`).join('');
  return `${names}${total.passed} passed, ${total.failures.length} failed, ${total.skips.length} skipped\n`;
}

function indent(text: string): string {
  return text.replace(/^/gm, '    ');
}
