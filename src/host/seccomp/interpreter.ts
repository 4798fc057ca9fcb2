import { RootlayerError } from '../../core/errors.ts';
import { errnoName } from '../errno.ts';
import { INSTRUCTION_BYTES, OP } from './assembler.ts';
import { ACTION_MASK, DATA_MASK, SECCOMP_DATA, SECCOMP_RETURN } from './seccomp-data.ts';

/** One call as a filter sees it. */
export type SeccompCall = {
  /** `AUDIT_ARCH_*`. */
  readonly auditArch: number;
  /** The number; negative ones count from 2^32 down. */
  readonly nr: number;
  /** Up to six arguments of 64 bits; those left out are 0. */
  readonly args?: readonly bigint[];
  readonly instructionPointer?: bigint;
};

/**
 * Runs a filter over one call and gives its 32-bit answer, as the kernel would; {@link actionName} puts it into words.
 * It knows the instructions that rootlayer's filters are made of. Throws `E_INTERNAL` for any other, for a read outside of
 * the input, and for a program that runs off its end.
 */
export function runFilter(filter: Buffer, call: SeccompCall): number {
  const input = encodeCall(call);
  let a = 0;
  for (let at = 0; at + INSTRUCTION_BYTES <= filter.length; at += INSTRUCTION_BYTES) {
    const op = filter.readUInt16LE(at);
    const k = filter.readUInt32LE(at + 4);
    const branch = (taken: boolean): number => INSTRUCTION_BYTES * filter.readUInt8(at + (taken ? 2 : 3));
    switch (op) {
      case OP.load:
        a = readWord(input, k);
        break;
      case OP.and:
        a = (a & k) >>> 0;
        break;
      case OP.jump:
        at += INSTRUCTION_BYTES * k;
        break;
      case OP.ifEqual:
        at += branch(a === k);
        break;
      case OP.ifAtLeast:
        at += branch(a >= k);
        break;
      case OP.ifAnyBit:
        at += branch((a & k) !== 0);
        break;
      case OP.return:
        return k;
      default:
        throw new RootlayerError(
          'E_INTERNAL',
          `Cannot run seccomp filter: opcode 0x${op.toString(16)} at ${at}, want one that compileFilter() emits`,
        );
    }
  }
  throw new RootlayerError('E_INTERNAL', `Cannot run seccomp filter: it leaves its ${filter.length} bytes, want a return`);
}

/** Names a filter's answer: `allow`, `kill-process`, `kill-thread`, `trap`, `trace`, `log`, `user-notification`, or the errno that the call fails with (`EPERM`). */
export function actionName(answer: number): string {
  const action = (answer & ACTION_MASK) >>> 0;
  if (action === SECCOMP_RETURN.errno) return errnoName(answer & DATA_MASK);
  return ACTION_NAMES.get(action) ?? 'kill-process';
}

/** The kernel takes an action that it does not know for the first of these. */
const ACTION_NAMES: ReadonlyMap<number, string> = new Map([
  [SECCOMP_RETURN.killProcess, 'kill-process'],
  [SECCOMP_RETURN.killThread, 'kill-thread'],
  [SECCOMP_RETURN.trap, 'trap'],
  [SECCOMP_RETURN.userNotification, 'user-notification'],
  [SECCOMP_RETURN.trace, 'trace'],
  [SECCOMP_RETURN.log, 'log'],
  [SECCOMP_RETURN.allow, 'allow'],
]);

function encodeCall({ auditArch, nr, args = [], instructionPointer = 0n }: SeccompCall): Buffer {
  const input = Buffer.alloc(SECCOMP_DATA.size);
  input.writeUInt32LE(nr >>> 0, SECCOMP_DATA.nr);
  input.writeUInt32LE(auditArch, SECCOMP_DATA.arch);
  input.writeBigUInt64LE(instructionPointer, SECCOMP_DATA.instructionPointer);
  for (const [index, arg] of args.entries()) input.writeBigUInt64LE(BigInt.asUintN(64, arg), SECCOMP_DATA.args + 8 * index);
  return input;
}

function readWord(input: Buffer, offset: number): number {
  if (offset % 4 !== 0 || offset + 4 > input.length) {
    throw new RootlayerError(
      'E_INTERNAL',
      `Cannot run seccomp filter: it reads offset ${offset}, want a multiple of 4 below ${input.length}`,
    );
  }
  return input.readUInt32LE(offset);
}
