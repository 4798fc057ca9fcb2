/** What a shell reads before a person, or a command, gets it. */
export type ShellRc = {
  /** Directories that come first on PATH. */
  readonly path: string;
  readonly shell: string;
  /** Run at the end, which ends the shell. */
  readonly command: string | null;
};

/**
 * Gives the file that makes a shell be in the environment of a derivation: the set-up of its stdenv, its shellHook, a prompt that tells. Source: Nix 2.8,
 * nix-build.cc; nixpkgs dockerTools, streamNixShellImage.
 */
export function shellRc({ path, shell, command }: ShellRc): string {
  const lines = [
    'unset PATH',
    'dontAddDisableDepTrack=1',
    '[ -e $stdenv/setup ] && source $stdenv/setup',
    `PATH=${path}:"$PATH"`,
    `SHELL=${quoted(shell)}`,
    `BASH=${quoted(shell)}`,
    'set +e',
    String.raw`[ -n "$PS1" -a -z "$NIX_SHELL_PRESERVE_PROMPT" ] && PS1='\n\[\033[1;32m\][nix-shell:\w]\$\[\033[0m\] '`,
    'if [ "$(type -t runHook)" = function ]; then',
    '  runHook shellHook',
    'fi',
    'unset NIX_ENFORCE_PURITY',
    'shopt -u nullglob',
    'shopt -s execfail',
    ...(command === null ? [] : [command, 'exit']),
  ];
  return `${lines.join('\n')}\n`;
}

/** Gives a text as one word of a shell: in single quotes where it is more than letters, digits and a few signs. */
export function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
