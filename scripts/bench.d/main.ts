import process from 'node:process';
import type { Bench, ScenarioMaker } from './bench.ts';
import { CpuAccount } from './cpu-account.ts';
import { readFacts } from './facts.ts';
import { makeBase } from './inputs.ts';
import { type Row, runScenario } from './measure.ts';
import { type Options, parseOptions } from './options.ts';
import { formatJson, formatMarkdown, formatText, type Report } from './report.ts';
import { disk } from './scenarios/erofs.ts';
import { importArchive } from './scenarios/importing.ts';
import { files, noop } from './scenarios/jobs.ts';
import { memory } from './scenarios/memory.ts';
import { packBig, packDebian, packSmall } from './scenarios/packing.ts';
import { unpackGzip, unpackPlain } from './scenarios/unpacking.ts';
import { firstByte } from './scenarios/virtual-machines.ts';
import { openWorkspace } from './workspace.ts';

const SCENARIOS: ScenarioMaker[] = [
  noop,
  files,
  packDebian,
  packSmall,
  packBig,
  unpackPlain,
  unpackGzip,
  importArchive,
  disk,
  memory,
  firstByte,
];

const FORMATS = { text: formatText, markdown: formatMarkdown, json: formatJson } satisfies Record<
  Options['format'],
  (report: Report) => string
>;

/** Measures what the arguments choose, and prints the table. Give `ROOTLAYER_BENCH_BASE`, a docker-archive. */
async function main(): Promise<void> {
  const args = process.argv.slice(2);
  const options = parseOptions(args);
  const chosen = SCENARIOS.filter(({ name }) => options.only.test(name));
  if (chosen.length === 0)
    throw new Error(`Cannot find a scenario for ${options.only}: there are ${SCENARIOS.map(({ name }) => name).join(', ')}`);
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => stop.abort(new Error('Cannot go on: interrupted')));
  const facts = await readFacts(options.state);
  const rows = await measureAll(chosen, options, stop.signal);
  const command = ['scripts/bench', ...args].join(' ');
  process.stdout.write(FORMATS[options.format]({ facts, rounds: options.rounds, command, rows }));
}

async function measureAll(chosen: ScenarioMaker[], options: Options, signal: AbortSignal): Promise<Row[]> {
  const source = process.env['ROOTLAYER_BENCH_BASE'];
  if (source === undefined) throw new Error('Cannot measure without ROOTLAYER_BENCH_BASE: run scripts/bench');
  const cpu = CpuAccount.open();
  try {
    await using workspace = await openWorkspace(options.state);
    const bench: Bench = { workspace, cpu, signal, base: await makeBase(workspace, source) };
    const rows: Row[] = [];
    for (const maker of chosen) {
      process.stderr.write(`bench: ${maker.name}\n`);
      // One that fails must not cost the figures of the others.
      try {
        rows.push(...(await measureOne(maker, bench, options.rounds)));
      } catch (error) {
        signal.throwIfAborted();
        fail(`${maker.name}: ${describe(error)}`);
      }
    }
    return rows;
  } finally {
    await cpu.close();
  }
}

async function measureOne(maker: ScenarioMaker, bench: Bench, rounds: number): Promise<Row[]> {
  const scenario = await maker.open(bench);
  try {
    return await runScenario(scenario, rounds, bench.cpu, bench.signal);
  } finally {
    await scenario.close();
  }
}

function fail(message: string): void {
  process.stderr.write(`bench: ${message}\n`);
  process.exitCode = 1;
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

try {
  await main();
} catch (error) {
  fail(describe(error));
}
