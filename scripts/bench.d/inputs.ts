import { closeSync, mkdirSync, openSync, statSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { run, runScript } from './command.ts';
import { makeDirectory, type Workspace } from './workspace.ts';

/** The Debian base in its forms. */
export type Base = { archive: string; layer: string; layerGzip: string; rootfs: string };

const manifestSchema = z.array(z.object({ Layers: z.array(z.string()).length(1) })).length(1);

/** Makes the forms of a docker-archive with one image of one layer. */
export async function makeBase(workspace: Workspace, source: string): Promise<Base> {
  const dir = makeDirectory(workspace, 'base');
  const base = { archive: path.join(dir, 'image.tar'), layer: path.join(dir, 'layer.tar'), layerGzip: path.join(dir, 'layer.tar.gz') };
  const manifest = manifestSchema.parse(JSON.parse(await run(['tar', '-xOf', source, 'manifest.json'])));
  const member = manifest[0]?.Layers[0] ?? '';
  const rootfs = path.join(dir, 'rootfs');
  mkdirSync(rootfs);
  await run(['cp', source, base.archive]);
  await runScript('tar -xOf "$1" "$2" >"$3"; tar -xpf "$3" --numeric-owner --xattrs --xattrs-include="*" -C "$4"; pigz -c "$3" >"$5"', [
    base.archive,
    member,
    base.layer,
    rootfs,
    base.layerGzip,
  ]);
  return { ...base, rootfs };
}

/** A file's size for people, with one digit after the point. */
export function megabytes(file: string): string {
  return `${(statSync(file).size / 1e6).toFixed(0)} MB`;
}

const SMALL_FILES = 20_000;
const SMALL_PER_DIRECTORY = 100;
const KIB = 1024;

/** A tree of 20,000 files of 1 to 8 KiB, the same each time. */
export function makeSmallFiles(workspace: Workspace): string {
  const dir = makeDirectory(workspace, 'small');
  const noise = makeNoise(64 * KIB);
  let state = 1;
  for (let n = 0; n < SMALL_FILES; n += 1) {
    const parent = path.join(dir, `d${Math.floor(n / SMALL_PER_DIRECTORY)}`);
    if (n % SMALL_PER_DIRECTORY === 0) mkdirSync(parent);
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    const size = KIB + (state % (7 * KIB));
    const start = (state >>> 8) % (noise.length - size);
    writeFileSync(path.join(parent, `f${n}`), noise.subarray(start, start + size));
  }
  return dir;
}

/** A directory with one file of 2 GiB without holes. */
export function makeBigFile(workspace: Workspace): string {
  const dir = makeDirectory(workspace, 'big');
  const noise = makeNoise(KIB * KIB);
  const fd = openSync(path.join(dir, 'file'), 'w');
  for (let n = 0; n < 2048; n += 1) writeSync(fd, noise);
  closeSync(fd);
  return dir;
}

/** Bytes without a pattern that anything here could use, from xorshift32. */
function makeNoise(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 0x9e3779b9;
  for (let at = 0; at < length; at += 4) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes.writeInt32LE(state, at);
  }
  return bytes;
}
