import { existsSync } from 'node:fs';
import { Readable } from 'node:stream';
import type { Session } from '../../api/session.ts';
import { RootlayerError } from '../../core/errors.ts';
import { goArchitecture } from '../../store/platform.ts';
import type { BaseImage } from '../archive/base-archive.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { packTree } from '../tree/pack.ts';
import { measured } from '../tree/pack-stream.ts';
import { type FileNode, Tree } from '../tree/tree.ts';
import type { ScriptBase } from './base.ts';
import { baseIndex } from './base-index.ts';
import { importFile, importStream } from './engine-job.ts';
import { hostTools } from './tools-image-host.ts';

/**
 * Gives the engine's name of an image in which commands can run: what `tools` names (a file, an OCI layout directory, or an image in the engine), else the
 * base image when it has a shell, else one made of this machine's own shell and its usual companions. Throws `E_TOOL` when this machine has no shell either.
 */
export async function toolsImage(session: Session, tools: string | null, base: ScriptBase | null, context: RecipeContext): Promise<string> {
  if (tools !== null) return existsSync(tools) ? (await importFile(session, tools, null, context)).id : tools;
  if (base !== null && (await hasShell(base.image, context.signal)))
    return (await importFile(session, base.file, base.image.id, context)).id;
  return await importHostTools(session, context);
}

const SHELLS = ['bin/bash', 'usr/bin/bash', 'bin/sh', 'usr/bin/sh'];

async function hasShell(image: BaseImage, signal: AbortSignal): Promise<boolean> {
  const index = await baseIndex(image, signal);
  return SHELLS.some((shell) => index.has(shell));
}

/** The same files make the same archive, which the engine knows by its digest. */
async function importHostTools(session: Session, context: RecipeContext): Promise<string> {
  const tree = await hostTools(context.signal);
  if (tree === null) {
    throw new RootlayerError('E_TOOL', 'Cannot run the commands: neither the base image nor this machine has bash', {
      hint: 'name an image that has it as "tools"',
    });
  }
  const archive = await toolsArchive(tree, context.signal);
  const open = async (): Promise<Readable> =>
    Readable.from(packTree(archive, { format: 'gnu', prefix: '' }, context.signal), { objectMode: false });
  return (await importStream(session, open, null, context)).id;
}

/** A docker-archive with one layer, as a tree to be packed. */
async function toolsArchive(tree: Tree, signal: AbortSignal): Promise<Tree> {
  const layer = await measured((use) => packTree(tree, { format: 'plain' }, use), signal);
  const config = JSON.stringify({
    architecture: goArchitecture(),
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [layer.diffId] },
    history: [{ created: '1970-01-01T00:00:01Z', created_by: 'rootlayer: tools of the machine' }],
  });
  const archive = new Tree();
  archive.insert(
    Buffer.from('manifest.json'),
    textFile(JSON.stringify([{ Config: 'config.json', RepoTags: null, Layers: ['layer.tar'] }])),
  );
  archive.insert(Buffer.from('config.json'), textFile(config));
  archive.insert(Buffer.from('layer.tar'), { ...PLAIN, type: 'file', size: layer.sizeBytes, source: { kind: 'stream', open: layer.open } });
  return archive;
}

const PLAIN = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 0 } as const;

function textFile(text: string): FileNode {
  const bytes = Buffer.from(text);
  return { ...PLAIN, type: 'file', size: bytes.length, source: { kind: 'bytes', bytes } };
}
