/** Jobs on a disk that is really full: one of memory, with the journal and the logs. */
import { closeSync, mkdtempSync, openSync, readdirSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { RootlayerError } from '../../../src/core/errors.ts';
import { MNT_DETACH, mount, umount } from '../../../src/host/libc.ts';
import { readEndedLog } from '../../../src/job/event-log.ts';
import { requires } from '../../helpers/requires.ts';
import { ServiceFixture } from '../../unit/job/service-fixture.ts';

requires(t, 'root', 'overlay');
t.setTimeout(20_000);

function fill(path: string): void {
  const fd = openSync(path, 'w');
  try {
    for (;;) writeSync(fd, Buffer.alloc(4096));
  } catch (error) {
    if (!(error instanceof Error) || !error.message.startsWith('ENOSPC')) throw error;
  } finally {
    closeSync(fd);
  }
}

async function typesIn(path: string): Promise<string[]> {
  const types: string[] = [];
  for await (const { type } of readEndedLog(path, 1)) types.push(type);
  return types;
}

t.test('on a full disk jobs end, new ones are refused, and with room again all is as it should be', async (t) => {
  const disk = mkdtempSync(join(tmpdir(), 'full-disk-'));
  mount('none', disk, 'tmpfs', 0, 'size=2m');
  const fixture = new ServiceFixture(disk);
  t.teardown(async () => {
    await fixture.close();
    umount(disk, MNT_DETACH);
    rmdirSync(disk);
  });
  const job = fixture.submit();
  const following = fixture.events(job, true);
  fill(join(disk, 'filler'));

  t.throws(() => fixture.submit(), { code: 'E_STATE' });
  t.same(readdirSync(fixture.jobsDirectory), [job.id]);

  // Longer than what is left of the last page of the log.
  fixture.fail(new RootlayerError('E_LIMIT_DISK', 'x'.repeat(5000)));
  t.match((await following).at(-1), { type: 'end', job: { state: 'failed', error: { code: 'E_LIMIT_DISK' } } });
  t.same(await typesIn(join(fixture.jobsDirectory, job.id, 'events.ndjson')), ['state', 'state'], 'the log did not take the end');
  t.equal(fixture.get(job).state, 'failed');

  rmSync(join(disk, 'filler'));
  t.equal(fixture.get(job).state, 'failed');
  const next = fixture.submit();
  t.equal(fixture.table.get(job.id)?.state, 'failed');
  t.same(fixture.holders(), [next.id]);
  t.match((await fixture.events(job, true)).at(-1), { n: 3, type: 'end', job: { state: 'failed' } });
});
