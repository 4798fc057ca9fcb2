import type { DiffId, Digest } from '../core/digest.ts';
import type { Compression, ImageRecord } from '../core/image.ts';
import type { Database, Statement } from './database.ts';

/** An image to be listed: its blobs must be in the blob directory. */
export type NewImage = {
  readonly uid: number;
  readonly config: { readonly digest: Digest; readonly sizeBytes: number };
  readonly layers: readonly NewLayer[];
  readonly names: readonly string[];
  readonly sourceDigest: Digest | null;
  readonly shared: boolean;
};

/** One layer of {@link NewImage}, bottom to top; one layer may occur more than once. */
export type NewLayer = {
  readonly diffId: DiffId;
  readonly blobDigest: Digest;
  readonly blobSizeBytes: number;
  readonly compression: Compression;
  /** Of the tar, uncompressed. */
  readonly tarBytes: number;
};

/** A layer that has been unpacked. */
export type ListedLayer = {
  readonly diffId: DiffId;
  readonly entries: number;
  /** Of the tar, uncompressed. */
  readonly tarBytes: number;
  /** It hides all layers below it. */
  readonly isOpaqueRoot: boolean;
  readonly warnings: readonly string[];
};

/**
 * The rows of images, blobs and layers. Whether a caller may see an image is decided here and nowhere else: their own, then shared ones, and for
 * uid 0 all. The database is the truth: files that it does not list do not count.
 */
