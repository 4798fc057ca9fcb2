import { readFileSync } from 'node:fs';
import path from 'node:path';
import { RootlayerError } from '../core/errors.ts';
import { splitImageName } from '../core/reference.ts';
import { parseStrictJson } from '../core/strict-json.ts';
import type { BuildContainerArgs } from '../recipe/oci-runtime/args.ts';

/** The options of `rootlayer bundle` that say what is in it. */
export type BundleOptions = {
  select?: string;
  closure: string[];
  references?: string;
  storeDir?: string;
  storeRoot?: string;
  mount: string[];
  unmount: string[];
  readonly?: boolean;
  env: string[];
  cwd?: string;
  user?: string;
  hostname?: string;
  terminal?: boolean;
  cap: string[];
  userns?: boolean;
  uidMap: string[];
  gidMap: string[];
  os?: string;
  arch?: string;
  compat?: string;
};

/** References of a large closure are long. */
const BOUNDS = { maxBytes: 256 * 1024 * 1024, maxKeys: 10_000_000, code: 'E_USAGE', what: '--references' } as const;

/** Gives the arguments of `buildContainer` for a command line; the image is not among them. Throws `E_USAGE`. */
export function containerArgs(words: readonly string[], options: BundleOptions): BuildContainerArgs {
  const { storeDir, storeRoot, cwd, user, hostname, os, arch, compat } = options;
  const choice = options.select === undefined ? null : splitImageName(options.select);
  const args = {
    ...given({ storeDir, storeRoot: storeRoot === undefined ? undefined : path.resolve(storeRoot), cwd, user, hostname, os, arch, compat }),
    ...(choice === null ? {} : { fromImageName: choice.name, fromImageTag: choice.tag }),
    ...(options.references === undefined ? {} : { references: readReferences(options.references) }),
    args: words.length === 0 ? null : [...words],
    closure: options.closure,
    mounts: Object.fromEntries([...options.unmount.map((at): [string, null] => [at, null]), ...options.mount.map(parseMount)]),
    readonly: options.readonly === true,
    env: options.env,
    terminal: options.terminal === true,
    capabilities: options.cap,
    userNamespace: options.userns === true,
    ...(options.uidMap.length === 0 ? {} : { uidMappings: options.uidMap.map((text) => parseMapping('--uid-map', text)) }),
    ...(options.gidMap.length === 0 ? {} : { gidMappings: options.gidMap.map((text) => parseMapping('--gid-map', text)) }),
  };
  // Checked by buildContainer itself, which names what is wrong.
  return args as BuildContainerArgs;
}

function given(members: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(Object.entries(members).filter((entry): entry is [string, string] => entry[1] !== undefined));
}

function readReferences(file: string): unknown {
  try {
    return parseStrictJson(readFileSync(file), BOUNDS);
  } catch (error) {
    if (error instanceof RootlayerError) throw error;
    throw refuse('--references', file, error instanceof Error ? error.message : String(error));
  }
}

/** `type=bind,source=/data,destination=/data,options=ro:nosuid`, as podman has it; `src` and `dst` are short forms. */
function parseMount(text: string): [string, { type: string; source: string; options: string[] }] {
  const pairs = text.split(',').map((pair): [string, string] => {
    const equals = pair.indexOf('=');
    return equals < 0 ? [pair, ''] : [pair.slice(0, equals), pair.slice(equals + 1)];
  });
  const unknown = pairs.find(([key, value]) => !MOUNT_KEYS.has(key) || value === '');
  if (unknown !== undefined)
    throw refuse('--mount', text, `${JSON.stringify(unknown[0])} is none of ${[...MOUNT_KEYS].join(', ')} with a value`);
  const found = new Map(pairs);
  const type = found.get('type') ?? 'bind';
  const source = found.get('source') ?? found.get('src') ?? (type === 'bind' ? undefined : type);
  const destination = found.get('destination') ?? found.get('dst');
  if (source === undefined || destination === undefined) throw refuse('--mount', text, 'want source=PATH and destination=PATH');
  const options = (found.get('options') ?? '').split(':').filter((option) => option !== '');
  // A runtime takes the type "bind" only with the option that says so.
  const isBare = type === 'bind' && !options.some((option) => option === 'bind' || option === 'rbind');
  return [
    destination,
    { type, source: type === 'bind' ? path.resolve(source) : source, options: isBare ? ['rbind', ...options] : options },
  ];
}

const MOUNT_KEYS = new Set(['type', 'source', 'src', 'destination', 'dst', 'options']);

function parseMapping(option: string, text: string): { containerID: number; hostID: number; size: number } {
  const match = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(text);
  if (match === null) throw refuse(option, text, 'want CONTAINER:HOST:SIZE, such as 0:100000:65536');
  const [containerID = 0, hostID = 0, size = 0] = match.slice(1).map(Number);
  return { containerID, hostID, size };
}

function refuse(option: string, value: string, why: string): RootlayerError {
  return new RootlayerError('E_USAGE', `Cannot use ${option} ${JSON.stringify(value.slice(0, 300))}: ${why}`);
}
