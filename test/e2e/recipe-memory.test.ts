import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import t from 'tap';

const MIB = 1024 * 1024;
const FILE_MIB = 1024;
const MAX_RSS_MIB = 200;

/** Builds an image of a directory and writes it nowhere; prints its size and the most memory that was in use. */
const CHILD = `
const { buildImage } = await import(process.argv[1]);
const signal = new AbortController().signal;
const context = { signal, note() {}, progress() {}, session: () => Promise.reject(new Error('no script is to run')) };
const image = await buildImage({ name: 'large', copyToRoot: process.argv[2], compressor: 'none', compat: process.argv[3] }, context);
let size = 0;
for await (const chunk of image.open(signal)) size += chunk.length;
console.log(JSON.stringify({ size, rssMib: process.resourceUsage().maxRSS / 1024 }));
`;

for (const compat of ['none', 'seed']) {
  t.test(
    `buildImage() with compat "${compat}" holds no file in memory: an image of ${FILE_MIB} MiB in less than ${MAX_RSS_MIB} MiB`,
    async (t) => {
      const item = mkdtempSync(path.join(tmpdir(), 'memory-'));
      t.teardown(() => rmSync(item, { recursive: true, force: true }));
      const file = path.join(item, 'sparse');
      writeFileSync(file, '');
      truncateSync(file, FILE_MIB * MIB);
      const main = new URL('../../src/recipe/build/build-image.js', import.meta.url).href;
      const ran = spawnSync(process.execPath, ['--input-type=module', '--eval', CHILD, main, item, compat], { encoding: 'utf8' });
      t.equal(ran.stderr, '');
      const { size, rssMib } = JSON.parse(ran.stdout) as { size: number; rssMib: number };
      t.ok(size > FILE_MIB * MIB);
      t.ok(rssMib < MAX_RSS_MIB, `${Math.round(rssMib)} MiB`);
    },
  );
}
