/**
 * Gives JSON as jshon prints it: one blank a level, `\/` for a slash, characters beyond ASCII as they are, and a newline at the end. Keys stay in their
 * order; members that are undefined are left out. Source: jshon(1); jansson, json_dumps with JSON_INDENT(1), JSON_PRESERVE_ORDER and JSON_ESCAPE_SLASH.
 */
export function jshonText(value: unknown): string {
  return `${print(value, JSHON, 0)}\n`;
}

/** Gives JSON as jq prints it: two blanks a level, and a newline at the end. Otherwise as {@link jshonText}. Source: jq 1.6. */
export function jqText(value: unknown): string {
  return `${print(value, JQ, 0)}\n`;
}

type Style = { readonly indent: string; text(text: string): string; real(value: number): string };

const JSHON: Style = { indent: ' ', text: jshonString, real: jshonReal };
const JQ: Style = { indent: '  ', text: jqString, real: jqReal };

function print(value: unknown, style: Style, depth: number): string {
  if (typeof value === 'string') return style.text(value);
  if (typeof value === 'number') return Number.isSafeInteger(value) ? String(value) : style.real(value);
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const isList = Array.isArray(value);
  const members = isList ? value.map((member: unknown) => print(member, style, depth + 1)) : membersOf(value, style, depth + 1);
  if (members.length === 0) return isList ? '[]' : '{}';
  const inner = `\n${style.indent.repeat(depth + 1)}`;
  const [open, close] = isList ? '[]' : '{}';
  return `${open}${inner}${members.join(`,${inner}`)}\n${style.indent.repeat(depth)}${close}`;
}

function membersOf(value: object, style: Style, depth: number): string[] {
  return Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .map(([key, member]) => `${style.text(key)}: ${print(member, style, depth)}`);
}

/** Both spell `"`, `\` and the short escapes as JavaScript does; jansson writes the others in upper-case hex. */
function jshonString(text: string): string {
  const plain = JSON.stringify(text).replaceAll('/', String.raw`\/`);
  return plain.replace(/\\u00(1[a-f]|0[a-f])/g, (_, hex: string) => `\\u00${hex.toUpperCase()}`);
}

function jqString(text: string): string {
  return JSON.stringify(text).replaceAll('\u007f', String.raw`\u007f`);
}

/** Seventeen digits, as C's `%.17g` has them; jansson writes exponents without leading zeros. */
function jshonReal(value: number): string {
  const { digits, point } = decimal(value, 17);
  if (point < -3 || point > 17) return withSign(value, exponential(digits, point, 1));
  const plain = withSign(value, positional(digits, point));
  return plain.includes('.') ? plain : `${plain}.0`;
}

/** The shortest digits that mean the number. Source: jq, jv_dtoa.c, jvp_dtoa_fmt. */
function jqReal(value: number): string {
  const { digits, point } = decimal(value);
  const isLong = point <= -4 || point > digits.length + 15;
  return withSign(value, isLong ? exponential(digits, point, 2) : positional(digits, point));
}

/** The digits of a number without its sign, and how many of them stand in front of the decimal point. */
function decimal(value: number, precision?: number): { digits: string; point: number } {
  const shown = Math.abs(value).toExponential(precision === undefined ? undefined : precision - 1);
  const [mantissa = '', exponent = '0'] = shown.split('e');
  return { digits: mantissa.replace('.', '').replace(/(?<=.)0+$/, ''), point: Number(exponent) + 1 };
}

function exponential(digits: string, point: number, minDigits: number): string {
  const exponent = point - 1;
  const sign = exponent < 0 ? '-' : minDigits === 1 ? '' : '+';
  const rest = digits.length > 1 ? `.${digits.slice(1)}` : '';
  return `${digits.charAt(0)}${rest}e${sign}${String(Math.abs(exponent)).padStart(minDigits, '0')}`;
}

function positional(digits: string, point: number): string {
  if (point <= 0) return `0.${'0'.repeat(-point)}${digits}`;
  if (digits.length <= point) return digits.padEnd(point, '0');
  return `${digits.slice(0, point)}.${digits.slice(point)}`;
}

function withSign(value: number, text: string): string {
  return value < 0 ? `-${text}` : text;
}
