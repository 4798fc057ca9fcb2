import { chownSync, closeSync, mkdirSync, openSync } from 'node:fs';
import path from 'node:path';
import { startWorker, type Worker } from '../../../src/host/worker.ts';
import { DEFAULT_UID_BASE } from '../../../src/job/ranges.ts';
import { type UnpackedLayer, unpackLayer, unpackWorkerKind } from '../../../src/store/unpack/unpack-layer.ts';
import type { Bench, ScenarioMaker } from '../bench.ts';
import { runScript } from '../command.ts';
import { timed } from '../measure.ts';
import type { Contender } from '../scenario.ts';
import { makeDirectory, remove } from '../workspace.ts';

/** The base's layer as it is. */
export const unpackPlain = unpacking('unpack', 'unpacking the layer, verified', 'none', 'cat "$1"', 'tee openssl | tar -x');
/** The base's layer as registries have it. */
export const unpackGzip = unpacking(
  'unpack-gzip',
  'unpacking the gzip layer, verified',
  'gzip',
  'pigz -dc "$1"',
  'pigz -d | tee openssl | tar -x',
);

/** `$1` blob, `$2` directory, `$3` a name for the pipe, `$4` the digits that the uncompressed tar must have. */
const peerScript = (read: string): string => `
mkfifo "$3"
openssl dgst -sha256 -r <"$3" >"$3.sum" &
${read} | tee "$3" | tar -xpf - --numeric-owner -C "$2"
wait $!
read -r sum rest <"$3.sum"
[ "$sum" = "$4" ]
`;

function unpacking(name: string, title: string, compression: 'none' | 'gzip', read: string, peerName: string): ScenarioMaker {
  return {
    name,
    open: async (bench) => {
      const { workspace, base, cpu } = bench;
      const blob = compression === 'none' ? base.layer : base.layerGzip;
      const dir = makeDirectory(workspace, name);
      const want = await runScript('sha256sum <"$1" | cut -d " " -f 1', [base.layer]);
      const target = path.join(dir, 'tree');
      const pipe = path.join(dir, 'pipe');
      const peer: Contender = {
        name: peerName,
        sample: async () => {
          mkdirSync(target);
          const sample = await timed(cpu, () => runScript(peerScript(read), [blob, target, pipe, want]));
          await remove(target, pipe, `${pipe}.sum`);
          return sample;
        },
      };
      const ours = (isStarted: boolean): Contender => ourContender(bench, { blob, compression, target, want, isStarted });
      return {
        title,
        unit: 'ms',
        roundsFactor: 1,
        comparisons: [
          { ours: ours(true), peer, target: { kind: 'ratio', atMost: 1 } },
          { ours: ours(false), peer, target: { kind: 'ratio', atMost: 1 } },
        ],
        close: async () => await remove(dir),
      };
    },
  };
}

type Unpacking = { blob: string; compression: 'none' | 'gzip'; target: string; want: string; isStarted: boolean };

function ourContender({ cpu, signal }: Bench, { blob, compression, target, want, isStarted }: Unpacking): Contender {
  const start = async (): Promise<Worker> => await startWorker(unpackWorkerKind(DEFAULT_UID_BASE), [], signal);
  return {
    name: isStarted ? 'started worker' : 'worker start included',
    sample: async () => {
      mkdirSync(target, { mode: 0o755 });
      chownSync(target, DEFAULT_UID_BASE, DEFAULT_UID_BASE);
      const blobFd = openSync(blob, 'r');
      const stagingDirFd = openSync(target, 'r');
      const started = isStarted ? await start() : null;
      const takeWorker = async (): Promise<Worker> => started ?? (await start());
      try {
        return await timed(cpu, async () => {
          check(await unpackLayer({ blobFd, stagingDirFd, compression, uidBase: DEFAULT_UID_BASE, takeWorker, signal }), want);
        });
      } finally {
        await started?.[Symbol.asyncDispose]();
        closeSync(blobFd);
        closeSync(stagingDirFd);
        await remove(target);
      }
    },
  };
}

function check(layer: UnpackedLayer, want: string): void {
  if (layer.diffId !== `sha256:${want}`) throw new Error(`Cannot trust the measurement: the layer has ${layer.diffId}, want ${want}`);
}
