import { type ErrorCode, RootlayerError } from './errors.ts';

/** Bounds for JSON from outside: total bytes, nesting, and the code that a violation is reported with. */
export type JsonBounds = { maxBytes?: number; maxDepth?: number; maxKeys?: number; code?: ErrorCode; what?: string };

/**
 * Parses JSON that a stranger wrote. Beyond `JSON.parse` it refuses: too large or deep input, invalid UTF-8, a byte
 * order mark, duplicate keys, `__proto__` as a key, integers beyond 2^53 and lone surrogates. Iterative, so depth cannot overflow
 * the stack. Throws the given code (default `E_MANIFEST`).
 */
export function parseStrictJson(bytes: Buffer, bounds: JsonBounds = {}): unknown {
  const { maxBytes = 4 * 1024 * 1024, maxDepth = 32, maxKeys = 100_000, code = 'E_MANIFEST', what = 'JSON document' } = bounds;
  const refuse = (why: string): never => {
    throw new RootlayerError(code, `Cannot read ${what}: ${why}`);
  };
  if (bytes.length > maxBytes) refuse(`${bytes.length} bytes, want at most ${maxBytes}`);
  const text = decodeUtf8(bytes, refuse);
  scan(text, maxDepth, maxKeys, refuse);
  try {
    return JSON.parse(text);
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error));
  }
}

type Refuse = (why: string) => never;

function decodeUtf8(bytes: Buffer, refuse: Refuse): string {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.startsWith('\uFEFF') ? refuse('it starts with a byte order mark') : text;
  } catch (error) {
    if (error instanceof RootlayerError) throw error;
    return refuse('it is not valid UTF-8');
  }
}

const NUMBER = /-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

/** One pass over the tokens: depth, keys and numbers; the grammar itself is left to JSON.parse. */
function scan(text: string, maxDepth: number, maxKeys: number, refuse: Refuse): void {
  const keysAt: (Set<string> | null)[] = [];
  let expectKey = false;
  let keys = 0;
  for (let at = 0; at < text.length; ) {
    const char = text.charAt(at);
    if (char === '{' || char === '[') {
      keysAt.push(char === '{' ? new Set() : null);
      if (keysAt.length > maxDepth) refuse(`nested deeper than ${maxDepth} levels`);
      expectKey = char === '{';
      at += 1;
    } else if (char === '}' || char === ']') {
      keysAt.pop();
      expectKey = false;
      at += 1;
    } else if (char === ',') {
      expectKey = (keysAt.at(-1) ?? null) !== null;
      at += 1;
    } else if (char === '"') {
      const token = stringAt(text, at) ?? refuse('a string does not end');
      checkString(token, refuse);
      if (expectKey) {
        keys += 1;
        if (keys > maxKeys) refuse(`more than ${maxKeys} keys`);
        addKey(keysAt.at(-1) ?? null, token, refuse);
        expectKey = false;
      }
      at += token.length;
    } else if (char === '-' || (char >= '0' && char <= '9')) {
      const token = match(NUMBER, text, at) ?? refuse(`malformed number at offset ${at}`);
      checkNumber(token, refuse);
      at += token.length;
    } else {
      at += 1;
    }
  }
}

/** The string token that begins there, null when it does not end. No regular expression: on a string of megabytes it overflows the stack. */
function stringAt(text: string, at: number): string | null {
  for (let end = text.indexOf('"', at + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let backslashes = 0;
    while (text.charAt(end - 1 - backslashes) === '\\') backslashes += 1;
    if (backslashes % 2 === 0) return text.slice(at, end + 1);
  }
  return null;
}

function match(pattern: RegExp, text: string, at: number): string | null {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0] ?? null;
}

function checkString(token: string, refuse: Refuse): void {
  if (!token.includes('\\u')) return;
  let decoded: unknown;
  try {
    decoded = JSON.parse(token);
  } catch {
    refuse('a string holds a malformed escape');
  }
  if (typeof decoded === 'string' && !decoded.isWellFormed()) refuse('a string holds half of a surrogate pair');
}

function addKey(seen: Set<string> | null, token: string, refuse: Refuse): void {
  let key = '';
  try {
    key = String(JSON.parse(token));
  } catch {
    refuse('a key holds a malformed escape');
  }
  if (key === '__proto__') refuse('the key "__proto__" is not allowed');
  if (seen?.has(key)) refuse(`the key ${JSON.stringify(key.slice(0, 100))} occurs twice`);
  seen?.add(key);
}

function checkNumber(token: string, refuse: Refuse): void {
  const value = Number(token);
  if (!Number.isFinite(value)) refuse(`the number ${token.slice(0, 40)} is out of range`);
  if (/^-?\d+$/.test(token) && !Number.isSafeInteger(value)) refuse(`the integer ${token.slice(0, 40)} is beyond 2^53`);
}
