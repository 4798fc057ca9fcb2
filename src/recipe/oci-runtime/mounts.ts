import { compareText } from '../layered/references.ts';
import type { IdMapping, RuntimeMount } from './args.ts';

/** What a container has when nobody says otherwise, by destination. Source: nixpkgs ociTools; mount(8) for `relatime`, which is misspelt there. */
const DEFAULT_MOUNTS: Readonly<Record<string, RuntimeMount>> = {
  '/dev': { type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
  '/dev/mqueue': { type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  '/dev/pts': { type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=755', 'gid=5'] },
  '/dev/shm': { type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'] },
  '/proc': { type: 'proc', source: 'proc', options: [] },
  '/sys': { type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  '/sys/fs/cgroup': { type: 'cgroup', source: 'cgroup', options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'] },
};

/** A mount as config.json has it. */
export type ConfigMount = { destination: string; options: string[] | null; source: string; type: string };

/** Gives the mounts in the order of their destinations: the defaults, and instead of them or beside them those asked for. */
export function mountsOf(asked: Readonly<Record<string, RuntimeMount | null>>, gidMappings: readonly IdMapping[] | null): ConfigMount[] {
  const defaults = Object.entries(DEFAULT_MOUNTS).map(([at, mount]): [string, RuntimeMount] => [at, withinIds(mount, gidMappings)]);
  return sorted([...defaults, ...Object.entries(asked)]);
}

/** Gives the mounts as the seed has them: the defaults alone, `/proc` with null for options, and the spelling `realatime`. */
export function seedMounts(): ConfigMount[] {
  return sorted(Object.entries(DEFAULT_MOUNTS)).map((mount) => ({
    ...mount,
    options: mount.destination === '/proc' ? null : (mount.options ?? []).map((option) => (option === 'relatime' ? 'realatime' : option)),
  }));
}

/** The group of terminals cannot be set where it has no place in the user namespace: the kernel then refuses the mount. */
function withinIds(mount: RuntimeMount, gidMappings: readonly IdMapping[] | null): RuntimeMount {
  if (gidMappings === null) return mount;
  return {
    ...mount,
    options: mount.options.filter((option) => !option.startsWith('gid=') || isMapped(Number(option.slice(4)), gidMappings)),
  };
}

/** Tells whether an id of a container has one on the host. */
export function isMapped(id: number, mappings: readonly IdMapping[]): boolean {
  return mappings.some(({ containerID, size }) => id >= containerID && id - containerID < size);
}

function sorted(mounts: readonly (readonly [string, RuntimeMount | null])[]): ConfigMount[] {
  const byDestination = new Map(mounts);
  return [...byDestination]
    .flatMap(([destination, mount]) =>
      mount === null ? [] : [{ destination, options: mount.options, source: mount.source, type: mount.type }],
    )
    .sort((a, b) => compareText(a.destination, b.destination));
}
