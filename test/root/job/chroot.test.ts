import t from 'tap';
import { closeTestEngine, openTestEngine, readTar } from '../../helpers/engine.ts';
import { jobBehaviour } from '../../suites/job-behaviour.ts';

const env = await openTestEngine(t);
if (env !== null) {
  jobBehaviour(t, env, 'chroot');

  t.test('chroot gives the script real root: mounts and devices work', async (t) => {
    const { job, stdout } = await env.run({
      isolation: 'chroot',
      script: 'cat /proc/self/uid_map; mkdir /tmp/m; mount -t tmpfs x /tmp/m && umount /tmp/m && rmdir /tmp/m && echo mounted',
    });
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.match(stdout, /^\s+0\s+0\s+4294967295\nmounted$/m);
    t.match(job.isolation, { used: 'chroot', why: 'asked for' });
  });

  t.test('chroot is refused to callers whom the policy does not trust', (t) => {
    t.throws(() => env.submit({ caller: { uid: 1000 }, isolation: 'chroot', script: 'true' }), { code: 'E_FORBIDDEN' });
    t.throws(() => env.submit({ caller: { uid: 1000 }, network: 'host', script: 'true' }), { code: 'E_FORBIDDEN' });
    t.end();
  });

  t.test('owners and capabilities in the layer are those of the script', async (t) => {
    const { job } = await env.run({
      isolation: 'chroot',
      script: 'cp /bin/true /usr/bin/capped; chown 7:8 /usr/bin/capped; setcap cap_net_raw+ep /usr/bin/capped',
    });
    const capped = readTar(await env.layer(job)).find(({ header }) => header.name.toString() === 'usr/bin/capped');
    t.match(capped?.header, { uid: 7, gid: 8 });
    t.equal(capped?.header.xattrs[0]?.value.toString('hex'), '0100000200200000000000000000000000000000');
  });

  closeTestEngine(t, env);
}
