import t from 'tap';
import { limitsSchema } from '../../../src/core/limits.ts';
import { limitBehindFailure } from '../../../src/job/watch.ts';

const limits = limitsSchema.parse({});
const quiet = { memoryPeakBytes: 1000, pidsPeak: 3, cpuMs: 1, oomKills: 0, forksRefused: 0 };
const roomy = { bytesLeft: 4e9, inodesLeft: 1000, diskBytesUsed: 5 };

t.test('limitBehindFailure() names the limit that the kernel counted', (t) => {
  t.match(limitBehindFailure(limits, { usage: { ...quiet, oomKills: 1 }, exitStatus: 137, ...roomy }), {
    limit: 'memory',
    value: limits.memoryBytes,
    peak: 1000,
  });
  t.match(limitBehindFailure(limits, { usage: { ...quiet, forksRefused: 2 }, exitStatus: 1, ...roomy }), { limit: 'pids', peak: 3 });
  t.match(limitBehindFailure(limits, { usage: quiet, exitStatus: 1, ...roomy, bytesLeft: 4096 }), { limit: 'disk' });
  t.match(limitBehindFailure(limits, { usage: quiet, exitStatus: 1, ...roomy, inodesLeft: 0 }), { limit: 'disk' });
  t.end();
});

t.test('limitBehindFailure() blames no limit for a script that succeeded, or failed with room left', (t) => {
  t.equal(limitBehindFailure(limits, { usage: quiet, exitStatus: 1, ...roomy }), null);
  t.equal(limitBehindFailure(limits, { usage: { ...quiet, forksRefused: 5 }, exitStatus: 0, ...roomy, bytesLeft: 0 }), null);
  t.end();
});

t.test('limitBehindFailure() does not let a job pass that lost a process to the memory limit', (t) => {
  t.match(limitBehindFailure(limits, { usage: { ...quiet, oomKills: 1 }, exitStatus: 0, ...roomy }), { limit: 'memory' });
  t.end();
});
