import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  futimesSync,
  lchownSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import process from 'node:process';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import type { RecipeContext } from '../recipe-context.ts';
import { recipeError } from '../recipe-error.ts';
import { bytesOf } from '../tree/pack.ts';
import { type FileNode, joined, type SymlinkNode, type TreeNode } from '../tree/tree.ts';
import type { IdMapping } from './args.ts';
import type { Bundle } from './bundle.ts';
import { isMapped } from './mounts.ts';

/**
 * Writes a bundle into an empty directory that nobody else writes to. As root, files get the owners they have in the container, mapped by its user
 * namespace; as anybody else they are the caller's. Times and hard links are kept. Device nodes are left out, since a container has its own, and so are
 * attributes where they would mean nothing; `note` tells. Throws `E_RECIPE` for an owner that has no place in the mappings.
 */
export async function writeBundle(bundle: Bundle, dir: string, { signal, note }: Pick<RecipeContext, 'signal' | 'note'>): Promise<void> {
  chmodSync(dir, 0o700);
  const writer = new BundleWriter(bundle, Buffer.from(dir));
  for (const { path: at, node } of bundle.tree.entries()) {
    signal.throwIfAborted();
    await writer.add(at, node, signal);
  }
  await writer.finish();
  for (const line of writer.notes()) note(line);
  chmodSync(dir, topMode(bundle));
}

/** Set-id files of a container must be no user's of the host: without a user namespace only its owner may come near. With one, its root needs a way in. */
function topMode({ ids }: Bundle): number {
  return ids.uidMappings === null || process.geteuid?.() !== 0 ? 0o700 : 0o711;
}

/** False where the file has all the links that its filesystem allows: the next one begins with a copy. */
function isLinked(first: Buffer, target: Buffer): boolean {
  try {
    linkSync(first, target);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EMLINK') return false;
    throw error;
  }
}

class BundleWriter {
  readonly #bundle: Bundle;
  readonly #top: Buffer;
  readonly #isRoot = process.geteuid?.() === 0;
  readonly #links = new Map<TreeNode, Buffer>();
  readonly #directories: { readonly path: Buffer; readonly node: TreeNode }[] = [];
  #foreign = 0;
  #devices = 0;
  #attributes = 0;

  constructor(bundle: Bundle, top: Buffer) {
    this.#bundle = bundle;
    this.#top = top;
  }

  async add(at: Buffer, node: TreeNode, signal: AbortSignal): Promise<void> {
    const target = joined(this.#top, at);
    const first = this.#links.get(node);
    if (first !== undefined && isLinked(first, target)) return;
    if (node.type === 'directory') this.#directory(target, at, node);
    else if (node.type === 'file') await this.#file(target, at, node, signal);
    else if (node.type === 'symlink') this.#symlink(target, at, node);
    else if (node.type === 'fifo') await this.#fifo(target, at, node);
    else this.#devices += 1;
    if (node.type !== 'directory' && node.type !== 'char' && node.type !== 'block') this.#links.set(node, target);
  }

  /** What is written into a directory changes its time, its mode may forbid writing, and files inherit its access control list. */
  async finish(): Promise<void> {
    for (const { path, node } of this.#directories.reverse()) {
      const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      try {
        fchmodSync(fd, node.mode);
        await this.#setAttributes(fd, path, node);
        futimesSync(fd, node.mtimeSec, node.mtimeSec);
      } finally {
        closeSync(fd);
      }
    }
  }

  notes(): string[] {
    const found = [
      this.#foreign === 0 ? null : `${this.#foreign} files belong to others than root, and now to you: only root can keep owners`,
      this.#devices === 0 ? null : `left out ${this.#devices} device nodes: a container has its own`,
      this.#attributes === 0 ? null : `left out the attributes of ${this.#attributes} files`,
    ];
    return found.filter((line) => line !== null);
  }

  #directory(target: Buffer, at: Buffer, node: TreeNode): void {
    if (at.length === 0) return;
    mkdirSync(target, { mode: 0o700 });
    this.#own(at, node, (uid, gid) => lchownSync(target, uid, gid));
    this.#directories.push({ path: target, node });
  }

