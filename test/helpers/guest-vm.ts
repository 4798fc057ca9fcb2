import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import type { GuestImage } from '../../src/guest/guest-image.ts';

/** A frame of the guest: its type and payload. */
export type GuestFrame = { type: string; payload: Buffer };

/** What a guest is told of a job. Disks are files, by their number; the first one can be written. */
export type GuestJob = {
  disks: (string | null)[];
  records: [key: string, value: string | number][];
  script: string | Buffer;
  /** Called for each frame of the guest, such as to answer what a terminal shows. */
  onFrame?: (frame: GuestFrame, guest: Guest) => void;
};

/** What a guest said, until it was whole or failed. Marks are in milliseconds from the start of QEMU. */
export type GuestRun = {
  stdout: string;
  stderr: string;
  end: Record<string, string>;
  tar: Buffer;
  marks: Record<string, number>;
  error: string | null;
  frames: string;
};

const SLOTS = 4;
const RAM_MIB = 512;

/** Makes machines of one kind: boots a guest once and restores it for each job, emulated. */
export class GuestMachine {
  readonly #image: GuestImage;
  readonly #statePath: string;
  readonly #emptyPath: string;
  /** From the start of QEMU to the answer of the agent. */
  readyMs = 0;

  private constructor(image: GuestImage, directory: string) {
    this.#image = image;
    this.#statePath = path.join(directory, 'state');
    this.#emptyPath = path.join(directory, 'empty');
  }

