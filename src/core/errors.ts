/**
 * The table of stable error codes. A code is a contract: scripts match on it, `docs/errors.md` explains it.
 * `status` is the HTTP status of the daemon's answer; `retryable` says whether the same request can succeed later.
 */
export const ERROR_CODES = {
  E_ARCHIVE_DEVICE: { status: 422, retryable: false, says: 'a layer holds a device node outside /dev' },
  E_ARCHIVE_HEADER: { status: 422, retryable: false, says: 'a tar header is malformed' },
  E_ARCHIVE_ID: { status: 422, retryable: false, says: 'an owner in a layer is outside 0 to 65535' },
  E_ARCHIVE_LINK: { status: 422, retryable: false, says: 'a link in a layer has no valid target' },
  E_ARCHIVE_META: { status: 422, retryable: false, says: 'extended headers are too large or too many' },
  E_ARCHIVE_NAME: { status: 422, retryable: false, says: 'a name holds bytes that no file name can hold' },
  E_ARCHIVE_PATH: { status: 422, retryable: false, says: 'a path leaves the root, is too deep or too long' },
  E_ARCHIVE_PAX: { status: 422, retryable: false, says: 'a PAX record is malformed' },
  E_ARCHIVE_TRAILING: { status: 422, retryable: false, says: 'data follows the end of an archive' },
  E_ARCHIVE_TRUNCATED: { status: 422, retryable: false, says: 'an archive ends too early' },
  E_ARCHIVE_TYPE: { status: 422, retryable: false, says: 'a member has a type that layers cannot hold' },
  E_ARCHIVE_WHITEOUT: { status: 422, retryable: false, says: 'a whiteout name is not valid' },
  E_ARCHIVE_XATTR: { status: 422, retryable: false, says: 'an extended attribute is not allowed in a layer' },
  E_BUSY: { status: 503, retryable: true, says: 'the queue, a pool or a quota of running work is full' },
  E_CANCELLED: { status: 409, retryable: true, says: 'the job was cancelled' },
  E_CAPTURE: { status: 500, retryable: true, says: 'the capture of the upper directory failed' },
  E_CAPTURE_BUSY: { status: 500, retryable: true, says: 'something still holds the upper directory open' },
  E_CAPTURE_CHANGED: { status: 500, retryable: true, says: 'a file changed while it was packed' },
  E_CAPTURE_DEPTH: { status: 422, retryable: false, says: 'a path in the upper directory is too long for a layer' },
  E_CAPTURE_DEVICE: { status: 422, retryable: false, says: 'the script left a device node' },
  E_CAPTURE_OVERLAY: { status: 500, retryable: false, says: 'the upper directory holds an overlay mark that layers cannot express' },
  E_CAPTURE_WHITEOUT_NAME: { status: 422, retryable: false, says: 'the script made a file whose name means deletion in a layer' },
  E_COMPRESSION: { status: 422, retryable: false, says: 'a stream is not valid gzip or zstd' },
  E_CONFIG: { status: 422, retryable: false, says: 'an image config is not valid' },
  E_CONFLICT: { status: 409, retryable: false, says: 'the request contradicts the present state' },
  E_DIGEST: { status: 422, retryable: false, says: 'content does not have the digest it was announced with' },
  E_DISK_IMAGE: { status: 422, retryable: false, says: 'a layer cannot be put on a read-only disk for a micro-VM' },
  E_FORBIDDEN: { status: 403, retryable: false, says: 'policy does not allow this to the caller' },
  E_IMAGE_AMBIGUOUS: { status: 422, retryable: false, says: 'an archive holds several images and none was chosen' },
  E_IMAGE_FORMAT: { status: 422, retryable: false, says: 'the input is no docker-archive and no OCI layout' },
  E_IMAGE_LAYOUT: {
    status: 422,
    retryable: false,
    says: 'the base image cannot run the script (no shell, or a system directory is no directory)',
  },
  E_INTERNAL: { status: 500, retryable: true, says: 'a defect of rootlayer' },
  E_JOB_LOST: { status: 500, retryable: true, says: 'the daemon ended while the job was running' },
  E_LIMIT_DISK: { status: 422, retryable: false, says: 'the disk or inode limit was reached' },
  E_LIMIT_ENTRIES: { status: 422, retryable: false, says: 'an archive holds too many entries' },
  E_LIMIT_INGEST: { status: 413, retryable: false, says: 'an upload is larger than allowed' },
  E_LIMIT_MEMORY: { status: 422, retryable: false, says: 'the memory limit was reached' },
  E_LIMIT_OUTPUT: { status: 422, retryable: false, says: 'the script printed more than the output limit' },
  E_LIMIT_PIDS: { status: 422, retryable: false, says: 'the process limit was reached' },
  E_LIMIT_RATIO: { status: 422, retryable: false, says: 'compressed data expands beyond the allowed ratio' },
  E_LIMIT_RESULT: { status: 422, retryable: false, says: 'the layer is larger than allowed' },
  E_LIMIT_SILENCE: { status: 422, retryable: false, says: 'the script printed nothing for too long' },
  E_LIMIT_TIME: { status: 422, retryable: false, says: 'the time limit was reached' },
  E_LIMIT_UNPACKED: { status: 422, retryable: false, says: 'unpacked data is larger than allowed' },
  E_LIMIT_XATTR: { status: 422, retryable: false, says: 'extended attributes are larger than allowed' },
  E_MANIFEST: { status: 422, retryable: false, says: 'an image manifest, index or config is not valid' },
  E_MISSING_FEATURE: { status: 501, retryable: false, says: 'this machine lacks something the request needs' },
  E_NOT_FOUND: { status: 404, retryable: false, says: 'there is no such image, job or file for this caller' },
  E_PROTOCOL: { status: 400, retryable: false, says: 'a request is malformed' },
  E_QUOTA: { status: 429, retryable: true, says: 'the quota of the caller is used up' },
  E_RECIPE: { status: 400, retryable: false, says: 'a recipe, or an argument of an image function, is wrong' },
  E_REF: { status: 400, retryable: false, says: 'an image name or digest is malformed' },
  E_REGISTRY: { status: 502, retryable: true, says: 'a registry refused an image or did not answer' },
  E_SCRIPT: { status: 422, retryable: false, says: 'the script ended with a status other than 0' },
  E_SIZE: { status: 422, retryable: false, says: 'content does not have the size it was announced with' },
  E_STATE: { status: 500, retryable: false, says: 'the state directory or its database cannot be used' },
  E_STORE_CORRUPT: { status: 500, retryable: false, says: 'stored content no longer matches its digest' },
  E_SYSCALL: { status: 500, retryable: true, says: 'a system call failed' },
  E_TOOL: { status: 501, retryable: false, says: 'a program that rootlayer needs is missing' },
  E_UNREACHABLE: { status: 503, retryable: true, says: 'the daemon cannot be reached' },
  E_USAGE: { status: 400, retryable: false, says: 'the command line or a value in it is wrong' },
  E_VM_CRASH: { status: 500, retryable: true, says: 'the virtual machine ended by itself: its guest crashed or shut down, or QEMU failed' },
  E_VM_PROTOCOL: {
    status: 500,
    retryable: false,
    says: 'a virtual machine said what its protocol does not allow; nothing was taken from it',
  },
  E_VM_TIMEOUT: { status: 500, retryable: true, says: 'a virtual machine did not answer in time' },
  E_WORKER: { status: 500, retryable: true, says: 'a worker process died' },
} as const;

