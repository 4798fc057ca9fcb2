import { z } from 'zod';
import { parseArguments } from '../arguments.ts';

/** What {@link shellScript} takes. */
export const shellScriptArgsSchema = z.strictObject({
  name: z.string().min(1),
  text: z.string(),
  /** The shell of the first line. */
  shell: z.string().startsWith('/').default('/bin/bash'),
  /** The directory that holds `bin` with coreutils. */
  coreutils: z.string().startsWith('/').default('/usr'),
});

/** See {@link shellScriptArgsSchema}. */
export type ShellScriptArgs = z.input<typeof shellScriptArgsSchema>;

/**
 * Gives an executable script as dockerTools' `shellScript` does: it stops at the first error, finds coreutils, and runs the text as it is: nothing in it is
 * expanded or quoted. Throws `E_RECIPE`.
 */
export function shellScript(args: ShellScriptArgs): { name: string; text: string; mode: number } {
  const { name, text, shell, coreutils } = parseArguments(shellScriptArgsSchema, args);
  return { name, text: `#!${shell}\nset -e\nexport PATH=${coreutils}/bin:/bin\n${text}\n`, mode: 0o755 };
}
