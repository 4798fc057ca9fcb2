import path from 'node:path';
import { z } from 'zod';
import { compatChoices, isolationChoices } from '../../core/job.ts';
import type { Limits } from '../../core/limits.ts';
import { SEED_EPOCH } from '../build/seed-epoch.ts';
import { contentItemSchema } from '../helpers/content.ts';

/** A path of this machine. */
export const filePathSchema = z
  .string()
  .min(1)
  .regex(/^[^\0]*$/, 'want no NUL byte');

/** A path, a helper, or a list of them; null is none. */
export const contentsSchema = z
  .union([contentItemSchema.transform((item) => [item]), z.array(contentItemSchema)], {
    error: 'want a path, an object such as {"function": "binSh"}, or a list of them',
  })
  .nullable()
  .default(null);

/** The config of a layer: a file with JSON, or the object itself. */
export const baseJsonSchema = z.union([filePathSchema, z.record(z.string(), z.unknown())], {
  error: 'want the path of a JSON file, or an object',
});

/** A base image and which one of several it is. */
export const fromImageArgs = {
  /** A docker-archive or OCI layout. */
  fromImage: filePathSchema.nullable().default(null),
  fromImageName: z.string().min(1).nullable().default(null),
  fromImageTag: z.string().min(1).nullable().default(null),
} as const;

const MIB_IN_TIB = 1024 * 1024;

/** What a sandbox may use, in MiB: the names and defaults of the seeds' virtual machine. */
export const machineArgs = {
  /** Of what the script may write. */
  diskSize: z.int().min(16).max(MIB_IN_TIB).default(1024),
  buildVMMemorySize: z.int().min(16).default(512),
} as const;

const MIB = 1024 * 1024;
const BLOCK_BYTES = 4096;
const MIN_INODES = 1024;
const MAX_INODES = 500_000;

/** Gives the limits of a job for {@link machineArgs}: as many files as blocks, so that a small disk is not full of inodes. */
export function machineLimits({
  diskSize,
  buildVMMemorySize,
}: {
  readonly diskSize: number;
  readonly buildVMMemorySize: number;
}): Partial<Limits> {
  const diskBytes = diskSize * MIB;
  const inodes = Math.min(Math.max(Math.floor(diskBytes / BLOCK_BYTES), MIN_INODES), MAX_INODES);
  return { diskBytes, memoryBytes: buildVMMemorySize * MIB, inodes };
}

/** What the functions that run scripts have beside the arguments of dockerTools. */
export const scriptArgs = {
  /** An image with a shell for commands that do not run in the base: a file, an OCI layout directory, or a name in the engine. */
  tools: filePathSchema.nullable().default(null),
  isolation: z.enum(isolationChoices).default('auto'),
} as const;

/** What all functions that make layers have besides. */
export const layerArgs = {
  /** Of all files in the layer; with a script, of those that are later. In seconds since 1970. */
  sourceDateEpoch: z.int().min(0).max(253_402_300_799).default(SEED_EPOCH),
  /** `seed`: the bytes of dockerTools, its defects included. */
  compat: z.enum(compatChoices).default('none'),
} as const;

const storePlace = z
  .string()
  .regex(/^(?:\/[^/\0]+)+$/, 'want an absolute path without a slash at its end')
  .refine((text) => path.posix.normalize(text) === text, 'want no "." and ".." in it');

/** Where the store is. */
export const storeArgs = {
  storeDir: storePlace.default('/nix/store'),
  /** A directory that `storeDir` is found below on this machine. */
  storeRoot: z
    .string()
    .regex(/^[^\0]*$/, 'want no NUL byte')
    .default('')
    .transform((text) => (text === '' ? '' : path.resolve(text).replace(/^\/$/, ''))),
} as const;

/** An owner of a file. */
export const idSchema = z.int().min(0).max(4_294_967_294);
