import { z } from 'zod';
import { parseArguments } from '../arguments.ts';

const plain = z.string().regex(/^\/[^\0\n":$`\\]*$/, 'want an absolute path without quotes, colons and what a shell expands');

/** What {@link shadowSetup} takes. */
export const shadowSetupArgsSchema = z.strictObject({
  /** Where `useradd` and the like are in the image: it comes first on PATH. */
  shadowBin: plain.default('/usr/sbin'),
  /** The shell of root. */
  shell: plain.default('/bin/sh'),
});

export type ShadowSetupArgs = z.input<typeof shadowSetupArgsSchema>;

/**
 * Gives the text of a script that makes an image ready for `useradd`: the files of users, groups and PAM, each only where it is missing. To be put in
 * front of a `runAsRoot` script. Source: nixpkgs dockerTools, shadowSetup.
 */
export function shadowSetup(args: ShadowSetupArgs = {}): string {
  const { shadowBin, shell } = parseArguments(shadowSetupArgsSchema, args);
  return `export PATH="${shadowBin}:$PATH"
mkdir -p /etc/pam.d
if [[ ! -f /etc/passwd ]]; then
  echo "root:x:0:0::/root:${shell}" > /etc/passwd
  echo "root:!x:::::::" > /etc/shadow
fi
if [[ ! -f /etc/group ]]; then
  echo "root:x:0:" > /etc/group
  echo "root:x::" > /etc/gshadow
fi
if [[ ! -f /etc/pam.d/other ]]; then
  cat > /etc/pam.d/other <<EOF
account sufficient pam_unix.so
auth sufficient pam_rootok.so
password requisite pam_unix.so nullok yescrypt
session required pam_unix.so
EOF
fi
if [[ ! -f /etc/login.defs ]]; then
  touch /etc/login.defs
fi
`;
}
