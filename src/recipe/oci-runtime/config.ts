import type { ContainerArgs, IdMapping } from './args.ts';
import { mountsOf, seedMounts } from './mounts.ts';

/** What is run in a container: the arguments, with what an image says where they say nothing. */
export type RuntimeProcess = {
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: readonly string[];
  readonly user: { readonly uid: number; readonly gid: number };
};

/** Both null without a user namespace. */
export type RuntimeIds = { readonly uidMappings: readonly IdMapping[] | null; readonly gidMappings: readonly IdMapping[] | null };

/** The version that the seed's bundles have; nothing here is newer. */
const OCI_VERSION = '1.0.0';
const NAMESPACES = ['pid', 'network', 'mount', 'ipc', 'uts'];

/**
 * Gives the text of a bundle's `config.json`: five new namespaces and, when there are mappings, a user namespace; files of /proc and /sys that tell about the
 * host, or change it, are masked. Source: OCI runtime-spec config.md and config-linux.md; `runc spec` for the masked paths.
 */
export function runtimeConfig(args: ContainerArgs, arch: string, process: RuntimeProcess, ids: RuntimeIds): string {
  const { capabilities } = args;
  const sets = { bounding: capabilities, effective: capabilities, permitted: capabilities };
  const config = {
    annotations: { 'org.opencontainers.image.architecture': arch, 'org.opencontainers.image.os': args.os },
    ...(args.hostname === null ? {} : { hostname: args.hostname }),
    linux: {
      ...(ids.gidMappings === null ? {} : { gidMappings: ids.gidMappings }),
      maskedPaths: MASKED,
      namespaces: (ids.uidMappings === null ? NAMESPACES : [...NAMESPACES, 'user']).map((type) => ({ type })),
      readonlyPaths: READONLY,
      ...(ids.uidMappings === null ? {} : { uidMappings: ids.uidMappings }),
    },
    mounts: mountsOf(args.mounts, ids.gidMappings),
    ociVersion: OCI_VERSION,
    process: {
      args: process.args,
      ...(capabilities.length === 0 ? {} : { capabilities: sets }),
      cwd: process.cwd,
      env: process.env,
      noNewPrivileges: true,
      terminal: args.terminal,
      user: { gid: process.user.gid, uid: process.user.uid },
    },
    root: { path: 'rootfs', readonly: args.readonly },
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

/** Gives the bytes of the seed's `config.json`: keys in order, on one line, without a newline. Source: nixpkgs ociTools; Nix, builtins.toJSON. */
export function seedConfig(args: ContainerArgs): string {
  return JSON.stringify({
    linux: { namespaces: NAMESPACES.map((type) => ({ type })) },
    mounts: seedMounts(),
    ociVersion: OCI_VERSION,
    platform: { arch: args.arch ?? 'x86_64', os: args.os },
    process: { args: args.args, cwd: '/', user: { gid: 0, uid: 0 } },
    root: { path: 'rootfs', readonly: args.readonly },
  });
}

const MASKED = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/firmware',
];
const READONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];
