/** Layout of `struct seccomp_data` of `<linux/seccomp.h>`, the input of a filter: int nr; u32 arch; u64 ip; u64 args[6]. Offsets and size in bytes. */
export const SECCOMP_DATA = { nr: 0, arch: 4, instructionPointer: 8, args: 16, size: 64 } as const;

/** `SECCOMP_RET_*` of `<linux/seccomp.h>`. The low 16 bits of `errno` are the errno. */
export const SECCOMP_RETURN = {
  killProcess: 0x80000000,
  killThread: 0x00000000,
  trap: 0x00030000,
  errno: 0x00050000,
  userNotification: 0x7fc00000,
  trace: 0x7ff00000,
  log: 0x7ffc0000,
  allow: 0x7fff0000,
} as const;

/** SECCOMP_RET_ACTION_FULL: the bits of a filter's answer that choose the action. */
export const ACTION_MASK = 0xffff0000;

/** SECCOMP_RET_DATA: the bits of a filter's answer that the action uses. */
export const DATA_MASK = 0x0000ffff;

/** __X32_SYSCALL_BIT of `<asm/unistd.h>` on x86. */
export const X32_BIT = 0x40000000;

/** The number -1, which a tracer sets to skip a call, as a filter sees it. */
export const SKIPPED_CALL = 0xffffffff;
