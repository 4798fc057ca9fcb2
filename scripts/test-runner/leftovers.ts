import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** Mounts on or below a directory, from the mount table of this process (proc_pid_mountinfo(5), field 5). The innermost comes first. */
export function readMountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => unescapeMount(line.split(' ')[4] ?? ''))
    .filter((mount) => isBelow(mount, dir))
    .reverse();
}

/** Loop devices whose file is below a directory, with the names that the kernel gives them (`loop3`). */
export function readLoopsBelow(dir: string): string[] {
  return readdirSync('/sys/block').filter((device) => device.startsWith('loop') && isBelow(readBackingFile(device), dir));
}

function readBackingFile(device: string): string {
  try {
    return readFileSync(path.join('/sys/block', device, 'loop/backing_file'), 'utf8').trimEnd();
  } catch {
    // A device without a file has no such attribute.
    return '';
  }
}

function isBelow(file: string, dir: string): boolean {
  return file === dir || file.startsWith(`${dir}/`);
}

function unescapeMount(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
