import { createHash } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { closeTestEngine, openTestEngine, ROOT, readTar } from '../../helpers/engine.ts';

const env = await openTestEngine(t);
if (env !== null) {
  const signal = new AbortController().signal;

  t.test('exportImage() gives the merged root as a tar, with the digest it is announced with', async (t) => {
    const { stream, digest, sizeBytes } = await env.engine.exportImage(ROOT, 'debian:bookworm', 'rootfs-tar', signal);
    const bytes = await buffer(stream);
    t.equal(bytes.length, sizeBytes);
    t.equal(`sha256:${createHash('sha256').update(bytes).digest('hex')}`, digest);
    const passwd = readTar(bytes).find(({ header }) => header.name.toString() === 'etc/passwd');
    t.match(passwd?.header, { type: 'file', uid: 0, gid: 0, mode: 0o644 });
    t.match(passwd?.body.toString(), /^root:x:0:0:/);
  });

  t.test("openJobImage() gives base and layer merged: what was deleted is gone, owners and capabilities are the script's", async (t) => {
    const { job } = await env.run({
      script: 'rm /etc/issue; echo x > /srv/x; chown 3:4 /srv/x; cp /bin/true /srv/capped; setcap cap_net_raw+ep /srv/capped',
    });
    t.equal(job.state, 'done', JSON.stringify(job.error));
    const { stream } = await env.engine.openJobImage(ROOT, job.id, 'rootfs-tar', signal);
    const members = new Map(readTar(await buffer(stream)).map(({ header }) => [header.name.toString(), header]));
    t.notOk(members.has('etc/issue'));
    t.notOk([...members.keys()].some((name) => name.includes('.wh.')));
    t.match(members.get('srv/x'), { uid: 3, gid: 4 });
    t.equal(members.get('srv/capped')?.xattrs[0]?.value.toString('hex'), '0100000200200000000000000000000000000000');
  });

  t.test('layerJson() is the config of the result with the tarsum of the layer', async (t) => {
    const { job } = await env.run({ script: 'echo y > /srv/y', config: { Cmd: ['/srv/y'], Env: ['A=1'] } });
    const json = JSON.parse(await env.engine.layerJson(ROOT, job.id)) as { checksum: string; config: { Cmd: string[]; Env: string[] } };
    t.equal(json.checksum, job.layer?.tarsum);
    t.same(json.config.Cmd, ['/srv/y']);
    t.ok(json.config.Env.includes('A=1') && json.config.Env.some((variable) => variable.startsWith('PATH=')), 'merged over the base');
  });

  closeTestEngine(t, env);
}
