/**
 * The schema of the state database, one step a version: version n is the database after the first n entries. Entries are only ever added, never
 * changed. Each runs in a transaction of its own.
 */
export const migrations: readonly string[] = [
  `
  -- A file of blobs/sha256. What is not listed here is deleted at the next start.
  CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  -- What is known about blobs that are layers: the diffID that was verified for them, and how they are compressed.
  CREATE TABLE layer_blobs (
    digest TEXT PRIMARY KEY REFERENCES blobs ON DELETE CASCADE,
    diff_id TEXT NOT NULL,
    compression TEXT NOT NULL,
    -- Bytes of the tar, uncompressed.
    tar_bytes INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  -- A directory of layers: a layer that has been unpacked and verified.
  CREATE TABLE layers (
    diff_id TEXT PRIMARY KEY,
    entries INTEGER NOT NULL,
    tar_bytes INTEGER NOT NULL,
    -- 1 when the layer hides all layers below it.
    is_opaque_root INTEGER NOT NULL,
    -- A JSON array of sentences.
    warnings TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;

  -- Two users who have the same image have a row each.
  CREATE TABLE images (
    key INTEGER PRIMARY KEY,
    uid INTEGER NOT NULL,
    id TEXT NOT NULL REFERENCES blobs,
    source_digest TEXT,
    created_at TEXT NOT NULL,
    shared INTEGER NOT NULL,
    UNIQUE (uid, id)
  ) STRICT;

  CREATE TABLE image_layers (
    image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
    position INTEGER NOT NULL,
    diff_id TEXT NOT NULL,
    blob_digest TEXT NOT NULL REFERENCES layer_blobs,
    PRIMARY KEY (image, position)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX image_layers_by_blob ON image_layers (blob_digest);
  CREATE INDEX image_layers_by_diff_id ON image_layers (diff_id);

  CREATE TABLE image_names (
    uid INTEGER NOT NULL,
    name TEXT NOT NULL,
    image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
    PRIMARY KEY (uid, name)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX image_names_by_image ON image_names (image);

  -- What keeps a blob although no image has it, such as a job whose layer it is.
  CREATE TABLE holds (
    owner TEXT NOT NULL,
    digest TEXT NOT NULL REFERENCES blobs,
    PRIMARY KEY (owner, digest)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX holds_by_digest ON holds (digest);
  `,
  `
  -- The journal: a job with its record as JSON.
  CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    uid INTEGER NOT NULL,
    state TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX jobs_by_uid ON jobs (uid, created_at);
  `,
  `
  -- Who tells the exit status, and what an isolation is worth.
  UPDATE jobs SET record = json_set(record, '$.exitStatusBy', iif(json_extract(record, '$.exitStatus') IS NULL, NULL, 'kernel'));
  UPDATE jobs SET record = json_set(record, '$.isolation.boundary', iif(json_extract(record, '$.isolation.used') = 'userns', 'kernel', 'none'))
    WHERE json_type(record, '$.isolation') = 'object';
  `,
];
