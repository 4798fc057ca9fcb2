import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { hostTools } from '../../src/recipe/script/tools-image-host.ts';
import { packTree } from '../../src/recipe/tree/pack.ts';
import { archive, member } from './tar-builder.ts';

const signal = new AbortController().signal;

/** The layer that makes a base with a shell of this machine's own programs; `without` takes some of its paths away. */
export async function toolsLayer(without: readonly string[] = []): Promise<Buffer> {
  const tree = await hostTools(signal);
  if (tree === null) throw new Error('Cannot make a base: this machine has no bash');
  for (const name of without) tree.remove(Buffer.from(name));
  return buffer(packTree(tree, { format: 'gnu', mtimeSec: 0 }, signal));
}

/** Writes a docker-archive of these layers, bottom to top; one that is given twice is stored once and listed twice. */
export function writeBase(directory: string, name: string, layers: readonly Buffer[], config: object = {}): string {
  const hex = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
  const names = layers.map((layer) => `${hex(layer)}/layer.tar`);
  const text = Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      config,
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${hex(layer)}`) },
    }),
  );
  const manifest = Buffer.from(JSON.stringify([{ Config: 'config.json', RepoTags: [name], Layers: names }]));
  const bodies = new Map(layers.map((layer, at) => [names[at] ?? '', layer]));
  const file = path.join(directory, `${name.replace(/[/:]/g, '-')}.tar`);
  const files: [string, Buffer][] = [...bodies, ['config.json', text], ['manifest.json', manifest]];
  writeFileSync(file, archive(...files.map(([inside, body]) => member({ name: inside }, body))));
  return file;
}
