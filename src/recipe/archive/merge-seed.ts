import path from 'node:path';
import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';
import { MAX_DOCUMENT_BYTES } from '../../store/ingest/candidate.ts';
import { parseEntryPath, pathError } from '../../store/unpack/entry-path.ts';
import { jqText } from '../build/seed-json.ts';
import { joined, PLAIN_DIRECTORY, Tree, type TreeNode } from '../tree/tree.ts';
import type { OuterMember } from './members.ts';
import { formatRepositories, parseManifestEntries, parseRepositories, type Repositories } from './merge-documents.ts';
import type { OuterArchive } from './outer.ts';

/**
 * Gives what nixpkgs' mergeImages puts into its archive: the files of all inputs, the first of a name wins, inputs in the order of their base names; the
 * manifests one after the other in the order of the inputs; of two `repositories` with one name only the last one's tags. Throws `E_MANIFEST` and
 * `E_ARCHIVE_LINK`.
 */
export function seedMerge(inputs: readonly OuterArchive[]): Tree {
  const merged = new Tree(PLAIN_DIRECTORY);
  const trees = inputs.map((input) => ({ name: path.basename(input.path), tree: extracted(input.members) }));
  for (const { tree } of [...trees].sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)))) copyMissing(tree, merged);
  const repositories: Repositories[] = [];
  const manifests: unknown[][] = [];
  for (const { members } of inputs) {
    const first = documentOf(members, 'repositories');
    const second = documentOf(members, 'manifest.json');
    if (first !== null) repositories.push(parseRepositories(first));
    if (second !== null) manifests.push(parseManifestEntries(second));
  }
  const union = new Map(repositories.flatMap((each) => [...each]));
  addDocument(merged, 'repositories', repositories.length === 0 ? 'null\n' : formatRepositories(union));
  addDocument(merged, 'manifest.json', manifests.length === 0 ? 'null\n' : jqText(manifests.flat()));
  return merged;
}

/** Puts a document into an archive's tree. */
export function addDocument(tree: Tree, name: string, text: string, mode = 0o644): void {
  const bytes = Buffer.from(text);
  tree.insert(Buffer.from(name), { ...PLAIN_DIRECTORY, mode, type: 'file', size: bytes.length, source: { kind: 'bytes', bytes } });
}

/** What `tar -x` and `cp -R` leave of a mode under the umask 022. */
const MODE_MASK = 0o755;

function extracted(members: readonly OuterMember[]): Tree {
  const tree = new Tree();
  for (const member of members) {
    const { parent, name } = parseEntryPath(member.name);
    if (name.length === 0) continue;
    const at = joined(parent, name);
    tree.insertParents(at);
    tree.insert(at, nodeOf(member, tree));
  }
  return tree;
}

function nodeOf(member: OuterMember, tree: Tree): TreeNode {
  const attributes = { ...PLAIN_DIRECTORY, mode: member.mode & MODE_MASK };
  const { type } = member;
  if (type === 'directory') return { ...attributes, type };
  if (type === 'symlink') return { ...attributes, type, mode: 0o777, target: member.linkName };
  if (type === 'file') {
    return { ...attributes, type, size: member.sizeBytes, source: { kind: 'stream', open: (signal) => member.open(signal) } };
  }
  const target = parseEntryPath(member.linkName, 'E_ARCHIVE_LINK', member.name);
  const found = type === 'hardlink' ? tree.lookup(joined(target.parent, target.name)) : undefined;
  if (found !== undefined) return found;
  throw pathError('E_ARCHIVE_LINK', member.name, `it is a ${type} to "${escapeName(member.linkName)}", want files, directories and links`);
}

/** Hidden files at the top are not copied: the shell's `*` does not name them. */
function copyMissing(from: Tree, to: Tree): void {
  for (const { path: at, node } of from.entries()) {
    if (at.length === 0 || at[0] === DOT) continue;
    if (to.lookup(at) === undefined) to.insert(at, node);
  }
}

const DOT = 0x2e;

function documentOf(members: readonly OuterMember[], name: string): Buffer | null {
  const found = members.findLast((member) => member.type === 'file' && plainName(member) === name);
  if (found === undefined) return null;
  if (found.sizeBytes <= MAX_DOCUMENT_BYTES) return found.readStart(found.sizeBytes);
  throw new RootlayerError('E_MANIFEST', `Cannot read ${name}: it has ${found.sizeBytes} bytes, want at most ${MAX_DOCUMENT_BYTES}`);
}

function plainName(member: OuterMember): string {
  return member.name.toString('latin1').replace(/^(?:\.\/)+/, '');
}