/** A stable code of the table {@link ERROR_CODES}. */
export type ErrorCode = keyof typeof ERROR_CODES;

/** What an error looks like on the wire and in `--json` output (RFC 9457 problem details use the same members). */
export type ErrorBody = {
  code: ErrorCode;
  message: string;
  hint?: string;
  retryable: boolean;
};

/**
 * The one error class of rootlayer. The code is the contract, the message is for people:
 * `Cannot <verb> <noun> "<value>": <what is>, want <what should be>`.
 */
export class RootlayerError extends Error {
  readonly code: ErrorCode;
  /** What to do about it, in one sentence. */
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { hint?: string | undefined; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'RootlayerError';
    this.code = code;
    this.hint = options.hint;
  }

  get retryable(): boolean {
    return ERROR_CODES[this.code].retryable;
  }

  toBody(): ErrorBody {
    return {
      code: this.code,
      message: this.message,
      ...(this.hint === undefined ? {} : { hint: this.hint }),
      retryable: this.retryable,
    };
  }
}

/** Tells whether a string from outside is a code of the table. */
export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERROR_CODES, text);
}

/** Gives any thrown value as a RootlayerError; what is none becomes `E_INTERNAL` with the original as its cause. */
export function toRootlayerError(thrown: unknown): RootlayerError {
  const error = unwrapSuppressed(thrown);
  if (error instanceof RootlayerError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new RootlayerError('E_INTERNAL', message, { cause: error });
}

/** When work and its release both fail, `await using` hides the work's error in `.suppressed`: the work's error is the one to tell. */
function unwrapSuppressed(thrown: unknown): unknown {
  let error = thrown;
  while (error instanceof Error && error.name === 'SuppressedError' && 'suppressed' in error) {
    error = error.suppressed;
  }
  return error;
}