  async #file(target: Buffer, at: Buffer, node: FileNode, signal: AbortSignal): Promise<void> {
    const fd = openSync(target, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
    try {
      for await (const chunk of bytesOf(node, at, signal)) {
        for (let done = 0; done < chunk.length; ) done += writeSync(fd, chunk, done);
      }
      this.#own(at, node, (uid, gid) => fchownSync(fd, uid, gid));
      // After the owner: a change of it takes the set-id bits and capabilities away.
      fchmodSync(fd, node.mode);
      await this.#setAttributes(fd, at, node);
      futimesSync(fd, node.mtimeSec, node.mtimeSec);
    } finally {
      closeSync(fd);
    }
  }

  #symlink(target: Buffer, at: Buffer, node: SymlinkNode): void {
    symlinkSync(node.target, target);
    this.#own(at, node, (uid, gid) => lchownSync(target, uid, gid));
    lutimesSync(target, node.mtimeSec, node.mtimeSec);
  }

  async #fifo(target: Buffer, at: Buffer, node: TreeNode): Promise<void> {
    const { mknodAt, S_IFIFO } = await loadLibc();
    const slash = target.lastIndexOf(SLASH);
    const parent = openSync(target.subarray(0, slash), constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      mknodAt(parent, target.subarray(slash + 1), S_IFIFO | 0o600);
    } finally {
      closeSync(parent);
    }
    this.#own(at, node, (uid, gid) => lchownSync(target, uid, gid));
    chmodSync(target, node.mode);
    lutimesSync(target, node.mtimeSec, node.mtimeSec);
  }

  /** `config.json` is for the host; all else is the container's. */
  #own(at: Buffer, node: TreeNode, chown: (uid: number, gid: number) => void): void {
    const isContainers = at.subarray(0, ROOTFS.length).equals(ROOTFS);
    if (!this.#isRoot) {
      if (isContainers && (node.uid !== 0 || node.gid !== 0)) this.#foreign += 1;
    } else if (isContainers) {
      const { uidMappings, gidMappings } = this.#bundle.ids;
      chown(hostId(node.uid, uidMappings, 'uidMappings', at), hostId(node.gid, gidMappings, 'gidMappings', at));
    }
  }

  /** Capabilities and access control lists speak of the host's ids, so in a user namespace they mean nothing. */
  async #setAttributes(fd: number, at: Buffer, node: TreeNode): Promise<void> {
    if (node.xattrs === undefined || node.xattrs.length === 0) return;
    if (!this.#isRoot || this.#bundle.ids.uidMappings !== null) {
      this.#attributes += 1;
      return;
    }
    const { setXattrFd } = await loadLibc();
    const wanted = node.xattrs.filter(({ name }) => ATTRIBUTES.test(name.toString('latin1')));
    for (const { name, value } of wanted) namingFile(at, () => setXattrFd(fd, name, value));
    if (wanted.length < node.xattrs.length) this.#attributes += 1;
  }
}

/** A system call's own error knows a descriptor alone. */
function namingFile(at: Buffer, work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof RootlayerError)) throw error;
    throw new RootlayerError(error.code, `Cannot write "${escapeName(at)}": ${error.message}`, { cause: error });
  }
}

/** Native code: loaded for what needs it. */
const loadLibc = () => import('../../host/libc.ts');

const ROOTFS = Buffer.from('rootfs');
const SLASH = 0x2f;
const ATTRIBUTES = /^(?:security\.capability$|system\.posix_acl_(?:access|default)$|user\.)/;

function hostId(id: number, mappings: readonly IdMapping[] | null, place: string, at: Buffer): number {
  if (mappings === null) return id;
  const mapping = mappings.find((each) => isMapped(id, [each]));
  if (mapping !== undefined) return mapping.hostID + id - mapping.containerID;
  throw recipeError([place], `"${escapeName(at)}" has the id ${id}, which has no place in it`);
}
