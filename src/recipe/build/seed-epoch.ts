/** Time of files in the seeds' archives, in seconds: 1980-01-01. Source: nixpkgs, stdenv, SOURCE_DATE_EPOCH. */
export const SEED_EPOCH = 315_532_800;
