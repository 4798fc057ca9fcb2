import t from 'tap';
import { chooseMounter, descriptorMounter, pathMounter } from '../../../src/overlay/mounter.ts';
import { closeTestEngine, namesIn, openTestEngine } from '../../helpers/engine.ts';

/** What kernels before 6.15 need: overlays mounted by path, in a namespace of the launcher's. */
const env = await openTestEngine(t, { mounter: pathMounter });
if (env !== null) {
  t.test('pathMounter gives the same layer as descriptorMounter', async (t) => {
    const script = 'echo x > /etc/x; rm /etc/issue; mv /usr/share/doc /doc; rm -r /usr/share/man; mkdir /usr/share/man; useradd alice';
    const first = await env.run({ script, sourceDateEpoch: 1_700_000_000 });
    t.equal(first.job.state, 'done', JSON.stringify(first.job.error));
    const names = namesIn(await env.layer(first.job));
    t.ok(names.includes('usr/share/man/.wh..wh..opq') && names.includes('etc/.wh.issue'));
    t.notMatch((await env.run({ script: 'cat /proc/self/mountinfo' })).stdout, new RegExp(env.label), 'no path of the host shows');
    await env.close();
    const other = await openTestEngine(t, { mounter: descriptorMounter });
    const second = await other?.run({ script, sourceDateEpoch: 1_700_000_000 });
    await other?.close();
    t.equal(second?.job.layer?.diffId, first.job.layer?.diffId);
  });

  t.test('a job on several layers sees them merged, and its layer is exact', async (t) => {
    const layered = await openTestEngine(t, { mounter: pathMounter });
    if (layered === null) return;
    await layered.run({ script: 'echo 2 > /two; rm /etc/issue', name: 'two:latest' });
    await layered.run({ script: 'echo 3 > /three; rm /two', name: 'three:latest', from: 'two:latest' });
    const { job, stdout } = await layered.run({ script: 'ls /two /three /etc/issue 2>/dev/null; rm /three', from: 'three:latest' });
    t.equal(stdout, '/three\n', JSON.stringify(job.error));
    const again = await layered.run({ script: 'ls /three; rm /three', from: 'three:latest' });
    t.same(namesIn(await layered.layer(again.job)), ['./', '.wh.three']);
    await layered.close();
  });

  t.test('chooseMounter() finds one that works', async (t) => {
    t.ok([descriptorMounter, pathMounter].includes(await chooseMounter()));
  });

  closeTestEngine(t, env);
}
