import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import t from 'tap';
import { createEngine } from '../../../src/engine.ts';
import { closeTestEngine, openTestEngine } from '../../helpers/engine.ts';
import { baseImagePath } from '../../helpers/requires.ts';

const env = await openTestEngine(t);
if (env !== null) {
  t.test('O08 a second engine on the same state directory is refused and disturbs nothing', async (t) => {
    const record = env.submit({ script: 'sleep 1; echo x > /x' });
    await t.rejects(createEngine({ stateDir: env.stateDir, name: env.label }), { code: 'E_STATE', message: /another rootlayer/ });
    t.match((await env.finish(record)).job, { state: 'done' }, 'the running job goes on');
    t.match((await env.run({ script: 'true' })).job, { state: 'done' }, 'and the next one works');
  });

  t.test('the base may be renamed or removed while a job waits or runs: the result is made of what the job ran on', async (t) => {
    const first = await env.run({ script: 'echo 1 > /one', name: 'moving:1' });
    t.equal(first.job.state, 'done');
    const running = env.submit({ script: 'sleep 1; cat /one; echo 2 > /two', from: 'moving:1', name: 'result:1' });
    await env.engine.removeImage({ uid: 0 }, 'moving:1');
    const { job, stdout } = await env.finish(running);
    t.match(job, { state: 'done', imageName: 'result:1' }, JSON.stringify(job.error));
    t.equal(stdout, '1\n');
    t.equal((await env.run({ script: 'cat /one /two', from: 'result:1' })).stdout, '1\n2\n');
  });

  for (const sentBytes of [0, 1, 1000, 200_000]) {
    t.test(`C04 a client that goes away after ${sentBytes} bytes of an image ends its import and nothing else`, async (t) => {
      const gone = new AbortController();
      const source = new Readable({ read() {} });
      if (sentBytes > 0) source.push(readFileSync(baseImagePath()).subarray(0, sentBytes));
      const options = { name: null, select: null, shared: false };
      const importing = env.engine.importImage({ uid: 0 }, source, options, () => {}, gone.signal);
      setTimeout(() => {
        gone.abort(new Error('the client is gone'));
        source.destroy(new Error('aborted'));
      }, 200);
      await t.rejects(importing);
      t.match((await env.run({ script: 'true' })).job, { state: 'done' });
      t.same(readdirSync(join(env.stateDir, 'ingest')), []);
    });
  }

  t.test('C04 an upload whose client left before its worker was ready ends at once', async (t) => {
    const source = new Readable({ read() {} });
    source.on('error', () => {});
    source.destroy(new Error('aborted'));
    const options = { name: null, select: null, shared: false };
    const importing = env.engine.importImage({ uid: 0 }, source, options, () => {}, new AbortController().signal);
    await t.rejects(importing, { code: 'E_ARCHIVE_TRUNCATED' });
  });

  closeTestEngine(t, env);
}
