import { accessSync, constants, mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Feature } from '../core/engine.ts';
import { CgroupManager } from './cgroup.ts';
import { openUserNamespace, RANGE_SIZE } from './idmap.ts';
import { LAUNCHER } from './launcher.ts';
import { AT_FDCWD, cloneTree, close, MOUNT_ATTR_RDONLY, openAt, setMountAttributes } from './libc.ts';
import { findProgram } from './programs.ts';

type Probe = {
  name: string;
  required: boolean;
  remedy: string;
  /** Gives what it found in words; throws what is lacking. */
  run: (stateDir: string) => string | Promise<string>;
};

/**
 * Tries what a job needs by really doing it, never by comparing version numbers. The remedy comes with what is lacking.
 * `stateDir` must exist: id-mapped mounts depend on its filesystem. `mountOverlay` mounts one as jobs do and tells how, or throws.
 */
export async function probeFeatures(stateDir: string, mountOverlay: () => Promise<string>): Promise<Feature[]> {
  const features: Feature[] = [];
  for (const probe of [...PROBES, overlayProbe(mountOverlay)]) {
    try {
      features.push({ name: probe.name, ok: true, required: probe.required, detail: await probe.run(stateDir), remedy: null });
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      features.push({ name: probe.name, ok: false, required: probe.required, detail, remedy: probe.remedy });
    }
  }
  return features;
}

const PROBES: Probe[] = [
  {
    name: 'node',
    required: true,
    remedy: 'Install Node.js 20 or later.',
    run: () => {
      if (Number(process.versions.node.split('.')[0]) < 20) throw new Error(`version ${process.versions.node}, want 20 or later`);
      return `version ${process.versions.node}`;
    },
  },
  {
    name: 'root',
    required: true,
    remedy: 'Run it as root (with sudo), or ask an administrator to run the daemon and to put you into its group.',
    run: () => {
      if (process.geteuid?.() !== 0) throw new Error('not running as root');
      return 'running as root';
    },
  },
  {
    name: 'launcher',
    required: true,
    remedy: 'Build it with scripts/build; it needs a C compiler.',
    run: () => {
      accessSync(LAUNCHER, constants.X_OK);
      return 'built';
    },
  },
  {
    name: 'user-namespaces',
    required: true,
    remedy: 'Allow them: sysctl user.max_user_namespaces=15000. In a container, start it with --privileged.',
    run: probeUserNamespaces,
  },
  {
    name: 'idmapped-mounts',
    required: true,
    remedy: 'Put the state directory on ext4, xfs, btrfs or tmpfs (--state-dir); overlayfs itself has no idmapped mounts.',
    run: probeIdmap,
  },
  {
    name: 'loop-devices',
    required: true,
    remedy: 'Load the module (modprobe loop); give a container /dev/loop-control and /dev/loop*.',
    run: () => {
      close(openAt(AT_FDCWD, '/dev/loop-control', 2));
      return '/dev/loop-control opens';
    },
  },
  { name: 'mkfs.ext4', required: true, remedy: 'Install the package e2fsprogs.', run: () => findProgram('mkfs.ext4') },
  {
    name: 'seccomp',
    required: true,
    remedy: 'Use a kernel with CONFIG_SECCOMP_FILTER.',
    run: () => {
      const actions = readFileSync('/proc/sys/kernel/seccomp/actions_avail', 'utf8').trim();
      if (!actions.includes('errno')) throw new Error(`no filter actions: ${actions}`);
      return actions;
    },
  },
  {
    name: 'limits',
    required: false,
    remedy: 'Mount the control groups writable (cgroup v2 with Delegate=, or v1): without them memory, processes and cpu are not limited.',
    run: probeLimits,
  },
  { name: 'zstd', required: false, remedy: 'Install the package zstd, for zstd layers and archives.', run: () => findProgram('zstd') },
];

async function probeUserNamespaces(): Promise<string> {
  const fd = await openUserNamespace([[0, 0x7000_0000, RANGE_SIZE]]);
  close(fd);
  return `maps ${RANGE_SIZE} ids`;
}

function overlayProbe(run: () => Promise<string>): Probe {
  return {
    name: 'overlayfs',
    required: true,
    remedy: 'Load it (modprobe overlay), and use Linux 5.19 or later. In a container, start it with --privileged.',
    run,
  };
}

async function probeIdmap(stateDir: string): Promise<string> {
  const userns = await openUserNamespace([[0, 0x7000_0000, RANGE_SIZE]]);
  const path = mkdtempSync(join(stateDir, 'probe-'));
  let tree = -1;
  try {
    tree = cloneTree(AT_FDCWD, path);
    setMountAttributes(tree, MOUNT_ATTR_RDONLY, userns);
    return `the filesystem of ${stateDir} maps owners`;
  } finally {
    if (tree >= 0) close(tree);
    close(userns);
    rmdirSync(path);
  }
}

function probeLimits(): string {
  const manager = CgroupManager.open(`probe-${process.pid}`, false);
  manager.removeLeftovers();
  try {
    if (manager.lacking.length > 0) throw new Error(`no control group for ${manager.lacking.join(', ')}`);
    return 'memory, processes and cpu';
  } finally {
    manager.close();
  }
}
