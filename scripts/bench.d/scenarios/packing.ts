import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import { captureLayer, captureWorkerKind } from '../../../src/capture/capture-layer.ts';
import { startWorker, type Worker } from '../../../src/host/worker.ts';
import type { Bench, ScenarioMaker } from '../bench.ts';
import { runScript } from '../command.ts';
import { makeBigFile, makeSmallFiles } from '../inputs.ts';
import { timed } from '../measure.ts';
import type { Contender, Sample } from '../scenario.ts';
import { remove } from '../workspace.ts';

/** The rootfs of the base, packed whole. */
export const packDebian = packing('pack-debian', 'packing a Debian tree', 0.8, async ({ base }) => base.rootfs);
/** Many calls for few bytes. */
export const packSmall = packing('pack-small', 'packing 20,000 small files', 1.2, async ({ workspace }) => makeSmallFiles(workspace));
/** Few calls for many bytes. */
export const packBig = packing('pack-big', 'packing one 2 GiB file', 0.7, async ({ workspace }) => makeBigFile(workspace));

function packing(name: string, title: string, atMost: number, makeTree: (bench: Bench) => Promise<string>): ScenarioMaker {
  return {
    name,
    open: async (bench) => {
      const { workspace, base, cpu } = bench;
      const tree = await makeTree(bench);
      const output = path.join(workspace.dir, 'packed.tar');
      const fresh = freshWorker(bench, tree, output);
      const used = usedWorker(bench, tree, output);
      const peer = (label: string, script: string): Contender => ({
        name: label,
        sample: async () => {
          const sample = await timed(cpu, () => runScript(script, [tree, output]));
          await remove(output);
          return sample;
        },
      });
      const hashed = peer('tar | openssl', 'tar --numeric-owner -cf - -C "$1" . | openssl dgst -sha256');
      const kept = peer('tar | tee file | openssl', 'tar --numeric-owner -cf - -C "$1" . | tee "$2" | openssl dgst -sha256');
      return {
        title,
        unit: 'ms',
        roundsFactor: 1,
        comparisons: [
          { ours: fresh, peer: hashed, target: { kind: 'ratio', atMost } },
          { ours: used.contender, peer: hashed, target: { kind: 'ratio', atMost } },
          { ours: fresh, peer: kept, target: null },
        ],
        close: async () => {
          await used.close();
          await remove(output);
          if (tree !== base.rootfs) await remove(tree);
        },
      };
    },
  };
}

/** As the engine does it: a worker that was started before and has packed nothing yet. */
function freshWorker({ cpu, signal }: Bench, tree: string, output: string): Contender {
  return {
    name: 'started worker',
    sample: async () => {
      await using worker = await startWorker(captureWorkerKind, [], signal);
      return await packed(worker, tree, output, (work) => timed(cpu, work), signal);
    },
  };
}

/** The same worker each time, its code compiled by what it has packed. */
function usedWorker({ cpu, signal }: Bench, tree: string, output: string): { contender: Contender; close(): Promise<void> } {
  let worker: Worker | null = null;
  const sample = async (): Promise<Sample> => {
    worker ??= await startWorker(captureWorkerKind, [], signal);
    return await packed(worker, tree, output, (work) => timed(cpu, work), signal);
  };
  return { contender: { name: 'used worker', sample }, close: async () => await worker?.[Symbol.asyncDispose]() };
}

async function packed(
  worker: Worker,
  tree: string,
  output: string,
  measure: (work: () => Promise<unknown>) => Promise<Sample>,
  signal: AbortSignal,
): Promise<Sample> {
  const upperFd = openSync(tree, 'r');
  const outputFd = openSync(output, 'wx');
  try {
    return await measure(() => captureLayer(worker, { upper: upperFd, output: outputFd, lower: null }, {}, null, signal));
  } finally {
    closeSync(upperFd);
    closeSync(outputFd);
    await remove(output);
  }
}
