import { setTimeout as sleep } from 'node:timers/promises';
import type { CpuAccount } from './cpu-account.ts';
import type { Comparison, Contender, Sample, Scenario, Target } from './scenario.ts';

/** What came of one contender. */
export type Measured = { name: string; median: number; cpuMs: number | null; samples: Sample[] };

/** What came of one comparison; `ratio` is ours to peer. */
export type Row = {
  title: string;
  unit: Scenario['unit'];
  ours: Measured;
  peer: Measured | null;
  ratio: number | null;
  target: Target | null;
  isMet: boolean | null;
};

/** Times one piece of work. */
export async function timed(cpu: CpuAccount, work: () => Promise<unknown>): Promise<Sample> {
  const cpuBefore = cpu.readMs();
  const start = performance.now();
  await work();
  const value = performance.now() - start;
  const cpuAfter = cpu.readMs();
  return { value, cpuMs: cpuBefore === null || cpuAfter === null ? null : cpuAfter - cpuBefore };
}

/**
 * Runs a scenario: first a round that does not count, then rounds in which each contender has one turn, so that noise meets all of them.
 * Between the turns it waits until what the last one left running behind is done.
 */
export async function runScenario(scenario: Scenario, rounds: number, cpu: CpuAccount, signal: AbortSignal): Promise<Row[]> {
  const contenders = [...new Set(scenario.comparisons.flatMap(({ ours, peer }) => (peer === null ? [ours] : [ours, peer])))];
  const samples = new Map<Contender, Sample[]>(contenders.map((contender) => [contender, []]));
  for (let round = 0; round <= rounds * scenario.roundsFactor; round += 1) {
    for (const contender of contenders) {
      signal.throwIfAborted();
      await settle(cpu);
      const sample = await contender.sample();
      if (round > 0) samples.get(contender)?.push(sample);
    }
  }
  const measured = (contender: Contender): Measured => summarize(contender.name, samples.get(contender) ?? []);
  return scenario.comparisons.map((comparison) => toRow(scenario, comparison, measured));
}

const SETTLE_STEP_MS = 50;
const SETTLE_STEPS = 40;
const CALM_CPU_MS = 1;

/** A daemon starts its next worker after a job, and the kernel takes mounts apart: none of that may fall into another's turn. */
async function settle(cpu: CpuAccount): Promise<void> {
  for (let step = 0; step < SETTLE_STEPS; step += 1) {
    const before = cpu.readMs();
    await sleep(SETTLE_STEP_MS);
    const after = cpu.readMs();
    if (before === null || after === null) continue;
    if (after - before < CALM_CPU_MS) return;
  }
}

function summarize(name: string, samples: Sample[]): Measured {
  const cpu = samples.flatMap((sample) => (sample.cpuMs === null ? [] : [sample.cpuMs]));
  return { name, median: median(samples.map((sample) => sample.value)), cpuMs: cpu.length === 0 ? null : median(cpu), samples };
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

function toRow({ title, unit }: Scenario, { ours, peer, target }: Comparison, measured: (contender: Contender) => Measured): Row {
  const own = measured(ours);
  const other = peer === null ? null : measured(peer);
  const ratio = other === null ? null : own.median / other.median;
  const reached = target?.kind === 'ratio' ? ratio : own.median;
  return {
    title,
    unit,
    ours: own,
    peer: other,
    ratio,
    target,
    isMet: target === null || reached === null ? null : reached <= target.atMost,
  };
}
