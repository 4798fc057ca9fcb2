import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { JobEvent } from '../../../src/core/job.ts';
import { EventLog, readEndedLog } from '../../../src/job/event-log.ts';

const directory = mkdtempSync(join(tmpdir(), 'events-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
let files = 0;
const newPath = (): string => join(directory, String(files++));
const signal = new AbortController().signal;
const end = { type: 'end' } as unknown as Omit<Extract<JobEvent, { type: 'end' }>, 'n' | 'timeMs'>;

async function collect(events: AsyncIterable<JobEvent>): Promise<number[]> {
  const numbers: number[] = [];
  for await (const event of events) numbers.push(event.n);
  return numbers;
}

t.test('read() replays from a number, and without follow ends at what is there', async (t) => {
  const log = EventLog.create(newPath());
  for (const data of ['a', 'b', 'c']) log.append({ type: 'log', stream: 'stdout', data });
  t.same(await collect(log.read(1, false, signal)), [1, 2, 3]);
  t.same(await collect(log.read(3, false, signal)), [3]);
  t.same(await collect(log.read(9, false, signal)), []);
  log.close();
});

t.test('read() with follow replays, then goes live, for any number of readers, until the end', async (t) => {
  const log = EventLog.create(newPath());
  log.append({ type: 'log', stream: 'stdout', data: '1' });
  const early = collect(log.read(1, true, signal));
  await new Promise((resolve) => setTimeout(resolve, 20));
  log.append({ type: 'log', stream: 'stderr', data: '2' });
  const late = collect(log.read(2, true, signal));
  log.append(end);
  t.same(await early, [1, 2, 3]);
  t.same(await late, [2, 3]);
  t.same(await collect(log.read(1, true, signal)), [1, 2, 3], 'after the end it is all there');
});

t.test('read() ends when its signal aborts', async (t) => {
  const log = EventLog.create(newPath());
  const abort = new AbortController();
  const reading = collect(log.read(1, true, abort.signal));
  setTimeout(() => abort.abort(), 10);
  t.same(await reading, []);
  log.close();
});

t.test('readEndedLog() leaves out a line that a crash cut short', async (t) => {
  const path = newPath();
  const log = EventLog.create(path);
  log.append({ type: 'state', state: 'queued' });
  log.close();
  appendFileSync(path, '{"n":2,"type":"lo');
  t.same(await collect(readEndedLog(path, 1)), [1]);
});

t.test('append() after the end changes nothing', async (t) => {
  const log = EventLog.create(newPath());
  log.append(end);
  log.append({ type: 'log', stream: 'stdout', data: 'late' });
  t.same(await collect(log.read(1, false, signal)), [1]);
});
