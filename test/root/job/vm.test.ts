import t from 'tap';
import { closeTestEngine, openTestEngine, readTar } from '../../helpers/engine.ts';
import { requires } from '../../helpers/requires.ts';
import { deterministicScripts } from '../../suites/deterministic-scripts.ts';
import { jobBehaviour } from '../../suites/job-behaviour.ts';
import { randomSequences } from '../../suites/random-sequences.ts';

requires(t, 'qemu-system-x86_64', 'vm-kernel', 'umoci');
const env = await openTestEngine(t);
if (env !== null) {
  jobBehaviour(t, env, 'vm');

  t.test('a deterministic script gives the same diffID in userns and in vm', { timeout: 300_000 }, async (t) => {
    for (const { name, script } of deterministicScripts) {
      const [userns, vm] = [
        await env.run({ script, sourceDateEpoch: 1_700_000_000, isolation: 'userns' }),
        await env.run({ script, sourceDateEpoch: 1_700_000_000, isolation: 'vm' }),
      ];
      t.equal(userns.job.state, 'done', `${name}: ${JSON.stringify(userns.job.error)} ${userns.stderr}`);
      t.equal(vm.job.layer?.diffId, userns.job.layer?.diffId, `${name}: ${JSON.stringify(vm.job.error)} ${vm.stderr}`);
    }
  });

  t.test('mounts, devices, loop devices and user namespaces work inside, and devices reach the layer', async (t) => {
    const script = `
      mknod /srv/null c 1 3; mknod /srv/disk b 7 42; chmod 600 /srv/disk
      mkdir /tmp/m; mount -t tmpfs x /tmp/m; umount /tmp/m; rmdir /tmp/m
      truncate -s 4M /tmp/image; mkfs.ext4 -q /tmp/image; mkdir /tmp/loop; mount -o loop /tmp/image /tmp/loop; umount /tmp/loop; rm -r /tmp/loop /tmp/image
      unshare --user --map-root-user true
      chown 7:9 /srv/null; echo fine`;
    const { job, stdout, stderr } = await env.run({ isolation: 'vm', script });
    t.equal(stdout, 'fine\n', stderr);
    t.equal(job.state, 'done', JSON.stringify(job.error));
    const members = new Map(readTar(await env.layer(job)).map(({ header }) => [header.name.toString(), header]));
    t.match(members.get('srv/null'), { type: 'char', devMajor: 1, devMinor: 3, uid: 7, gid: 9 });
    t.match(members.get('srv/disk'), { type: 'block', devMajor: 7, devMinor: 42, mode: 0o600 });
  });

  t.test('the guest has nothing of the host: no network but a loopback, none of its files', async (t) => {
    const { stdout } = await env.run({
      isolation: 'vm',
      script: 'ls /sys/class/net; cat /proc/sys/kernel/hostname; grep -c . /proc/mounts >/dev/null',
    });
    t.equal(stdout, 'lo\nrootlayer\n');
    t.throws(() => env.submit({ isolation: 'vm', network: 'host', script: 'true' }), { code: 'E_MISSING_FEATURE' });
  });

  t.test('V14 a guest whose kernel panics, or that is switched off, is told, and gives no layer', async (t) => {
    for (const ending of ['echo c > /proc/sysrq-trigger; sleep 60', 'echo o > /proc/sysrq-trigger; sleep 60']) {
      const { job, stdout } = await env.run({ isolation: 'vm', script: `echo before; ${ending}`, limits: { timeMs: 60_000 } });
      t.match(job, { state: 'failed', error: { code: 'E_VM_CRASH' }, layer: null, exitStatus: null }, ending);
      t.equal(stdout, 'before\n');
    }
  });

  t.test('the record says who tells the exit status, and what an emulated machine is worth', async (t) => {
    const { job, events } = await env.run({ isolation: 'vm', script: 'exit 3' });
    t.match(job, { exitStatus: 3, exitStatusBy: 'guest', isolation: { used: 'vm' } });
    if (job.isolation?.boundary === 'hardware') return;
    t.match(job.isolation, { boundary: 'none', why: /emulation/ });
    t.match(
      events.find((event) => event.type === 'warning'),
      { message: /no security boundary/ },
    );
  });

  t.test('a job on several layers sees them merged, and its layer is exact', { timeout: 120_000 }, async (t) => {
    const made = (script: string, from: string, name: string) => env.run({ script, from, name, isolation: 'userns' });
    await made('echo 2 > /two; rm /etc/issue; rm -r /usr/share/man; mkdir /usr/share/man', 'debian:bookworm', 'two:latest');
    await made('echo 3 > /three; rm /two', 'two:latest', 'three:latest');
    const script = '(ls /two /three /etc/issue 2>/dev/null || :); ls /usr/share/man | wc -l; rm /three; echo x > /usr/share/man/x';
    const [userns, vm] = [
      await env.run({ script, from: 'three:latest', sourceDateEpoch: 1_700_000_000, isolation: 'userns' }),
      await env.run({ script, from: 'three:latest', sourceDateEpoch: 1_700_000_000, isolation: 'vm' }),
    ];
    t.equal(vm.stdout, '/three\n0\n', JSON.stringify(vm.job.error));
    t.equal(vm.job.layer?.diffId, userns.job.layer?.diffId);
  });

  await randomSequences(t, env, 'vm', { sequences: 10, atOnce: 2, timeoutMs: 600_000 });

  closeTestEngine(t, env);
}
