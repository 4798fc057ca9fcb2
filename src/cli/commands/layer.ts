import { createReadStream } from 'node:fs';
import process from 'node:process';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { Command } from 'commander';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarType } from '../../core/tar/entry.ts';
import { TarReader } from '../../core/tar/reader.ts';
import { parseTarsumLabel, tarsumOf } from '../../core/tarsum.ts';
import { print, printJson } from '../output.ts';

export function layerCommand(): Command {
  return new Command('layer')
    .addCommand(tarsumCommand())
    .addCommand(lsCommand())
    .addHelpText('after', '\nExample:\n  rootlayer layer ls layer.tar');
}

function tarsumCommand(): Command {
  return new Command('tarsum')
    .description('print the tarsum of a layer: for comparing, not for security')
    .argument('<file>', 'a tar, plain or gzip; "-" is standard input')
    .option('--label <label>', 'version and hash', 'tarsum.v1+sha256')
    .option('--json', 'print it as JSON')
    .addHelpText('after', '\nExample:\n  rootlayer layer tarsum layer.tar')
    .action(async (file: string, options: { label: string; json?: boolean }) => {
      const label = parseTarsumLabel(options.label);
      const tarsum = await tarsumOf(openLayer(file), label);
      if (options.json) printJson({ tarsum });
      else print(tarsum);
    });
}

function lsCommand(): Command {
  return new Command('ls')
    .description('list what is in a layer')
    .argument('<file>', 'a tar, plain or gzip; "-" is standard input')
    .option('--json', 'print one JSON document')
    .addHelpText('after', '\nExample:\n  rootlayer layer ls layer.tar')
    .action(async (file: string, options: { json?: boolean }) => {
      const entries: unknown[] = [];
      const reader = new TarReader({
        entry: (entry) => {
          if (options.json) entries.push(entryJson(entry));
          else print(entryLine(entry));
        },
        data: () => {},
        entryEnd: () => {},
      });
      for await (const chunk of openLayer(file)) reader.write(chunk);
      reader.end();
      if (options.json) printJson({ entries });
    });
}

const TYPE_LETTERS: Record<TarType, string> = { file: '-', hardlink: 'h', symlink: 'l', char: 'c', block: 'b', directory: 'd', fifo: 'p' };

/** Names have other bytes than printable ASCII as `\xNN`, so that each member is one line. */
function entryLine(entry: TarEntry): string {
  const time = new Date(entry.mtimeSec * 1000);
  const when = Number.isNaN(time.getTime()) ? `@${entry.mtimeSec}` : time.toISOString().replace('.000Z', 'Z');
  const size = entry.type === 'char' || entry.type === 'block' ? `${entry.devMajor},${entry.devMinor}` : String(entry.size);
  const link = linkArrow(entry);
  return `${TYPE_LETTERS[entry.type]}${entry.mode.toString(8).padStart(4, '0')} ${entry.uid}:${entry.gid} ${size.padStart(10)} ${when} ${escapeName(entry.name, MAX_NAME)}${link}`;
}

const MAX_NAME = 65_536;

function linkArrow(entry: TarEntry): string {
  if (entry.type === 'symlink') return ` -> ${escapeName(entry.linkName, MAX_NAME)}`;
  return entry.type === 'hardlink' ? ` link to ${escapeName(entry.linkName, MAX_NAME)}` : '';
}

function entryJson(entry: TarEntry): unknown {
  return {
    name: escapeName(entry.name, MAX_NAME),
    type: entry.type,
    mode: entry.mode,
    uid: entry.uid,
    gid: entry.gid,
    size: entry.size,
    mtimeSec: entry.mtimeSec,
    linkName: entry.linkName.length === 0 ? null : escapeName(entry.linkName, MAX_NAME),
    xattrs: entry.xattrs.map(({ name, value }) => ({ name: escapeName(name), value: value.toString('base64') })),
  };
}

async function* openLayer(file: string): AsyncGenerator<Buffer, void, undefined> {
  const stream: Readable = file === '-' ? process.stdin : createReadStream(file, { highWaterMark: 1024 * 1024 });
  try {
    yield* decompressed(stream, file);
  } catch (error) {
    if (error instanceof RootlayerError || !(error instanceof Error) || !('code' in error)) throw error;
    const isZlib = String(error.code).startsWith('Z_');
    throw new RootlayerError(isZlib ? 'E_COMPRESSION' : 'E_USAGE', `Cannot read layer "${file}": ${error.message}`, { cause: error });
  }
}

/** Told by the first bytes. Source: RFC 1952, section 2.3.1; RFC 8878, section 3.1.1. */
async function* decompressed(stream: Readable, file: string): AsyncGenerator<Buffer, void, undefined> {
  const source = (stream as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  const first = await source.next();
  if (first.done === true) return;
  const chunks = joined(first.value, source);
  const magic = first.value.subarray(0, 4).toString('hex');
  if (magic === '28b52ffd') {
    throw new RootlayerError('E_COMPRESSION', `Cannot read layer "${file}": it is zstd, want a plain tar or gzip`, {
      hint: `zstd -dc ${file} | rootlayer layer ... -`,
    });
  }
  if (!magic.startsWith('1f8b')) {
    yield* chunks;
    return;
  }
  const gunzip = createGunzip();
  const done = pipeline(Readable.from(chunks), gunzip);
  done.catch(() => {});
  yield* gunzip as AsyncIterable<Buffer>;
  await done;
}

async function* joined(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  yield first;
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield next.value;
}
