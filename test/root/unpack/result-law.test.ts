import { mkdirSync } from 'node:fs';
import t from 'tap';
import { runInOverlays } from '../../helpers/overlay.ts';
import { randomOperations } from '../../helpers/random-ops.ts';
import { packRawUpper } from '../../helpers/raw-upper.ts';
import { requires } from '../../helpers/requires.ts';
import { BASE_ITEMS, makeBaseTree } from '../capture/base-tree.ts';
import { CaptureHarness, memberNames } from '../capture/harness.ts';
import { ResultHarness, upperPath } from './result-harness.ts';
import { WorkerShare } from './staging.ts';

requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'unshare', 'setfattr', 'setfacl');
t.setTimeout(300_000);

const SEQUENCES = 50;
const OPERATIONS = 30;

const results = await ResultHarness.start(t, 'result-law');
const captures = await CaptureHarness.start(t);
const lower = captures.newPath('lower');
mkdirSync(lower);
makeBaseTree(lower);

t.test('unpackResult() leaves an upper whose layer is that of the one that was sent, for 50 random sequences of operations', async (t) => {
  const directory = captures.newPath('runs');
  mkdirSync(directory);
  const seeds = Array.from({ length: SEQUENCES }, (_seed, n) => 1000 + n);
  const runs = runInOverlays(
    directory,
    lower,
    seeds.map((seed) => randomOperations(seed, BASE_ITEMS, OPERATIONS)),
  );
  await using workers = new WorkerShare(SEQUENCES);
  let entries = 0;
  for (const [n, run] of runs.entries()) {
    const upper = await results.newUpper();
    await results.unpack(upper, packRawUpper(run.upper), { takeWorker: workers.take });
    await upper.freeze();
    const sent = await captures.capture(run.upper, lower);
    const received = await captures.capture(upperPath(upper), lower);
    t.equal(received.diffId, sent.diffId, `seed ${seeds[n]}: ${memberNames(received.tar).join(' ')} | ${memberNames(sent.tar).join(' ')}`);
    entries += received.entries;
    await results.close(upper);
  }
  t.ok(entries > 20 * SEQUENCES, `${entries} entries in all`);
});