  /** Boots the guest, waits for its agent and saves its state; files go to `directory`. */
  static async boot(image: GuestImage, directory: string): Promise<GuestMachine> {
    const machine = new GuestMachine(image, directory);
    writeFileSync(machine.#emptyPath, '');
    truncateSync(machine.#emptyPath, 1 << 20);
    await using guest = new Guest(machine.#bootArguments(), machine.#disks([]));
    const { type, payload } = await guest.read();
    if (type !== 'R' || payload.readUInt32LE(0) !== 1) throw new Error(`The guest said ${type}, want R: ${guest.console}`);
    machine.readyMs = performance.now() - guest.startedAt;
    await guest.save(machine.#statePath);
    return machine;
  }

  /** Restores the guest and runs a job in it. */
  async run(job: GuestJob): Promise<GuestRun> {
    const stateFd = openSync(this.#statePath, 'r');
    await using guest = new Guest([...this.#arguments(), '-incoming', 'fd:5'], this.#disks(job.disks), stateFd);
    closeSync(stateFd);
    return await guest.run(job);
  }

  #bootArguments(): string[] {
    const parameters = 'console=ttyS0 quiet panic=-1 cryptomgr.notests init_on_alloc=0 mitigations=off noreplace-smp';
    const append = `${parameters} tsc_early_khz=${readTscKhz()} tsc=reliable reboot=t`;
    return [...this.#arguments(), '-kernel', this.#image.kernelPath, '-initrd', this.#image.initramfsPath, '-append', append];
  }

  #arguments(): string[] {
    return [
      ...['-M', 'microvm', '-accel', 'tcg,thread=multi', '-cpu', 'max,-erms', '-m', String(RAM_MIB), '-smp', '1'],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
      ...[
        '-device',
        'virtio-serial-device',
        '-chardev',
        'socket,id=control,fd=3',
        '-device',
        'virtserialport,chardev=control,name=rootlayer',
      ],
      ...['-chardev', 'socket,id=qmp,fd=4', '-mon', 'chardev=qmp,mode=control'],
    ];
  }

  #disks(disks: (string | null)[]): string[] {
    return Array.from({ length: SLOTS }, (_, slot) => {
      const file = disks[slot] ?? this.#emptyPath;
      const access = slot === 0 && disks[slot] !== undefined ? 'cache.no-flush=on' : 'read-only=on';
      return [
        ...['-blockdev', `driver=raw,node-name=b${slot},file.driver=file,file.filename=${file},file.locking=off,${access}`],
        ...['-device', `virtio-blk-device,drive=b${slot},serial=d${slot}`],
      ];
    }).flat();
  }
}

/** One QEMU and the stream to the agent in it. Disposed of, it is gone. */
export class Guest implements AsyncDisposable {
  readonly startedAt = performance.now();
  /** What the kernel and the agent wrote to the console. */
  console = '';
  readonly #child: ChildProcess;
  readonly #control: Duplex;
  readonly #frames: GuestFrame[] = [];
  readonly #ended: Promise<unknown>;
  #bytes: Buffer[] = [];
  #wake = (): void => {};
  #isOver = false;

  constructor(args: string[], disks: string[], stateFd?: number) {
    const stdio = ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', ...(stateFd === undefined ? [] : [stateFd])] as const;
    this.#child = spawn('qemu-system-x86_64', [...args, ...disks], { stdio: [...stdio] });
    this.#ended = once(this.#child, 'close');
    for (const output of [this.#child.stdout, this.#child.stderr]) {
      output?.on('data', (chunk: Buffer) => {
        this.console += chunk.toString('latin1');
      });
    }
    this.#control = this.#child.stdio[3] as Duplex;
    this.#control.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#control.on('error', () => {});
    this.#control.on('close', () => {
      this.#isOver = true;
      this.#wake();
    });
  }

  /** Process number of QEMU. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  send(type: string, payload: Buffer | string = ''): void {
    const body = Buffer.from(payload);
    const header = Buffer.alloc(5);
    header.write(type);
    header.writeUInt32LE(body.length, 1);
    this.#control.write(Buffer.concat([header, body]));
  }

  /** The next frame; throws with the console's text when the machine ended. */
  async read(): Promise<GuestFrame> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined) return frame;
      if (this.#isOver) throw new Error(`The machine ended: ${this.console}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Sends a whole job and gathers what comes of it. */
  async run(job: GuestJob): Promise<GuestRun> {
    this.send('S', seed());
    const records = Buffer.from(job.records.map(([key, value]) => `${key}=${value}\0`).join(''), 'latin1');
    for (let at = 0; at < records.length; at += 65_536) this.send('J', records.subarray(at, at + 65_536));
    const script = Buffer.from(job.script);
    for (let at = 0; at < script.length; at += 65_536) this.send('P', script.subarray(at, at + 65_536));
    this.send('G');
    const parts: Record<string, Buffer[]> = { '1': [], '2': [], T: [], X: [], E: [] };
    const marks: Record<string, number> = {};
    let frames = '';
    for (let type = ''; type !== 'F' && type !== 'E'; ) {
      const frame = await this.read();
      type = frame.type;
      if (!frames.endsWith(type)) frames += type;
      if (type === 'M') marks[frame.payload.toString()] = performance.now() - this.startedAt;
      else parts[type]?.push(frame.payload);
      if (type === '1') marks['output'] ??= performance.now() - this.startedAt;
      if (type === 'X') marks['end'] = performance.now() - this.startedAt;
      job.onFrame?.(frame, this);
    }
    marks['whole'] = performance.now() - this.startedAt;
    const text = (type: string): string => Buffer.concat(parts[type] ?? []).toString('latin1');
    const end = Object.fromEntries(
      text('X')
        .split('\0')
        .filter(Boolean)
        .map((record) => record.split('=', 2)),
    );
    const error = parts['E']?.length ? text('E').replace('\0', ' ') : null;
    return { stdout: text('1'), stderr: text('2'), end, tar: Buffer.concat(parts['T'] ?? []), marks, error, frames };
  }

  /** Saves the state of the running machine to a file. */
  async save(file: string): Promise<void> {
    const qmp = this.#child.stdio[4] as Duplex;
    const lines = createInterface({ input: qmp })[Symbol.asyncIterator]();
    const command = async (text: object): Promise<Record<string, unknown>> => {
      qmp.write(`${JSON.stringify(text)}\n`);
      for (;;) {
        const answer = JSON.parse((await lines.next()).value ?? '{"return":{}}');
        if ('error' in answer) throw new Error(JSON.stringify(answer));
        if ('return' in answer) return answer.return;
      }
    };
    await command({ execute: 'qmp_capabilities' });
    await command({ execute: 'migrate-set-parameters', arguments: { 'max-bandwidth': 2 ** 40, 'downtime-limit': 2000 } });
    await command({ execute: 'migrate', arguments: { uri: `exec:cat > ${file}` } });
    for (let status: unknown = ''; status !== 'completed'; ) {
      ({ status } = await command({ execute: 'query-migrate' }));
      if (status === 'failed') throw new Error('The state could not be saved');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #receive(chunk: Buffer): void {
    this.#bytes.push(chunk);
    let all = Buffer.concat(this.#bytes);
    while (all.length >= 5 && all.length >= 5 + all.readUInt32LE(1)) {
      const end = 5 + all.readUInt32LE(1);
      this.#frames.push({ type: all.toString('latin1', 0, 1), payload: Buffer.from(all.subarray(5, end)) });
      all = all.subarray(end);
    }
    this.#bytes = [all];
    this.#wake();
  }
}

/** The clock as it is, and bytes that stand for entropy. */
function seed(): Buffer {
  const bytes = Buffer.alloc(76, 0x5a);
  bytes.writeBigInt64LE(BigInt(Math.floor(Date.now() / 1000)), 0);
  bytes.writeUInt32LE((Date.now() % 1000) * 1_000_000, 8);
  return bytes;
}

/** Emulated guests have the host's time stamp counter. Without being told its rate they hang on a busy host. */
function readTscKhz(): number {
  return Math.round(Number(/^bogomips\s*:\s*([\d.]+)/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1] ?? 4000) * 500);
}
