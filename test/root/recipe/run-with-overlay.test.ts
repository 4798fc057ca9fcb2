import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { sessionOf } from '../../../src/api/embedded.ts';
import { type RunWithOverlayArgs, runWithOverlay } from '../../../src/recipe/build/run-with-overlay.ts';
import { packTree } from '../../../src/recipe/tree/pack.ts';
import { closeTestEngine, openTestEngine, ROOT, readTar, type TestEngine } from '../../helpers/engine.ts';
import { contextWith } from '../../helpers/image-judges.ts';
import { toolsLayer, writeBase } from '../../helpers/tools-base.ts';
import { layerTar } from '../store/tiny-image.ts';

t.setTimeout(180_000);
const env = await openTestEngine(t);
if (env !== null) {
  await overlayTests(env);
  closeTestEngine(t, env);
}

async function overlayTests(env: TestEngine): Promise<void> {
  const context = contextWith(sessionOf(env.engine, ROOT));
  const { signal } = context;
  const bases = mkdtempSync(path.join(tmpdir(), 'overlay-'));
  t.teardown(() => rmSync(bases, { recursive: true, force: true }));
  const data = layerTar({ 'data/': {}, 'data/one': { body: '1' }, 'data/two': { body: '2' } });
  const base = writeBase(bases, 'base:1', [await toolsLayer(), data]);

  type Made = { layer: Map<string, string>; output: Map<string, string> };
  const textsOf = (tar: Buffer): Map<string, string> =>
    new Map(readTar(tar).map(({ header, body }) => [header.name.toString(), `${header.linkName}${body.length > 1000 ? '' : body}`]));
  const run = async (args: Omit<RunWithOverlayArgs, 'name'>): Promise<Made> => {
    await using made = await runWithOverlay({ name: 'n', ...args }, context);
    const output = textsOf(await buffer(packTree(made.tree, { format: 'plain' }, signal)));
    return { layer: textsOf(await buffer(made.layer.open(signal))), output };
  };

  t.test('runWithOverlay() runs its hooks in order around the overlay, with one working directory', async (t) => {
    const { layer, output } = await run({
      fromImage: base,
      preMount: 'test ! -e mnt/data; echo pre > layer/pre; echo note > note; ls -A layer',
      postMount: 'cat mnt/pre mnt/data/one note > mnt/seen; rm mnt/data/two; mkdir mnt/new; echo more >> note',
      postUmount: 'ls -A layer > layer/listed; cat note > layer/note; test ! -e mnt/seen',
    });
    t.same([...layer.keys()], ['./', 'data/', 'data/.wh.two', 'listed', 'new/', 'note', 'pre', 'seen']);
    t.equal(layer.get('seen'), 'pre\n1note\n');
    t.equal(layer.get('note'), 'note\nmore\n');
    t.equal(layer.get('listed'), 'data\nlisted\nnew\npre\nseen\n');
    t.same([...output.keys()], ['./', 'layer.tar']);
    t.ok(context.notes.includes('Executing pre-mount steps...') && context.notes.includes('Executing post-mount steps...'));
  });

  t.test('runWithOverlay() without a base mounts the layer alone', async (t) => {
    const { layer } = await run({ preMount: 'echo 1 > layer/a', postMount: 'cat mnt/a; rm mnt/a; echo 2 > mnt/b' });
    t.same(
      [...layer],
      [
        ['./', ''],
        ['b', '2\n'],
      ],
    );
  });

  t.test('runWithOverlay() gives what the hooks put into $out', async (t) => {
    const { output } = await run({
      fromImage: base,
      preMount: 'mkdir $out; echo "$name" > $out/name',
      postMount: 'cp mnt/data/one $out/one',
      postUmount: 'echo "$SOURCE_DATE_EPOCH" > $out/epoch; echo mine > $out/layer.tar',
    });
    t.same(
      [...output],
      [
        ['./', ''],
        ['epoch', '315532800\n'],
        ['layer.tar', 'mine\n'],
        ['name', 'n\n'],
        ['one', '1'],
      ],
    );
  });

  t.test('runWithOverlay() without hooks gives an empty layer', async (t) => {
    t.same([...(await run({ fromImage: base })).layer.keys()], ['./']);
  });

  t.test('runWithOverlay() runs hooks in a sandbox: they see neither the files nor the processes of the host', async (t) => {
    const { layer } = await run({
      preMount: `test ! -e ${bases}; ls -d /proc/[0-9]* | wc -l > layer/count; cat /proc/self/uid_map > layer/map`,
    });
    t.ok(Number(layer.get('count')) < 10);
    t.notMatch(layer.get('map'), /^\s+0\s+0\s/, 'root of the sandbox is not root of the host');
  });

  t.test('runWithOverlay() ends with the first hook that fails', async (t) => {
    const failing = { fromImage: base, preMount: 'true', postMount: 'exit 3', postUmount: 'echo never' };
    await t.rejects(run(failing), { code: 'E_SCRIPT', cause: { exitStatus: 3 } });
    t.notOk(context.notes.includes('never'));
    t.same(
      env.engine.listJobs(ROOT).map(({ state }) => state),
      ['failed'],
    );
  });
}
