/** The kinds of member that a layer can hold. Source: OCI image-spec layer.md, "File Types". */
export type TarType = 'file' | 'hardlink' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

/** One extended attribute, name and value as bytes (values are often binary, such as `security.capability`). */
export type Xattr = { readonly name: Buffer; readonly value: Buffer };

/** What a tar member says about a file: what {@link encodeEntry} writes and {@link TarReader} reads. */
export type TarMember = {
  /** As stored, after folding of PAX and GNU long names; a directory keeps its final slash. */
  readonly name: Buffer;
  readonly type: TarType;
  /** Permission bits only, 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of body that follow: 0 for everything but files. */
  readonly size: number;
  /** Whole seconds since 1970, rounded down. */
  readonly mtimeSec: number;
  /** Target of a hard link or symlink; for other types whatever was stored, usually empty. */
  readonly linkName: Buffer;
  readonly devMajor: number;
  readonly devMinor: number;
  /** Sorted by the bytes of their names, each name once. */
  readonly xattrs: readonly Xattr[];
};

/** A member as {@link TarReader} found it. All buffers are its own: they outlive the chunk they came from. */
export type TarEntry = TarMember & {
  /** 0 to 999,999,999; always counted forward from `mtimeSec`. */
  readonly mtimeNsec: number;
  /** The fields before any interpretation, as Go's archive/tar reports them: what a tarsum is made of. */
  readonly raw: RawHeader;
};

/** The fields of a member that a tarsum covers. Source: moby, package tarsum. */
export type RawHeader = {
  readonly name: Buffer;
  /** The whole mode field, file-type bits included where the writer stored them. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** The size field, kept for links and directories too. */
  readonly size: number;
  /** Not clamped, and not touched by a global PAX header. */
  readonly mtimeSec: number;
  /** One character; the old NUL type counts as `5` when the name ends in a slash, else as `0`. */
  readonly typeflag: string;
  readonly linkName: Buffer;
  readonly devMajor: number;
  readonly devMinor: number;
  /** Only those stored as `SCHILY.xattr.NAME`, sorted by name. */
  readonly xattrs: readonly Xattr[];
};

/** What {@link TarReader} calls, in order: for each member one `entry`, its body in pieces, then `entryEnd`. */
export type TarHandler = {
  entry(entry: TarEntry): void;
  /** A piece of the body: a view of the chunk that was written, valid until this call returns. */
  data(chunk: Buffer): void;
  entryEnd(): void;
  /** A global PAX header, by its name; it is no file, but Go reports it as a member and so it counts in a tarsum. */
  globalHeader?(name: Buffer): void;
};
