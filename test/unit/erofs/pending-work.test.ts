import { setImmediate } from 'node:timers/promises';
import t from 'tap';
import { deferred } from '../../../src/core/deferred.ts';
import { PendingWork } from '../../../src/erofs/pending-work.ts';

t.test('PendingWork.room() waits until something is done', async (t) => {
  const pending = new PendingWork(2);
  const [first, second] = [deferred<void>(), deferred<void>()];
  pending.add(first.promise);
  t.equal(pending.isFull, false);
  pending.add(second.promise);
  t.equal(pending.isFull, true);
  let hasRoom = false;
  const room = pending.room().then(() => {
    hasRoom = true;
  });
  await Promise.resolve();
  t.equal(hasRoom, false);
  second.resolve();
  await room;
  t.equal(pending.isFull, false);
  first.resolve();
  await pending.done();
});

t.test('PendingWork tells of the first failure, after all has ended where asked to', async (t) => {
  const pending = new PendingWork(4);
  const slow = deferred<void>();
  pending.add(slow.promise);
  pending.add(Promise.reject(new Error('first')));
  pending.add(Promise.reject(new Error('second')));
  await setImmediate();
  await t.rejects(pending.room(), { message: 'first' });
  t.equal(pending.isFull, true, 'so that whoever adds more gets to know');
  slow.resolve();
  await pending.settled();
  await t.rejects(pending.done(), { message: 'first' });
});
