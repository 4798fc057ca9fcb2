import type { ScriptEnd } from './stream-reader.ts';

/** Keys of the records that tell the end of a script, and the largest number of each. Source: vm/protocol.md, "Records of X". */
const LARGEST: Readonly<Record<string, number>> = {
  status: 255,
  signal: 64,
  oom: Number.MAX_SAFE_INTEGER,
  'forks-refused': Number.MAX_SAFE_INTEGER,
  'memory-peak': Number.MAX_SAFE_INTEGER,
  'pids-peak': Number.MAX_SAFE_INTEGER,
  'disk-bytes': Number.MAX_SAFE_INTEGER,
  'bytes-left': Number.MAX_SAFE_INTEGER,
  'inodes-left': Number.MAX_SAFE_INTEGER,
  changed: 1,
};

/** Gives the end that the payload of an `X` tells, or null when it is not well formed: each key known and once, each value a number in range. */
export function parseEnd(payload: Buffer): ScriptEnd | null {
  const values = parseRecords(payload);
  if (values === null) return null;
  const status = values.get('status');
  const signal = values.get('signal');
  if ((status === undefined) === (signal === undefined) || signal === 0) return null;
  const claims = {
    oomKills: values.get('oom') ?? 0,
    forksRefused: values.get('forks-refused') ?? 0,
    memoryPeakBytes: values.get('memory-peak') ?? null,
    pidsPeak: values.get('pids-peak') ?? null,
    diskBytes: values.get('disk-bytes') ?? null,
    bytesLeft: values.get('bytes-left') ?? null,
    inodesLeft: values.get('inodes-left') ?? null,
    changed: values.get('changed') !== 0,
  };
  return status === undefined ? { signal: signal ?? 0, claims } : { status, claims };
}

function parseRecords(payload: Buffer): Map<string, number> | null {
  const values = new Map<string, number>();
  const records = payload.toString('latin1').split('\0');
  // A NUL byte behind each record: what follows the last one is nothing.
  if (records.pop() !== '') return null;
  for (const record of records) {
    const [, key = '', digits = ''] = /^([a-z-]{1,32})=(\d{1,16})$/.exec(record) ?? [];
    const value = Number(digits);
    if (!Object.hasOwn(LARGEST, key) || value > (LARGEST[key] ?? 0) || values.has(key)) return null;
    values.set(key, value);
  }
  return values;
}
