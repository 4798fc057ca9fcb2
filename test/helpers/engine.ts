import { createReadStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { Test } from 'tap';
import type { Caller, Engine } from '../../src/core/engine.ts';
import type { JobEvent, JobRecord } from '../../src/core/job.ts';
import { jobRequestSchema } from '../../src/core/job.ts';
import type { TarEntry } from '../../src/core/tar/entry.ts';
import { TarReader } from '../../src/core/tar/reader.ts';
import { createEngine, type EngineOptions } from '../../src/engine.ts';
import { assertNoLeak, type Census, takeCensus } from './census.ts';
import { baseImagePath, requires } from './requires.ts';

export const ROOT: Caller = { uid: 0 };

/** A job request as tests write it: the script as text, all else optional. */
export type TestJob = { script: string; from?: string; caller?: Caller } & Record<string, unknown>;

/** A job that has ended, with its output. */
export type Ran = { job: JobRecord; stdout: string; stderr: string; events: JobEvent[] };

/** An engine of its own for one test file, with the Debian base under `debian:bookworm`. */
export type TestEngine = {
  engine: Engine;
  stateDir: string;
  /** Part of the names that the engine gives to what it makes. */
  label: string;
  run(job: TestJob): Promise<Ran>;
  submit(job: TestJob): JobRecord;
  finish(job: JobRecord): Promise<Ran>;
  layer(job: JobRecord): Promise<Buffer>;
  /** Ends the engine and removes its directory. */
  close(): Promise<void>;
  before: Census;
};

/** Gives an engine on a fresh state directory; call {@link closeTestEngine} last. Null when the machine lacks something. */
export async function openTestEngine(t: Test, options: Partial<EngineOptions> = {}): Promise<TestEngine | null> {
  if (!requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image')) return null;
  const stateDir = mkdtempSync(join(tmpdir(), 'engine-'));
  const label = basename(stateDir);
  const before = takeCensus(label);
  const engine = await createEngine({ stateDir, name: label, ...options });
  const signal = new AbortController().signal;
  const archive = createReadStream(baseImagePath(), { highWaterMark: 1024 * 1024 });
  await engine.importImage(ROOT, archive, { name: null, select: null, shared: true }, () => {}, signal);
  archive.destroy();
  const submit = (job: TestJob): JobRecord => {
    const { script, caller = ROOT, from = 'debian:bookworm', ...rest } = job;
    return engine.submit(caller, jobRequestSchema.parse({ from, script: Buffer.from(script).toString('base64'), ...rest }));
  };
  const finish = async (job: JobRecord): Promise<Ran> => {
    const ran: Ran = { job, stdout: '', stderr: '', events: [] };
    for await (const event of engine.events({ uid: job.uid }, job.id, 1, true, signal)) {
      ran.events.push(event);
      if (event.type === 'log')
        ran[event.stream] += event.encoding === 'base64' ? Buffer.from(event.data, 'base64').toString('latin1') : event.data;
      if (event.type === 'end') ran.job = event.job;
    }
    return ran;
  };
  let open = true;
  const close = async (): Promise<void> => {
    if (!open) return;
    open = false;
    await engine.close(AbortSignal.timeout(1000));
    rmSync(stateDir, { recursive: true, force: true });
  };
  t.teardown(close);
  return {
    engine,
    stateDir,
    label,
    submit,
    finish,
    run: async (job) => await finish(submit(job)),
    layer: async (job) => await buffer((await engine.openLayer({ uid: job.uid }, job.id, 'none', signal)).stream),
    close,
    before,
  };
}

/** The last test of a file: the engine ends and nothing of it is left. */
export function closeTestEngine(t: Test, env: TestEngine): void {
  t.test('nothing is left behind', async (t) => {
    await env.close();
    await assertNoLeak(t, env.label, env.before);
  });
}

/** The members of a tar, with their bodies. */
export function readTar(bytes: Buffer): { header: TarEntry; body: Buffer }[] {
  const members: { header: TarEntry; parts: Buffer[] }[] = [];
  const reader = new TarReader({
    entry: (header) => members.push({ header, parts: [] }),
    data: (chunk) => members.at(-1)?.parts.push(Buffer.from(chunk)),
    entryEnd: () => {},
  });
  reader.write(bytes);
  reader.end();
  return members.map(({ header, parts }) => ({ header, body: Buffer.concat(parts) }));
}

/** The names of a tar's members, as text. */
export function namesIn(bytes: Buffer): string[] {
  return readTar(bytes).map(({ header }) => header.name.toString('utf8'));
}
