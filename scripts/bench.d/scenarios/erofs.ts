import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import { diskWorkerKind, makeDisk } from '../../../src/erofs/make-disk.ts';
import { startWorker, type Worker } from '../../../src/host/worker.ts';
import type { Bench, ScenarioMaker } from '../bench.ts';
import { run } from '../command.ts';
import { timed } from '../measure.ts';
import type { Contender } from '../scenario.ts';
import { remove } from '../workspace.ts';

/** A layer as a read-only disk for a virtual machine: the Debian tree. */
export const disk: ScenarioMaker = {
  name: 'disk',
  open: async (bench) => {
    const image = path.join(bench.workspace.dir, 'disk.erofs');
    const peer: Contender = {
      name: 'mkfs.erofs',
      sample: async () => {
        const sample = await timed(bench.cpu, () => run(['mkfs.erofs', '--quiet', image, bench.base.rootfs]));
        await remove(image);
        return sample;
      },
    };
    return {
      title: 'EROFS image of the layer',
      unit: 'ms',
      roundsFactor: 1,
      comparisons: [
        { ours: ourContender(bench, image, true), peer, target: { kind: 'ratio', atMost: 1 } },
        { ours: ourContender(bench, image, false), peer, target: null },
      ],
      close: async () => await remove(image),
    };
  },
};

function ourContender({ cpu, signal, base }: Bench, image: string, isStarted: boolean): Contender {
  const start = async (): Promise<Worker> => await startWorker(diskWorkerKind, [], signal);
  return {
    name: isStarted ? 'started worker' : 'worker start included',
    sample: async () => {
      const fds = { root: openSync(base.rootfs, 'r'), output: openSync(image, 'wx') };
      let worker = isStarted ? await start() : null;
      try {
        return await timed(cpu, async () => {
          worker ??= await start();
          await makeDisk(worker, fds, {}, null, signal);
        });
      } finally {
        await worker?.[Symbol.asyncDispose]();
        closeSync(fds.root);
        closeSync(fds.output);
        await remove(image);
      }
    },
  };
}
