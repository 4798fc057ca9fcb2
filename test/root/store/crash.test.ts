import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { hexOf } from '../../../src/core/digest.ts';
import { storeUidBase } from '../../helpers/base-range.ts';
import { requires } from '../../helpers/requires.ts';
import { LIVE, scratchFor, withStore } from './test-store.ts';
import { BOTTOM, layerTar, sha256, TOP, tinyImage, writeDockerArchive } from './tiny-image.ts';

requires(t, 'root', 'launcher');
t.setTimeout(180_000);

/** Large enough that the stages take some time. */
const BIG = layerTar(Object.fromEntries(Array.from({ length: 3000 }, (_, n) => [`file-${n}`, { body: String(n).repeat(500) }])));
const IMAGE = tinyImage([BOTTOM, BIG, TOP]);

/** Starts an import and kills it with SIGKILL some milliseconds after it has said a word; gives whether it had finished. */
async function importAndKill(state: string, archive: string, word: string, delayMs: number): Promise<boolean> {
  const entry = path.join(import.meta.dirname, 'import-child.js');
  const child = spawn(process.execPath, [entry, state, archive, String(storeUidBase)], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  let said = '';
  for await (const chunk of child.stdout) {
    said += String(chunk);
    if (!said.includes(word)) continue;
    await sleep(delayMs);
    child.kill('SIGKILL');
    break;
  }
  await exited;
  return said.includes('done');
}

/** Opens the store again: an import is there whole, or nothing of it is. Gives whether it is. */
async function isWhole(t: Test, dir: string): Promise<boolean> {
  let found = false;
  await withStore(t, dir, async (store) => {
    const images = store.listImages(0);
    found = images.length > 0;
    const layers = found ? IMAGE.layers.map((layer) => hexOf(sha256(layer))).sort() : [];
    const blobs = found ? [...layers, hexOf(sha256(IMAGE.config))].sort() : [];
    const list = (part: string): string[] => readdirSync(path.join(dir, 'state', part)).sort();
    t.same(
      [list('blobs/sha256'), list('layers'), list('ingest'), list('trash')],
      [blobs, layers, [], []],
      'nothing is there that is not listed',
    );
    t.same(await store.verifyBlobs(LIVE), [], 'and every blob has its digest');
    for (const image of images) {
      await using lease = await store.leaseImage(image, () => {}, LIVE);
      t.equal(lease.layers.length, 3);
      t.equal(readdirSync(lease.layers[1]?.path ?? '').length, 3000);
    }
  });
  return found;
}

t.test('Store.recover() leaves a killed import whole or not at all', async (t) => {
  const dir = scratchFor(t);
  const archive = await writeDockerArchive(dir, IMAGE, ['big:1']);
  const points: [string, number][] = [
    ...[0, 5, 20].map((delayMs): [string, number] => ['ingest', delayMs]),
    ...[0, 5, 10, 20, 40, 80, 120, 160].map((delayMs): [string, number] => ['unpack', delayMs]),
  ];
  for (const [word, delayMs] of points) {
    const hadFinished = await importAndKill(path.join(dir, 'state'), archive, word, delayMs);
    const found = await isWhole(t, dir);
    t.ok(found || !hadFinished, `killed ${delayMs} ms after ${word}: what was reported as done is there`);
    if (found) await withStore(t, dir, async (store) => store.removeImage(1000, 'big:1'));
  }
  t.ok(await importAndKill(path.join(dir, 'state'), archive, 'done', 0), 'an import that said so');
  t.ok(await isWhole(t, dir), 'is there after SIGKILL');
});
