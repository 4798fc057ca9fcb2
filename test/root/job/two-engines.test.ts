import t from 'tap';
import { createEngine } from '../../../src/engine.ts';
import { closeTestEngine, openTestEngine } from '../../helpers/engine.ts';

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

  closeTestEngine(t, env);
}
