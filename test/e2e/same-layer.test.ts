import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { type Ended, rootlayerOk } from '../helpers/command.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { repoRoot } from '../helpers/repo.ts';
import { baseImagePath, debsPath, requires } from '../helpers/requires.ts';

requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image', 'debs');

const directory = mkdtempSync(path.join(tmpdir(), 'same-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
const at = (name: string): string => path.join(directory, name);

/** What a job's summary says of its layer. */
type Summary = { layer: { diffId: string; digest: string; tarsum: string; sizeBytes: number; entries: number } };

/** The same job each time, down to the time that its layer carries. */
const job = ['run', '--from', baseImagePath(), '--script', path.join(repoRoot, 'examples/install.sh'), '--copy', debsPath()];
const sameTime = ['--source-date-epoch', '1700000000', '--json'];

const layerOf = ({ stdout }: Ended): Summary['layer'] => (JSON.parse(stdout) as Summary).layer;

t.test('run gives the same layer twice by itself and once by a daemon, under --source-date-epoch', { timeout: 240_000 }, async (t) => {
  const embedded = (out: string) => rootlayerOk([...job, ...sameTime, '--state-dir', at('embedded'), '-o', at(out)]);
  const first = layerOf(await embedded('first.tar'));
  const second = layerOf(await embedded('second.tar'));
  const daemon = await startDaemon(t, { directory: at('.') });
  const third = layerOf(await daemon.clientOk([...job, ...sameTime, '-o', at('third.tar')]));
  daemon.signal('SIGTERM');
  t.equal(await daemon.ended, 0);
  t.strictSame(second, first);
  t.strictSame(third, first);
  const bytes = readFileSync(at('first.tar'));
  t.ok(bytes.equals(readFileSync(at('second.tar'))));
  t.ok(bytes.equals(readFileSync(at('third.tar'))));
  t.ok(first.entries > 500);
});

t.test('the diffID follows the content: another file gives another', { timeout: 120_000 }, async (t) => {
  const small = async (text: string) =>
    layerOf(
      await rootlayerOk(['run', '--from', baseImagePath(), '--script', '-', '--state-dir', at('embedded'), ...sameTime], {
        input: `echo ${text} > /etc/greeting`,
      }),
    );
  const one = await small('one');
  t.equal((await small('one')).diffId, one.diffId);
  t.not((await small('two')).diffId, one.diffId);
});
