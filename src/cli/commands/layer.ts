import { createReadStream } from 'node:fs';
import process from 'node:process';
import type { Readable } from 'node:stream';
import { Command } from 'commander';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { TarEntry, TarType } from '../../core/tar/entry.ts';
import { TarReader } from '../../core/tar/reader.ts';
import { parseTarsumLabel, TARSUM_HASHES, TARSUM_VERSIONS, type TarsumOptions, tarsumOf, tarsumVersionOf } from '../../core/tarsum.ts';
import { plainTar } from '../../recipe/archive/tarsum-stream.ts';
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
    .argument('<file>', 'a tar, plain, gzip or zstd; "-" is standard input')
    .option('--label <label>', `version and hash: ${TARSUM_VERSIONS.join(', ')}, "+", and sha256 or sha512`, 'tarsum.v1+sha256')
    .option('--hash <hash>', `instead of the label's: ${TARSUM_HASHES.join(', ')}`)
    .option('--json', 'print it as JSON')
    .addHelpText('after', '\nExample:\n  rootlayer layer tarsum layer.tar')
    .action(async (file: string, options: { label: string; hash?: string; json?: boolean }) => {
      const tarsum = await tarsumOf(openLayer(file), tarsumChoice(options));
      if (options.json) printJson({ tarsum });
      else print(tarsum);
    });
}

/** moby's labels name two of the hashes; the others have an option of their own. */
function tarsumChoice({ label, hash }: { label: string; hash?: string }): TarsumOptions {
  const choice = label.includes('+') ? parseTarsumLabel(label) : { version: tarsumVersionOf(label) };
  if (hash === undefined) return choice;
  const known = TARSUM_HASHES.find((name) => name === hash);
  if (known !== undefined) return { ...choice, hash: known };
  throw new RootlayerError('E_USAGE', `Cannot use --hash ${JSON.stringify(hash)}: want one of ${TARSUM_HASHES.join(', ')}`);
}

function lsCommand(): Command {
  return new Command('ls')
    .description('list what is in a layer')
    .argument('<file>', 'a tar, plain, gzip or zstd; "-" is standard input')
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
    yield* plainTar(stream, new AbortController().signal);
  } catch (error) {
    if (error instanceof RootlayerError || !(error instanceof Error) || !('code' in error)) throw error;
    throw new RootlayerError('E_USAGE', `Cannot read layer "${file}": ${error.message}`, { cause: error });
  }
}
