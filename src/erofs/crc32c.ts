/** The polynomial of Castagnoli, with its bits in reverse. */
const POLYNOMIAL = 0x82f6_3b78;

const TABLE = Int32Array.from({ length: 256 }, (_entry, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  return value;
});

/** CRC-32C from the start value ~0 and without the final inversion: the form in which the kernel's crc32c() is used for superblocks. */
export function crc32c(bytes: Buffer): number {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 0xff] ?? 0);
  return crc >>> 0;
}
