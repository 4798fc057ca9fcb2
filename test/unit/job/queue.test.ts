import t from 'tap';
import { type Deferred, deferred } from '../../../src/core/deferred.ts';
import { JobQueue } from '../../../src/job/queue.ts';

/** Jobs that run until told to end, and tell when they started. */
function jobs(queue: JobQueue): { add(uid: number, id: string): void; started: string[]; end(id: string): void } {
  const running = new Map<string, Deferred<void>>();
  const started: string[] = [];
  return {
    started,
    add: (uid, id) => {
      const done = deferred<void>();
      running.set(id, done);
      queue.add({
        uid,
        id,
        start: () => {
          started.push(id);
          return done.promise;
        },
      });
    },
    end: (id) => running.get(id)?.resolve(),
  };
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const LIMITS = { running: 2, runningPerUid: 2, queuedPerUid: 3, queued: 5 };

t.test('JobQueue runs as many as allowed, the rest in turn', async (t) => {
  const queue = new JobQueue(LIMITS);
  const { add, started, end } = jobs(queue);
  for (const id of ['a', 'b', 'c']) add(1, id);
  t.same(started, ['a', 'b']);
  end('a');
  await settle();
  t.same(started, ['a', 'b', 'c']);
});

t.test('JobQueue is fair: one caller with many jobs does not keep another waiting', async (t) => {
  const queue = new JobQueue({ ...LIMITS, running: 1 });
  const { add, started, end } = jobs(queue);
  for (const id of ['a1', 'a2', 'a3']) add(1, id);
  add(2, 'b1');
  for (const id of ['a1', 'a2', 'b1', 'a3']) {
    end(id);
    await settle();
  }
  t.same(started, ['a1', 'a2', 'b1', 'a3']);
});

t.test('JobQueue holds a caller to their share of what runs', async (t) => {
  const queue = new JobQueue({ ...LIMITS, runningPerUid: 1 });
  const { add, started } = jobs(queue);
  add(1, 'a1');
  add(1, 'a2');
  add(2, 'b1');
  t.same(started, ['a1', 'b1']);
});

t.test('C15 admit() refuses beyond the queue of a caller, of all, and after close', (t) => {
  const queue = new JobQueue({ ...LIMITS, running: 0 });
  const { add } = jobs(queue);
  for (const id of ['1', '2', '3']) add(1, id);
  t.throws(() => queue.admit(1), { code: 'E_BUSY' });
  t.doesNotThrow(() => queue.admit(2));
  add(2, '4');
  add(2, '5');
  t.throws(() => queue.admit(3), { code: 'E_BUSY' });
  t.equal(queue.close().length, 5);
  t.throws(() => queue.admit(4), { code: 'E_BUSY' });
  t.end();
});

t.test('remove() takes out what waits and nothing else', async (t) => {
  const queue = new JobQueue({ ...LIMITS, running: 1 });
  const { add, started, end } = jobs(queue);
  add(1, 'a');
  add(1, 'b');
  t.notOk(queue.remove('a'), 'it runs');
  t.ok(queue.remove('b'));
  t.notOk(queue.remove('b'));
  end('a');
  await queue.idle();
  t.same(started, ['a']);
});