export class ImageTable {
  readonly #database: Database;
  readonly #statements = new Map<string, Statement>();

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Lists an image with its blobs and names in one transaction; a name that stood for another image of the same user moves here. An image that the user
   * already has keeps its layers' blobs and gets the new names.
   */
  add(image: NewImage): ImageRecord {
    return this.#database.transaction(() => {
      this.addBlob(image.config.digest, image.config.sizeBytes);
      for (const layer of image.layers) this.addLayerBlob(layer);
      const key = this.#findKey(image.uid, image.config.digest) ?? this.#insert(image);
      const shared = image.shared ? 1 : 0;
      this.#run(
        'UPDATE images SET source_digest = coalesce(?, source_digest), shared = max(shared, ?) WHERE key = ?',
        image.sourceDigest,
        shared,
        key,
      );
      for (const name of image.names) {
        this.#run('INSERT INTO image_names VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET image = excluded.image', image.uid, name, key);
      }
      return this.#record(this.#get('SELECT * FROM images WHERE key = ?', key) as ImageRow);
    })();
  }

  #insert(image: NewImage): number {
    const result = this.#run(
      'INSERT INTO images (uid, id, source_digest, created_at, shared) VALUES (?, ?, ?, ?, ?)',
      image.uid,
      image.config.digest,
      image.sourceDigest,
      new Date().toISOString(),
      image.shared ? 1 : 0,
    );
    for (const [position, layer] of image.layers.entries()) {
      this.#run('INSERT INTO image_layers VALUES (?, ?, ?, ?)', result.lastInsertRowid, position, layer.diffId, layer.blobDigest);
    }
    return Number(result.lastInsertRowid);
  }

  /** Lists a blob; nothing happens when it is listed. */
  addBlob(digest: Digest, sizeBytes: number): void {
    this.#run('INSERT INTO blobs VALUES (?, ?) ON CONFLICT DO NOTHING', digest, sizeBytes);
  }

  /** Lists a blob that is a layer with a verified diffID. */
  addLayerBlob(layer: NewLayer): void {
    this.addBlob(layer.blobDigest, layer.blobSizeBytes);
    this.#run(
      'INSERT INTO layer_blobs VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
      layer.blobDigest,
      layer.diffId,
      layer.compression,
      layer.tarBytes,
    );
  }

  /** Keeps a listed blob for an owner, until {@link release}. */
  hold(owner: string, digest: Digest): void {
    this.#run('INSERT INTO holds VALUES (?, ?) ON CONFLICT DO NOTHING', owner, digest);
  }

  /** Gives up all that an owner holds. */
  release(owner: string): void {
    this.#run('DELETE FROM holds WHERE owner = ?', owner);
  }

  /** Does several changes as one. */
  transaction<T>(work: () => T): T {
    return this.#database.transaction(work)();
  }

  /** Gives the images that a caller sees, the oldest first. */
  list(uid: number): ImageRecord[] {
    const rows = this.#all('SELECT * FROM images WHERE uid = ? OR shared = 1 OR ? = 0 ORDER BY key', uid, uid);
    return (rows as ImageRow[]).map((row) => this.#record(row));
  }

  /** Gives the image that a caller means by a name, or null. Their own comes first, then a shared one. */
  findByName(uid: number, name: string): ImageRecord | null {
    return this.#find('key IN (SELECT image FROM image_names WHERE name = ?)', name, uid);
  }

  /** Gives the image with this id, or the last one that came in an archive with this digest, or null. */
  findByDigest(uid: number, digest: Digest): ImageRecord | null {
    return this.#find('id = ?', digest, uid) ?? this.#find('source_digest = ?', digest, uid);
  }

  #find(condition: string, value: string, uid: number): ImageRecord | null {
    const visible = '(uid = ? OR shared = 1 OR ? = 0)';
    const row = this.#get(
      `SELECT * FROM images WHERE ${condition} AND ${visible} ORDER BY uid <> ?, shared DESC, key DESC`,
      value,
      uid,
      uid,
      uid,
    );
    return row === undefined ? null : this.#record(row as ImageRow);
  }

  /** Takes a name from an image. Gives how many names are left to it. */
  removeName(image: ImageRecord, name: string): number {
    return this.transaction(() => {
      this.#run('DELETE FROM image_names WHERE uid = ? AND name = ?', image.uid, name);
      const key = this.#findKey(image.uid, image.id);
      return Number((this.#get('SELECT count(*) AS left FROM image_names WHERE image = ?', key) as { left: number }).left);
    });
  }

  /** Takes an image off the list, with its names. */
  remove(image: ImageRecord): void {
    this.#run('DELETE FROM images WHERE uid = ? AND id = ?', image.uid, image.id);
  }

  /** Lists an unpacked layer. */
  addLayer(layer: ListedLayer): void {
    const { diffId, entries, tarBytes, isOpaqueRoot, warnings } = layer;
    const sql = 'INSERT INTO layers VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING';
    this.#run(sql, diffId, entries, tarBytes, isOpaqueRoot ? 1 : 0, JSON.stringify(warnings));
  }

  /** Gives an unpacked layer, or null. */
  getLayer(diffId: DiffId): ListedLayer | null {
    const row = this.#get('SELECT * FROM layers WHERE diff_id = ?', diffId) as LayerRow | undefined;
    if (row === undefined) return null;
    return {
      diffId,
      entries: row.entries,
      tarBytes: row.tar_bytes,
      isOpaqueRoot: row.is_opaque_root === 1,
      warnings: JSON.parse(row.warnings) as string[],
    };
  }

  removeLayer(diffId: Digest): void {
    this.#run('DELETE FROM layers WHERE diff_id = ?', diffId);
  }

  /** Gives the layer in a listed blob, or null when it is not known to be one. */
  getLayerBlob(digest: Digest): NewLayer | null {
    const row = this.#get('SELECT * FROM layer_blobs JOIN blobs USING (digest) WHERE digest = ?', digest) as LayerBlobRow | undefined;
    return row === undefined ? null : layerOf(row);
  }

  /** Gives the size of a listed blob in bytes, or null. */
  getBlobSize(digest: Digest): number | null {
    const row = this.#get('SELECT size_bytes FROM blobs WHERE digest = ?', digest) as { size_bytes: number } | undefined;
    return row?.size_bytes ?? null;
  }

  removeBlob(digest: Digest): void {
    this.#run('DELETE FROM blobs WHERE digest = ?', digest);
  }

  listBlobs(): Digest[] {
    return (this.#all('SELECT digest FROM blobs ORDER BY digest') as { digest: Digest }[]).map((row) => row.digest);
  }

  listLayers(): DiffId[] {
    return (this.#all('SELECT diff_id FROM layers ORDER BY diff_id') as { diff_id: DiffId }[]).map((row) => row.diff_id);
  }

  /** Gives the listed blobs that no image and no owner has. */
  unusedBlobs(): Digest[] {
    const rows = this.#all(`
      SELECT digest FROM blobs
      WHERE digest NOT IN (SELECT id FROM images) AND digest NOT IN (SELECT blob_digest FROM image_layers) AND digest NOT IN (SELECT digest FROM holds)
      ORDER BY digest`);
    return (rows as { digest: Digest }[]).map((row) => row.digest);
  }

  /** Gives the unpacked layers that no image has. */
  unusedLayers(): DiffId[] {
    const rows = this.#all('SELECT diff_id FROM layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers) ORDER BY diff_id');
    return (rows as { diff_id: DiffId }[]).map((row) => row.diff_id);
  }

  #findKey(uid: number, id: Digest): number | null {
    const row = this.#get('SELECT key FROM images WHERE uid = ? AND id = ?', uid, id) as { key: number } | undefined;
    return row?.key ?? null;
  }

  #record(row: ImageRow): ImageRecord {
    const layers = this.#all(
      'SELECT * FROM image_layers JOIN layer_blobs ON layer_blobs.digest = blob_digest JOIN blobs USING (digest) WHERE image = ? ORDER BY position',
      row.key,
    ) as LayerBlobRow[];
    const names = this.#all('SELECT name FROM image_names WHERE image = ? ORDER BY name', row.key) as { name: string }[];
    const blobs = new Map(layers.map((layer) => [layer.digest, layer.size_bytes]));
    const sizeBytes = [...blobs.values()].reduce((sum, size) => sum + size, this.getBlobSize(row.id) ?? 0);
    return {
      id: row.id,
      sourceDigest: row.source_digest,
      names: names.map(({ name }) => name),
      layers: layers.map(layerOf).map(({ tarBytes: _, ...layer }) => layer),
      createdAt: row.created_at,
      sizeBytes,
      uid: row.uid,
      shared: row.shared === 1,
    };
  }

  #run(sql: string, ...values: unknown[]): { lastInsertRowid: number | bigint } {
    return this.#statement(sql).run(...values);
  }

  #get(sql: string, ...values: unknown[]): unknown {
    return this.#statement(sql).get(...values);
  }

  #all(sql: string, ...values: unknown[]): unknown[] {
    return this.#statement(sql).all(...values);
  }

  #statement(sql: string): Statement {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known;
    const prepared = this.#database.prepare(sql);
    this.#statements.set(sql, prepared);
    return prepared;
  }
}

type ImageRow = { key: number; uid: number; id: Digest; source_digest: Digest | null; created_at: string; shared: number };
type LayerRow = { entries: number; tar_bytes: number; is_opaque_root: number; warnings: string };
type LayerBlobRow = { digest: Digest; diff_id: DiffId; compression: Compression; size_bytes: number; tar_bytes: number };

function layerOf(row: LayerBlobRow): NewLayer {
  return {
    diffId: row.diff_id,
    blobDigest: row.digest,
    blobSizeBytes: row.size_bytes,
    compression: row.compression,
    tarBytes: row.tar_bytes,
  };
}
