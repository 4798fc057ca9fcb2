import { constants } from 'node:os';
import { RootlayerError } from '../core/errors.ts';

const NAMES = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));
// What Node's table leaves out, and the names we use where it has two for one number; numbers from <asm-generic/errno.h>.
const PREFERRED: Record<number, string> = { 11: 'EAGAIN', 15: 'ENOTBLK', 35: 'EDEADLK', 95: 'EOPNOTSUPP', 117: 'EUCLEAN' };

/** A system call that failed. `errno` is the symbolic name (`ENOENT`), `syscall` the call's name. */
export class SyscallError extends RootlayerError {
  readonly errno: string;
  readonly syscall: string;

  constructor(syscall: string, errno: number, detail: string) {
    const name = errnoName(errno);
    super('E_SYSCALL', `Cannot ${syscall}${detail === '' ? '' : ` ${detail}`}: ${name}`);
    this.errno = name;
    this.syscall = syscall;
  }
}

/** Gives `ENOENT` for 2, and `errno 9999` for a number without a name. */
export function errnoName(errno: number): string {
  return PREFERRED[errno] ?? NAMES.get(errno) ?? `errno ${errno}`;
}

/** Tells whether a caught value is a failed call with one of these errno names. */
export function isErrno(error: unknown, ...names: string[]): error is SyscallError {
  return error instanceof SyscallError && names.includes(error.errno);
}
