import { RootlayerError } from './errors.ts';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

const SIZE_UNITS: Record<string, number> = { '': 1, k: 1024, m: MIB, g: GIB, t: 1024 * GIB };

/** Reads a size such as `512m`, `2g`, `1.5GiB` or `4096` (bytes; units are powers of 1024). Throws `E_USAGE`. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim());
  const unit = SIZE_UNITS[match?.[2]?.toLowerCase() ?? 'none'];
  const bytes = Math.floor(Number(match?.[1]) * (unit ?? Number.NaN));
  if (!Number.isSafeInteger(bytes)) {
    throw new RootlayerError(
      'E_USAGE',
      `Cannot read size ${JSON.stringify(text)}: want a number with k, m, g or t, such as "512m" or "2g"`,
    );
  }
  return bytes;
}

const TIME_UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Reads a time such as `90s`, `15m`, `1h30m`, or a bare number of seconds. Gives milliseconds. Throws `E_USAGE`. */
export function parseDuration(text: string): number {
  const trimmed = text.trim();
  if (/^\d+(?:\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1000);
  let totalMs = 0;
  const rest = trimmed.replace(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g, (_all, count: string, unit: string) => {
    totalMs += Number(count) * (TIME_UNITS[unit] ?? Number.NaN);
    return '';
  });
  if (trimmed === '' || rest !== '' || !Number.isFinite(totalMs)) {
    throw new RootlayerError(
      'E_USAGE',
      `Cannot read duration ${JSON.stringify(text)}: want a number with ms, s, m, h or d, such as "90s" or "1h30m"`,
    );
  }
  return Math.round(totalMs);
}
