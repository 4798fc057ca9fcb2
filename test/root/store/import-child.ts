/** Imports an archive into a state directory, for a test that kills it: a line for each stage, and one at the end. */
import { openSync } from 'node:fs';
import { Store } from '../../../src/store/store.ts';

const [stateDir = '', archive = '', uidBase = ''] = process.argv.slice(2);
const store = Store.open(stateDir, Number(uidBase));
await store.recover();
let stage = '';
const image = await store.importArchive(
  1000,
  { fd: openSync(archive, 'r') },
  { name: null, select: null, shared: false },
  (progress) => {
    if (progress.stage !== stage) process.stdout.write(`${progress.stage}\n`);
    stage = progress.stage;
  },
  new AbortController().signal,
);
process.stdout.write(`done ${image.id}\n`);
await store[Symbol.asyncDispose]();
