/**
 * Gives a file name as printable ASCII for messages and logs: other bytes become `\xNN`, a backslash `\\`,
 * and more than `limit` bytes are cut with an ellipsis. Never use it for anything that is read back.
 */
export function escapeName(name: Buffer, limit = 200): string {
  let text = '';
  for (const byte of name.subarray(0, limit)) {
    if (byte === 0x5c) text += '\\\\';
    else if (byte >= 0x20 && byte < 0x7f) text += String.fromCharCode(byte);
    else text += `\\x${byte.toString(16).padStart(2, '0')}`;
  }
  return name.length > limit ? `${text}...` : text;
}
