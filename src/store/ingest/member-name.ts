import { RootlayerError } from '../../core/errors.ts';
import { escapeName } from '../../core/names.ts';

/** No part starts with a dot, so neither `..` nor a hidden file can be among them. */
const PART = '[A-Za-z0-9_][A-Za-z0-9_.:@+=~-]{0,254}';
const MEMBER = new RegExp(String.raw`^(?:\./)*(${PART}(?:/${PART}){0,4})/?$`);
const ROOT = /^(?:\.\/)*\.?$/;

/**
 * Gives the name of a member of an image archive without `./` in front and `/` behind; empty for the root. Such names are keys of a map and are
 * never joined to a path of the host. Throws `E_ARCHIVE_PATH` for what no image archive needs: `..`, absolute names, hidden files, any other bytes
 * than letters, digits and `_.:@+=~-`. Source: spec/threats.md A64.
 */
export function parseMemberName(name: Buffer): string {
  const text = name.toString('latin1');
  if (ROOT.test(text)) return '';
  const match = MEMBER.exec(text);
  if (match?.[1] !== undefined) return match[1];
  throw new RootlayerError(
    'E_ARCHIVE_PATH',
    `Cannot take member "${escapeName(name)}" of an image archive: its name is none that images use`,
  );
}

/**
 * Gives the name of the member that a link of the archive points at: a symlink's target counts from the link's directory, a hard link's from the
 * root. Throws `E_ARCHIVE_LINK` for a target that leaves the archive or is malformed.
 */
export function resolveLink(name: string, kind: 'symlink' | 'hardlink', target: Buffer): string {
  const refuse = (why: string): never => {
    throw new RootlayerError('E_ARCHIVE_LINK', `Cannot follow link "${name}" to "${escapeName(target)}" in an image archive: ${why}`);
  };
  const parts = kind === 'symlink' ? name.split('/').slice(0, -1) : [];
  for (const part of target.toString('latin1').split('/')) {
    if (part === '..' && parts.pop() === undefined) refuse('it leaves the archive');
    if (part !== '..' && part !== '.') parts.push(part);
  }
  const resolved = Buffer.from(parts.join('/'), 'latin1');
  if (target[0] === 0x2f || !MEMBER.test(resolved.toString('latin1'))) refuse('its target is no name that images use');
  return parseMemberName(resolved);
}
