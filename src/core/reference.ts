import { type Digest, isDigest, parseDigest } from './digest.ts';
import { RootlayerError } from './errors.ts';

/** What a user can name an image by. A name is in the form that {@link parseImageName} gives. */
export type ImageRef = { kind: 'scratch' } | { kind: 'digest'; digest: Digest } | { kind: 'name'; name: string };

const COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/;
const HOST_LABEL = /^(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])$/;
const IPV6_HOST = /^\[[0-9A-Fa-f:]+\]$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;

const MAX_NAME = 255;
const DEFAULT_TAG = 'latest';

/** Written out or left out, this registry means the same image; so does `library/` in it for names of one part. */
const DEFAULT_REGISTRY = /^(?:index\.)?docker\.io\/(?:library\/(?=[^/]+$))?/;

/**
 * Gives an image name as `[registry[:port]/]path[/path...]:tag`, with tag `latest` where none is given, and without `docker.io/` and
 * `docker.io/library/`, so that one image has one spelling. Throws `E_REF`. Source: distribution/reference, "Grammar" and "Familiar names".
 */
export function parseImageName(text: string): string {
  const { name, tag } = splitImageName(text);
  return `${name}:${tag}`;
}

/** Like {@link parseImageName}, in two parts. */
export function splitImageName(text: string): { name: string; tag: string } {
  const refuse = (why: string): never => {
    throw new RootlayerError('E_REF', `Cannot read image name ${JSON.stringify(text.slice(0, 300))}: ${why}`);
  };
  const { path, tag } = splitTag(text);
  if (tag !== null && !TAG.test(tag)) {
    refuse('its tag is malformed, want up to 128 letters, digits, "_", "." and "-", not starting with "." or "-"');
  }
  if (path === '') refuse('it is empty, want name:tag');
  if (/^[0-9a-f]{64}$/.test(path)) refuse('it looks like an image id, want a name, or "sha256:" in front of the digits');
  if (path.length > MAX_NAME) refuse(`it has ${path.length} characters without its tag, want at most ${MAX_NAME}`);
  const parts = path.split('/');
  const host = parts.length > 1 && isHost(parts[0] ?? '') ? (parts.shift() ?? '') : null;
  if (host !== null && !isValidHost(host)) refuse(`its registry ${JSON.stringify(host)} is malformed, want host or host:port`);
  const bad = parts.find((part) => !COMPONENT.test(part));
  if (bad !== undefined)
    refuse(`the part ${JSON.stringify(bad)} is malformed, want lower-case letters and digits with ".", "_" or "-" between them`);
  return { name: path.replace(DEFAULT_REGISTRY, ''), tag: tag ?? DEFAULT_TAG };
}

/** Gives the whole name that `docker` would resolve a name of {@link parseImageName} to: the registry and `library/` written out. */
export function canonicalImageName(name: string): string {
  const [first = '', ...rest] = name.split('/');
  if (rest.length === 0) return `docker.io/library/${name}`;
  return isHost(first) ? name : `docker.io/${name}`;
}

/** Gives what the text names: `scratch`, a `sha256:` digest, or a name and tag. Throws `E_REF`. */
export function parseImageRef(text: string): ImageRef {
  if (text === 'scratch') return { kind: 'scratch' };
  if (isDigest(text)) return { kind: 'digest', digest: text };
  if (text.startsWith('sha256:')) return { kind: 'digest', digest: parseDigest(text) };
  return { kind: 'name', name: parseImageName(text) };
}

/** Gives a reference as {@link parseImageRef} reads it. */
export function formatImageRef(ref: ImageRef): string {
  if (ref.kind === 'scratch') return 'scratch';
  return ref.kind === 'digest' ? ref.digest : ref.name;
}

/** A colon behind the last slash starts a tag; one before it belongs to a port. */
function splitTag(text: string): { path: string; tag: string | null } {
  const colon = text.indexOf(':', text.lastIndexOf('/') + 1);
  return colon < 0 ? { path: text, tag: null } : { path: text.slice(0, colon), tag: text.slice(colon + 1) };
}

/** Docker's rule: only a first part with a dot, a colon or an upper-case letter, or `localhost`, is a registry. */
function isHost(part: string): boolean {
  return part === 'localhost' || /[.:A-Z]/.test(part);
}

function isValidHost(host: string): boolean {
  const match = /^(.*?)(?::(\d{1,5}))?$/.exec(host);
  const name = match?.[1] ?? '';
  return IPV6_HOST.test(name) || name.split('.').every((label) => HOST_LABEL.test(label));
}
