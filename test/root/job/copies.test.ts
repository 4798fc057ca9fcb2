import { Readable } from 'node:stream';
import t from 'tap';
import { pathMounter } from '../../../src/overlay/mounter.ts';
import { closeTestEngine, openTestEngine, ROOT, readTar, type TestEngine } from '../../helpers/engine.ts';
import { archive, member } from '../../helpers/tar-builder.ts';

const env = await openTestEngine(t);

function upload({ engine }: TestEngine, ...members: Buffer[]): Promise<string> {
  return engine.addContext(ROOT, Readable.from([archive(...members)]), AbortSignal.timeout(5000));
}

const tool = member({ name: 'copy/bin/tool', mode: 0o755 }, '#!/bin/sh\necho ran\n');

if (env !== null) {
  t.test('copied files go where the symlinks of the base lead, and leave its directories as they are', async (t) => {
    const script = 'tool; readlink /bin; stat -c %a,%Y /usr/bin /tmp /root >> /before; cat /before';
    for (const isolation of ['userns', 'chroot']) {
      const contextId = await upload(env, tool, member({ name: 'copy/tmp/x' }), member({ name: 'copy/root/y' }));
      const { job, stdout } = await env.run({ script, isolation, contextId });
      t.equal(job.state, 'done', JSON.stringify(job.error));
      t.match(stdout, /^ran\nusr\/bin\n755,\d{2,}\n1777,\d{2,}\n700,\d{2,}\n$/, isolation);
      const layer = readTar(await env.layer(job)).map(({ header }) => `${header.name} ${header.mode.toString(8)} ${header.mtimeSec > 0}`);
      t.ok(layer.includes('tmp/ 1777 true') && layer.includes('root/ 700 true') && layer.includes('usr/bin/ 755 true'), layer.join());
    }
  });

  t.test('below exact, owners stay, and a directory that the base has takes what the context says', async (t) => {
    const contextId = await upload(
      env,
      tool,
      member({ name: 'exact/srv/', type: '5', uid: 5, gid: 6, mode: 0o2711, mtime: 77 }),
      member({ name: 'exact/srv/z', uid: 65_535, gid: 6, mode: 0o4711, mtime: 78 }, 'x'),
    );
    const { job, stdout } = await env.run({ script: 'stat -c %u:%g,%a,%Y /srv /srv/z; stat -c %u:%g /usr/bin/tool', contextId });
    t.equal(stdout, '5:6,2711,77\n65535:6,4711,78\n0:0\n', JSON.stringify(job.error));
    t.match(
      readTar(await env.layer(job))
        .filter(({ header }) => header.name.toString().startsWith('srv'))
        .map(({ header: { uid, gid, mode, mtimeSec } }) => [uid, gid, mode, mtimeSec]),
      [
        [5, 6, 0o2711, 77],
        [65_535, 6, 0o4711, 78],
      ],
    );
  });

  t.test('a context that may not be copied fails the job with its own code', async (t) => {
    const contextId = await upload(env, member({ name: 'exact/x', type: '3', devMajor: 1, devMinor: 3 }));
    t.match((await env.run({ script: 'true', contextId })).job, { state: 'failed', error: { code: 'E_ARCHIVE_DEVICE' } });
  });

  t.test('a base of several layers is looked up as one, also where overlays are mounted by path', async (t) => {
    await env.close();
    const layered = await openTestEngine(t, { mounter: pathMounter });
    if (layered === null) return;
    await layered.run({ script: 'mkdir -m 711 /first; ln -s first /way; rm -r /opt', name: 'one:latest' });
    await layered.run({ script: 'chown 7:8 /first; ln -s /first /second', name: 'two:latest', from: 'one:latest' });
    const contextId = await upload(
      layered,
      member({ name: 'copy/second/a' }),
      member({ name: 'copy/way/b' }),
      member({ name: 'copy/opt/c' }),
    );
    const { job, stdout } = await layered.run({ script: 'cd /first; echo *; stat -c %a,%u:%g . /opt', from: 'two:latest', contextId });
    t.equal(stdout, 'a b\n711,7:8\n755,0:0\n', JSON.stringify(job.error));
    await layered.close();
  });

  closeTestEngine(t, env);
}
