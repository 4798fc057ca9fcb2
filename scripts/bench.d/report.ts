import type { Measured, Row } from './measure.ts';
import type { Target } from './scenario.ts';

/** What a run found. */
export type Report = { facts: Record<string, string>; rounds: number; command: string; rows: Row[] };

const HEAD = ['what', 'ours', 'median', 'CPU', 'peer', 'median', 'CPU', 'ours / peer', 'target', ''];

/** A table with aligned columns, for a terminal. */
export function formatText(report: Report): string {
  const cells = [HEAD, ...report.rows.map(cellsOf)];
  const widths = HEAD.map((_head, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  const lines = cells.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  return `${factLines(report).join('\n')}\n\n${lines.join('\n')}\n`;
}

/** The same for docs/performance.md. */
export function formatMarkdown(report: Report): string {
  const row = (cells: string[]): string => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  const rule = HEAD.map((_head, column) => (/^[2367]$/.test(String(column)) ? '---:' : '---'));
  const facts = factLines(report).map((line) => `- ${line}`);
  return `${facts.join('\n')}\n\n${[HEAD, rule, ...report.rows.map(cellsOf)].map(row).join('\n')}\n`;
}

/** Everything, each sample too. */
export function formatJson(report: Report): string {
  return `${JSON.stringify(report, null, 2)}\n`;
}

function factLines({ facts, rounds, command }: Report): string[] {
  return [`command: ${command} (${rounds} rounds)`, ...Object.entries(facts).map(([name, value]) => `${name}: ${value}`)];
}

function cellsOf(row: Row): string[] {
  const { title, unit, ours, peer, ratio, target } = row;
  const cpu = (measured: Measured | null): string => (measured === null || measured.cpuMs === null ? '' : formatNumber(measured.cpuMs));
  return [
    title,
    ours.name,
    `${formatNumber(ours.median)} ${unit}`,
    cpu(ours),
    peer?.name ?? '',
    peer === null ? '' : `${formatNumber(peer.median)} ${unit}`,
    cpu(peer),
    ratio === null ? '' : formatRatio(ratio),
    target === null ? '' : formatTarget(target, unit),
    formatOutcome(row),
  ];
}

/** Three digits that count. */
function formatNumber(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function formatRatio(ratio: number): string {
  if (ratio < 0.5) return `${formatNumber(ratio)} (${formatNumber(1 / ratio)} × faster)`;
  return formatNumber(ratio);
}

function formatTarget({ kind, atMost }: Target, unit: string): string {
  if (kind === 'value') return `≤ ${atMost} ${unit}`;
  return atMost < 0.5 ? `≥ ${Math.round(10 / atMost) / 10} × faster` : `≤ ${atMost}`;
}

function formatOutcome({ ours, ratio, target, isMet }: Row): string {
  if (target === null || isMet === null) return '';
  const reached = target.kind === 'value' ? ours.median : (ratio ?? Number.NaN);
  return isMet ? 'met' : `missed: ${formatNumber(reached / target.atMost)} × it`;
}
