import { decodeLz4Legacy, LZ4_LEGACY_MAGIC } from './lz4.ts';

/** Where the setup header of a bzImage has what. Source: Linux, Documentation/arch/x86/boot.rst. */
const SETUP_SECTORS = 0x1f1;
const MAGIC = 0x202;
const VERSION = 0x206;
const RELEASE = 0x20e;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const SECTOR = 512;
/** The first version of the header that has the payload's place. */
const WITH_PAYLOAD = 0x0208;
const ELF = Buffer.from('\x7fELF', 'latin1');

/** Tells the release of a bzImage ("6.1.0-56-cloud-amd64"), or null when the file is no bzImage. */
export function readRelease(image: Buffer): string | null {
  if (!isBzImage(image)) return null;
  const start = image.readUInt16LE(RELEASE) + SECTOR;
  const text = image.toString('latin1', start, Math.min(start + 256, image.length));
  return /^([^\s\0]+)[\s\0]/.exec(text)?.[1] ?? null;
}

/**
 * Gives the kernel in the form that boots fastest: the ELF file inside of a bzImage when that is compressed with lz4, as that of Debian's cloud
 * kernel is, or else the bzImage, which unpacks itself.
 */
export function extractVmlinux(image: Buffer): Buffer {
  const payload = readPayload(image);
  if (payload === null || payload.readUInt32LE(0) !== LZ4_LEGACY_MAGIC) return image;
  const kernel = decodeLz4Legacy(payload);
  return kernel?.subarray(0, ELF.length).equals(ELF) ? kernel : image;
}

function readPayload(image: Buffer): Buffer | null {
  if (!isBzImage(image) || image.readUInt16LE(VERSION) < WITH_PAYLOAD) return null;
  // A zero is the four of old boot loaders.
  const start = ((image[SETUP_SECTORS] || 4) + 1) * SECTOR + image.readUInt32LE(PAYLOAD_OFFSET);
  const payload = image.subarray(start, start + image.readUInt32LE(PAYLOAD_LENGTH));
  return payload.length < 4 ? null : payload;
}

function isBzImage(image: Buffer): boolean {
  return image.length > 4 * SECTOR && image.toString('latin1', MAGIC, MAGIC + 4) === 'HdrS';
}
