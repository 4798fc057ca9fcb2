import path from 'node:path';
import { textTree } from '../helpers/tree.ts';
import type { ReferenceGraph } from '../layered/references.ts';
import { PLAIN_DIRECTORY, type Tree } from '../tree/tree.ts';
import { narHashHex, narSumOf } from './nar.ts';

/** What is to be registered, and when it is said to have been. */
export type NixDatabaseOptions = {
  /** Put in front of a store path to read it. */
  readonly storeRoot: string;
  /** Paths that are kept when garbage is collected in the image. */
  readonly roots: readonly string[];
  readonly registrationSec: number;
};

/** The version of the tables below. Source: Nix, src/libstore/local-store.hh, nixSchemaVersion. */
const SCHEMA_VERSION = '10';

/** Source: the tables that Nix 2.3 to 2.28 make, as sqlite_master shows them. */
const TABLES = `
  CREATE TABLE ValidPaths (id integer primary key autoincrement not null, path text unique not null, hash text not null,
    registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
  CREATE TABLE Refs (referrer integer not null, reference integer not null, primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade, foreign key (reference) references ValidPaths(id) on delete restrict);
  CREATE INDEX IndexReferrer ON Refs(referrer);
  CREATE INDEX IndexReference ON Refs(reference);
  CREATE TRIGGER DeleteSelfRefs BEFORE DELETE ON ValidPaths BEGIN DELETE FROM Refs WHERE referrer = old.id AND reference = old.id; END;
  CREATE TABLE DerivationOutputs (drv integer not null, id text not null, path text not null, primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade);
  CREATE INDEX IndexDerivationOutputs ON DerivationOutputs(path);
`;

/**
 * Gives `nix/var/nix/db` with a closure registered, and `nix/var/nix/gcroots/docker` with a link to each root: what makes Nix in an image know the store
 * paths that are there. Needs no Nix. Hashes come from `nix path-info` where it was given, else the paths are read. Source: nixpkgs, mkDbExtraCommand.
 */
export async function nixDatabase(closure: ReferenceGraph, { storeRoot, roots, registrationSec }: NixDatabaseOptions): Promise<Tree> {
  const tree = textTree({ 'nix/var/nix/db/schema': SCHEMA_VERSION });
  const bytes = await databaseOf(closure, storeRoot, registrationSec);
  const attributes = { mode: 0o644, uid: 0, gid: 0, mtimeSec: 0 };
  tree.insert(Buffer.from('nix/var/nix/db/db.sqlite'), {
    ...attributes,
    type: 'file',
    size: bytes.length,
    source: { kind: 'bytes', bytes },
  });
  const gcRoots = 'nix/var/nix/gcroots/docker';
  tree.insertParents(Buffer.from(`${gcRoots}/`), PLAIN_DIRECTORY);
  for (const root of roots) {
    const link = Buffer.from(`${gcRoots}/${path.posix.basename(root)}`);
    tree.insert(link, { ...attributes, mode: 0o777, type: 'symlink', target: Buffer.from(root) });
  }
  return tree;
}

/** The module is loaded only here: a client must start fast. */
async function databaseOf(closure: ReferenceGraph, storeRoot: string, registrationSec: number): Promise<Buffer> {
  const { default: Database } = await import('better-sqlite3');
  const database = new Database(':memory:');
  try {
    database.exec(TABLES);
    const addPath = database.prepare('INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (?, ?, ?, ?)');
    const ids = new Map<string, number | bigint>();
    for (const [name, node] of closure) {
      const { hash, size } = sumOf(name, node, storeRoot);
      ids.set(name, addPath.run(name, `sha256:${hash}`, registrationSec, size).lastInsertRowid);
    }
    const addReference = database.prepare('INSERT INTO Refs (referrer, reference) VALUES (?, ?)');
    for (const [name, { references, refersToItself }] of closure) {
      for (const reference of [...references, ...(refersToItself ? [name] : [])].sort())
        addReference.run(ids.get(name), ids.get(reference));
    }
    return database.serialize();
  } finally {
    database.close();
  }
}

type Known = { readonly narHash: string | null; readonly sizeBytes: number | null };

function sumOf(name: string, { narHash, sizeBytes }: Known, storeRoot: string): { hash: string; size: number } {
  if (narHash !== null && sizeBytes !== null) return { hash: narHashHex(narHash), size: sizeBytes };
  const sum = narSumOf(Buffer.from(storeRoot + name));
  return { hash: sum.hex, size: sum.sizeBytes };
}
