/** Gives this machine's platform as image indexes have it, such as `linux/amd64`. Source: OCI image-spec image-index.md, "platform"; Go's GOARCH. */
export function hostPlatform(arch: string = process.arch): string {
  return `linux/${goArchitecture(arch)}`;
}

/** Gives GOARCH for a `process.arch` value; those that are not listed have the same name in both. */
export function goArchitecture(arch: string = process.arch): string {
  return GO_NAMES[arch] ?? arch;
}

const GO_NAMES: Record<string, string> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le', mipsel: 'mipsle' };
