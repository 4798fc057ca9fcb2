import { readFileSync, writeFileSync } from 'node:fs';
import type { ScenarioMaker } from '../bench.ts';
import { importBase, runJob, startDaemon } from '../rootlayer.ts';
import { openScenario } from '../scenario.ts';
import { FILES_SCRIPT } from './jobs.ts';

const JOBS = 8;

/** Eight jobs at once that each make 5,000 files. */
export const memory: ScenarioMaker = {
  name: 'memory',
  open: async ({ workspace, base, signal }) =>
    await openScenario(async (scope) => {
      const daemon = scope.use(await startDaemon(workspace, 'daemon', JOBS));
      await importBase(daemon.session, base.archive, signal);
      const sample = async (): Promise<{ value: number; cpuMs: null }> => {
        // Source: proc_pid_clear_refs(5): 5 sets the peak back to what is resident now.
        writeFileSync(`/proc/${daemon.pid}/clear_refs`, '5');
        const ids = await Promise.all(Array.from({ length: JOBS }, () => runJob(daemon.session, FILES_SCRIPT, signal)));
        const value = readPeakMib(daemon.pid);
        for (const id of ids) await daemon.session.removeJob(id);
        return { value, cpuMs: null };
      };
      return {
        title: `daemon's peak memory, ${JOBS} jobs of 5,000 files at once`,
        unit: 'MiB',
        roundsFactor: 1,
        comparisons: [{ ours: { name: 'daemon', sample }, peer: null, target: { kind: 'value', atMost: 150 } }],
      };
    }),
};

function readPeakMib(pid: number): number {
  const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  if (peak === null) throw new Error(`Cannot read the memory of process ${pid}`);
  return Number(peak[1]) / 1024;
}
