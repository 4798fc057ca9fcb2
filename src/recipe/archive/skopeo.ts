import process from 'node:process';
import { RootlayerError } from '../../core/errors.ts';
import { type ProgramEnd, runProgram } from '../../host/run-program.ts';

/** Where an image is asked for, and how. */
export type Registry = { readonly os: string; readonly arch: string; readonly tlsVerify: boolean; readonly tmpDir: string };

/**
 * Copies an image (`name@digest`) from a registry into the file `image.tar` of the temporary directory: an uncompressed docker-archive with this name and tag.
 * Throws `E_TOOL` when skopeo is missing, `E_REGISTRY`, and `E_REF` for a malformed name.
 */
export async function copyFromRegistry(source: string, nameTag: string, registry: Registry, signal: AbortSignal): Promise<void> {
  const args = ['copy', '--quiet', `--src-tls-verify=${registry.tlsVerify}`, `docker://${source}`, `docker-archive:${ARCHIVE}:${nameTag}`];
  check(source, await skopeo(args, registry, signal));
}

/** What {@link copyFromRegistry} makes. */
export const ARCHIVE = 'image.tar';

/** Gives the manifest, or the list of manifests, that a registry has for `name:tag`. Throws as {@link copyFromRegistry}. */
export async function readManifest(source: string, registry: Registry, signal: AbortSignal): Promise<Buffer> {
  const end = await skopeo(['inspect', '--raw', `--tls-verify=${registry.tlsVerify}`, `docker://${source}`], registry, signal);
  check(source, end);
  return end.stdout;
}

/** Variables that say how to reach a registry, and with which account. */
const PASSED = [
  ...['http_proxy', 'https_proxy', 'ftp_proxy', 'all_proxy', 'no_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'NO_PROXY'],
  ...['SSL_CERT_FILE', 'SSL_CERT_DIR', 'REGISTRY_AUTH_FILE', 'DOCKER_CONFIG', 'XDG_RUNTIME_DIR', 'HOME', 'PATH'],
];

/** Without a policy of signatures: the digest says what the image must be. */
function skopeo(args: readonly string[], { os, arch, tmpDir }: Registry, signal: AbortSignal): Promise<ProgramEnd> {
  const passed = PASSED.map((name): [string, string | undefined] => [name, process.env[name]]).filter(([, value]) => value !== undefined);
  const common = ['--insecure-policy', `--tmpdir=${tmpDir}`, `--override-os=${os}`, `--override-arch=${arch}`];
  return runProgram('skopeo', [...common, ...args], { env: { ...Object.fromEntries(passed), TMPDIR: tmpDir }, cwd: tmpDir }, signal);
}

function check(source: string, { status, stderr }: ProgramEnd): void {
  if (status === 0) return;
  const words = messageOf(stderr);
  const hint = /http: server gave HTTP response to HTTPS client|x509:/.test(words)
    ? 'a registry without TLS needs tlsVerify false'
    : undefined;
  throw new RootlayerError('E_REGISTRY', `Cannot pull image "${source}": ${words === '' ? `skopeo ended with status ${status}` : words}`, {
    hint,
  });
}

const MAX_WORDS = 600;

/** The last line, without the frame that skopeo's log puts around it. */
function messageOf(stderr: string): string {
  const line = stderr.trim().split('\n').at(-1) ?? '';
  const quoted = /\bmsg=("(?:[^"\\]|\\.)*")/.exec(line)?.[1];
  const text = quoted === undefined ? line : unquoted(quoted);
  return text.replace(/[^\x20-\x7e]+/g, ' ').slice(0, MAX_WORDS);
}

function unquoted(text: string): string {
  try {
    return String(JSON.parse(text));
  } catch {
    return text;
  }
}
