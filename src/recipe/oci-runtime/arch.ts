import { goArchitecture } from '../../store/platform.ts';
import { recipeError } from '../recipe-error.ts';

/** Source: Go, internal/goarch. */
const GO_WORDS = [
  '386',
  'amd64',
  'arm',
  'arm64',
  'loong64',
  'mips',
  'mips64',
  'mips64le',
  'mipsle',
  'ppc64',
  'ppc64le',
  'riscv64',
  's390x',
];

/** What uname(1) calls them. */
const MACHINE_WORDS: Readonly<Record<string, string>> = {
  ...{ x86_64: 'amd64', i386: '386', i486: '386', i586: '386', i686: '386' },
  ...{ aarch64: 'arm64', armv6l: 'arm', armv7l: 'arm', armv8l: 'arm', loongarch64: 'loong64' },
};

/** Gives an architecture in Go's words: as told in these or in those of uname(1), else the image's, else this machine's. Throws `E_RECIPE`. */
export function goWordOf(arch: string | null, imageArch: unknown): string {
  if (arch === null) return typeof imageArch === 'string' && imageArch !== '' ? imageArch : goArchitecture();
  const word = MACHINE_WORDS[arch] ?? arch;
  if (GO_WORDS.includes(word)) return word;
  throw recipeError(['arch'], `${JSON.stringify(arch)} is no architecture, want one of ${GO_WORDS.join(', ')}`);
}
