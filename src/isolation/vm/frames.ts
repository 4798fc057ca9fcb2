import { randomBytes } from 'node:crypto';
import { RootlayerError } from '../../core/errors.ts';
import { HEADER_BYTES, MAX_PAYLOAD_BYTES, TO_GUEST } from './protocol.ts';
import type { VmJob } from './types.ts';

/** One frame. The payload is at most {@link MAX_PAYLOAD_BYTES} long. */
export function frame(type: string, payload: Buffer = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + payload.length);
  bytes.write(type, 0, 'latin1');
  bytes.writeUInt32LE(payload.length, 1);
  payload.copy(bytes, HEADER_BYTES);
  return bytes;
}

/** As many frames as it takes. Of no bytes, none. */
export function frames(type: string, payload: Buffer): Buffer[] {
  const all: Buffer[] = [];
  for (let at = 0; at < payload.length; at += MAX_PAYLOAD_BYTES) all.push(frame(type, payload.subarray(at, at + MAX_PAYLOAD_BYTES)));
  return all;
}

const ENTROPY_BYTES = 64;

/** The wall clock as it is now, and fresh entropy: a restored guest has the clock and the random numbers of its template. */
export function seedFrame(): Buffer {
  const nowMs = Date.now();
  const payload = Buffer.alloc(12);
  payload.writeBigInt64LE(BigInt(Math.floor(nowMs / 1000)), 0);
  payload.writeUInt32LE((nowMs % 1000) * 1_000_000, 8);
  return frame(TO_GUEST.seed, Buffer.concat([payload, randomBytes(ENTROPY_BYTES)]));
}

/** On which disk the guest finds what: slot 0 is the scratch disk, the layers follow, topmost first, then the extra files. */
export type DiskPlan = { scratch: number; lowers: number[]; files: number | null; count: number };

export function planDisks(lowers: number, hasFiles: boolean): DiskPlan {
  return {
    scratch: 0,
    lowers: Array.from({ length: lowers }, (_, index) => index + 1),
    files: hasFiles ? lowers + 1 : null,
    count: 1 + lowers + (hasFiles ? 1 : 0),
  };
}

/** The records that describe a job. A value that a stranger may have chosen comes after `end`, where the guest takes no others. */
export function jobRecords(job: Pick<VmJob, 'limits' | 'hostname' | 'terminal' | 'program'>, disks: DiskPlan): Buffer {
  const records: [string, string | Buffer | number][] = [
    ...disks.lowers.map((disk): [string, number] => ['lower', disk]),
    ...(disks.files === null ? [] : ([['files', disks.files]] as [string, number][])),
    ['scratch', disks.scratch],
    ['memory', job.limits.memoryBytes],
    ['pids', job.limits.pids],
    ['fsize', job.limits.diskBytes],
    ['hostname', job.hostname],
    ...(job.terminal === null ? [] : ([['terminal', `${job.terminal.rows} ${job.terminal.columns}`]] as [string, string][])),
    ['end', ''],
    ...Object.entries(job.program.env).map(([name, value]): [string, string] => ['env', `${name}=${value}`]),
    ...job.program.candidates.flatMap(([path = '', ...args]): [string, string | Buffer][] => [
      ['exec', path],
      ...args.map((arg): [string, string | Buffer] => ['arg', arg]),
    ]),
  ];
  return Buffer.concat(records.flatMap(([key, value]) => [Buffer.from(`${key}=`), toBytes(key, value), Buffer.of(0)]));
}

/** A NUL byte ends a record: a value that held one would be two. */
function toBytes(key: string, value: string | Buffer | number): Buffer {
  const bytes = Buffer.isBuffer(value) ? value : Buffer.from(String(value));
  if (bytes.includes(0)) throw new RootlayerError('E_INTERNAL', `Cannot start the virtual machine: the value of "${key}" holds a NUL byte`);
  return bytes;
}

/** The new size of a terminal. */
export function windowFrame(rows: number, columns: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt16LE(rows & 0xffff, 0);
  payload.writeUInt16LE(columns & 0xffff, 2);
  return frame(TO_GUEST.window, payload);
}
