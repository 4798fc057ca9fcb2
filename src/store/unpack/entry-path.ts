import { type ErrorCode, RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';

/** Bounds of a path: its components, and the bytes of each and of all. */
export type PathLimits = { readonly depth: number; readonly componentBytes: number; readonly pathBytes: number };

/** Bounds of a path in a layer. Source: spec/threats.md A49; limits.h NAME_MAX and PATH_MAX. */
export const PATH_LIMITS: PathLimits = { depth: 256, componentBytes: 255, pathBytes: 4095 };

/** Bounds of a path in the result of a guest: what a capture takes, so that a micro-VM may leave what a namespace may. */
export const RESULT_PATH_LIMITS: PathLimits = { depth: 32 * 1024, componentBytes: 255, pathBytes: 64 * 1024 };

/** A path below a layer's root, split at its last component; both are views of the name it was read from. */
export type EntryPath = {
  /** Components joined by single slashes; empty for the root. */
  readonly parent: Buffer;
  /** The last component; empty when the path is the root itself. */
  readonly name: Buffer;
  /** A component of the parent starts with `.wh.`. */
  readonly hasWhiteoutParent: boolean;
};

const SLASH = 0x2f;
const DOT = 0x2e;
const EMPTY = Buffer.alloc(0);

/**
 * Reads a member's name, or the target of its hard link: leading and doubled slashes and `.` components do not count. Bytes are never
 * decoded. Throws `code` for an empty name, for `..` anywhere, and beyond the limits; `whose` names what the path belongs to, for the
 * message.
 */
export function parseEntryPath(
  raw: Buffer,
  code: ErrorCode = 'E_ARCHIVE_PATH',
  whose: Buffer = raw,
  limits: PathLimits = PATH_LIMITS,
): EntryPath {
  if (raw.length === 0) throw pathError(code, whose, 'its path is empty, want a name');
  let end = raw.length;
  while (end > 0 && raw[end - 1] === SLASH) end -= 1;
  const scan = scanComponents(raw, end, limits, (why) => pathError(code, whose, why));
  if (scan.depth === 0) return { parent: EMPTY, name: EMPTY, hasWhiteoutParent: false };
  const path = scan.isPlain ? raw.subarray(scan.start, end) : joinComponents(raw.subarray(0, end));
  if (path.length > limits.pathBytes) {
    throw pathError(code, whose, `its path has ${path.length} bytes, want at most ${limits.pathBytes}`);
  }
  const slash = path.lastIndexOf(SLASH);
  return {
    parent: slash < 0 ? EMPTY : path.subarray(0, slash),
    name: path.subarray(slash + 1),
    hasWhiteoutParent: scan.hasWhiteoutParent,
  };
}

/** Tells whether a component has the prefix that makes it a whiteout. Source: OCI image-spec layer.md, "Whiteouts". */
export function isWhiteoutName(bytes: Buffer, start = 0): boolean {
  return bytes[start] === DOT && bytes[start + 1] === 0x77 && bytes[start + 2] === 0x68 && bytes[start + 3] === DOT;
}

/** The error for a member that cannot be unpacked. */
export function pathError(code: ErrorCode, name: Buffer, why: string, hint?: string): RootlayerError {
  return new RootlayerError(code, `Cannot unpack member "${escapeName(name)}": ${why}`, { hint });
}

type Scan = {
  readonly depth: number;
  /** Where the first component begins. */
  readonly start: number;
  /** From there on it needs no change. */
  readonly isPlain: boolean;
  readonly hasWhiteoutParent: boolean;
};

function scanComponents(raw: Buffer, end: number, limits: PathLimits, refusal: (why: string) => RootlayerError): Scan {
  let depth = 0;
  let start = -1;
  let isPlain = true;
  let whiteouts = 0;
  let isWhiteout = false;
  for (let from = 0; from < end; ) {
    let to = from;
    while (to < end && raw[to] !== SLASH) to += 1;
    const length = to - from;
    if (length === 0 || (length === 1 && raw[from] === DOT)) {
      isPlain &&= start < 0;
    } else {
      if (length === 2 && raw[from] === DOT && raw[from + 1] === DOT) throw refusal('a component of its path is ".."');
      if (length > limits.componentBytes) {
        throw refusal(`a component of its path has ${length} bytes, want at most ${limits.componentBytes}`);
      }
      if (start < 0) start = from;
      depth += 1;
      isWhiteout = isWhiteoutName(raw, from);
      if (isWhiteout) whiteouts += 1;
    }
    from = to + 1;
  }
  if (depth > limits.depth) throw refusal(`its path has ${depth} components, want at most ${limits.depth}`);
  return { depth, start, isPlain, hasWhiteoutParent: whiteouts > (isWhiteout ? 1 : 0) };
}

function joinComponents(raw: Buffer): Buffer {
  const parts = raw.toString('latin1').split('/');
  return Buffer.from(parts.filter((part) => part !== '' && part !== '.').join('/'), 'latin1');
}
