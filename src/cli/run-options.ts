import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import process from 'node:process';
import type { JobSubmission } from '../api/session.ts';
import { RootlayerError } from '../core/errors.ts';
import type { CompatChoice, IsolationChoice, NetworkChoice } from '../core/job.ts';
import { parseStrictJson } from '../core/strict-json.ts';
import { parseDuration, parseSize } from '../core/units.ts';
import { type BaseSource, parseBaseSource } from './base-source.ts';
import { type ContextItem, parseCopy, parseFile } from './context-tar.ts';
import { type OutputPlan, planResult, type ResultFormat } from './output-plan.ts';
import type { SessionOptions } from './session.ts';
import { requireTerminal, terminalSize } from './terminal.ts';

/** The options of `run` as the command line has them. */
export type RunOptions = SessionOptions & {
  from: string;
  script: string;
  output?: string;
  format?: string;
  isolation: string;
  network: string;
  copy: string[];
  file: string[];
  env: string[];
  memory?: string;
  cpus?: string;
  pids?: string;
  disk?: string;
  inodes?: string;
  timeout?: string;
  silence?: string;
  outputLimit?: string;
  sourceDateEpoch?: string;
  name?: string;
  config?: string;
  select?: string;
  keepImage: boolean;
  detach?: boolean;
  raw?: boolean;
  tty?: boolean;
  compat: string;
  json?: boolean;
};

/** A checked `run`: nothing in it can be wrong any more but what only the engine knows. */
export type RunPlan = {
  source: BaseSource;
  select: string | null;
  items: ContextItem[];
  output: OutputPlan<ResultFormat> | null;
  /** The request without the base and the context, which are not in the store yet. */
  request: Omit<JobSubmission, 'from' | 'contextId'>;
};

const MAX_SCRIPT_BYTES = 16 * 1024 * 1024;
const STDIN = 0;
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const ISOLATIONS: readonly IsolationChoice[] = ['auto', 'userns', 'chroot', 'vm'];
const NETWORKS: readonly NetworkChoice[] = ['none', 'host'];
const COMPATS: readonly CompatChoice[] = ['none', 'seed'];

/** Checks the options of `run`; throws `E_USAGE` naming the option. What is checked here fails before anything is sent. */
export async function planRun(options: RunOptions): Promise<RunPlan> {
  if (options.detach && options.output !== undefined) {
    throw new RootlayerError('E_USAGE', 'Cannot use --detach with --output: nobody waits for the layer', {
      hint: 'fetch it later with "rootlayer job get ID -o OUT"',
    });
  }
  if (options.format !== undefined && options.output === undefined) {
    throw new RootlayerError('E_USAGE', `Cannot use --format ${options.format} without --output`, { hint: 'say where to with -o OUT' });
  }
  if (options.tty) checkTerminal(options);
  return {
    source: parseBaseSource(options.from),
    select: options.select ?? null,
    output: options.output === undefined ? null : planResult(options.output, options.format),
    items: [...(await Promise.all(options.copy.map(parseCopy))), ...(await Promise.all(options.file.map(parseFile)))],
    request: {
      script: readScript(options.script).toString('base64'),
      isolation: oneOf('--isolation', options.isolation, ISOLATIONS),
      network: oneOf('--network', options.network, NETWORKS),
      env: { ...(options.tty ? terminalEnv() : {}), ...parseEnv(options.env) },
      limits: await parseLimits(options),
      sourceDateEpoch: parseEpoch(options.sourceDateEpoch),
      name: options.name ?? null,
      config: options.config === undefined ? null : parseConfig(options.config),
      compat: oneOf('--compat', options.compat, COMPATS),
      terminal: options.tty ? terminalSize() : null,
    },
  };
}

/** A job that is left to itself needs nobody at its terminal yet. */
function checkTerminal(options: RunOptions): void {
  if (options.script === '-') throw new RootlayerError('E_USAGE', 'Cannot use --tty with --script "-": standard input cannot be both');
  if (!options.detach) requireTerminal('--tty');
}

/** What kind of terminal it is. */
function terminalEnv(): Record<string, string> {
  const term = process.env['TERM'] ?? '';
  return term === '' ? {} : { TERM: term };
}

/** The script's bytes; `-` is standard input. */
function readScript(file: string): Buffer {
  const script = readBounded(file);
  if (script.length > MAX_SCRIPT_BYTES) {
    throw new RootlayerError('E_USAGE', `Cannot use --script ${JSON.stringify(file)}: it has more than ${MAX_SCRIPT_BYTES} bytes`);
  }
  return script;
}

/** Stops behind the first byte too many, so that `--script /dev/zero` ends. */
function readBounded(file: string): Buffer {
  let fd = STDIN;
  try {
    if (file !== '-') fd = openSync(file, 'r');
    const chunks: Buffer[] = [];
    for (let length = 0; length <= MAX_SCRIPT_BYTES; ) {
      const chunk = Buffer.allocUnsafe(64 * 1024);
      const read = readSync(fd, chunk);
      if (read === 0) break;
      chunks.push(chunk.subarray(0, read));
      length += read;
    }
    return Buffer.concat(chunks);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new RootlayerError('E_USAGE', `Cannot use --script ${JSON.stringify(file)}: ${why}`, { cause: error });
  } finally {
    if (fd !== STDIN) closeSync(fd);
  }
}

function oneOf<T extends string>(option: string, value: string, known: readonly T[]): T {
  const found = known.find((name) => name === value);
  if (found === undefined) throw refuse(option, value, `want one of ${known.join(', ')}`);
  return found;
}

/** `K=V`; `K` alone takes the value from the environment. Values stay out of messages: they can be secrets. */
function parseEnv(texts: readonly string[]): Record<string, string> {
  const env: [string, string][] = [];
  for (const text of texts) {
    const equals = text.indexOf('=');
    const name = equals < 0 ? text : text.slice(0, equals);
    const value = equals < 0 ? process.env[name] : text.slice(equals + 1);
    if (!ENV_NAME.test(name)) throw refuse('--env', name, 'want NAME=VALUE, the name of letters, digits and underscores');
    if (value === undefined) throw refuse('--env', name, 'it is not in the environment, want NAME=VALUE');
    env.push([name, value]);
  }
  return Object.fromEntries(env);
}

/** Reproducible builds set SOURCE_DATE_EPOCH, which holds unless the option says otherwise. Source: reproducible-builds.org, SOURCE_DATE_EPOCH. */
function parseEpoch(option: string | undefined): number | null {
  const value = option ?? process.env['SOURCE_DATE_EPOCH'] ?? '';
  if (value === '') return null;
  const name = option === undefined ? 'SOURCE_DATE_EPOCH' : '--source-date-epoch';
  if (!/^\d{1,12}$/.test(value)) throw refuse(name, value, 'want seconds since 1970, such as 315532800');
  return Number(value);
}

/** JSON, or `@FILE`. */
function parseConfig(text: string): Record<string, unknown> {
  const bytes = text.startsWith('@') ? readConfigFile(text.slice(1)) : Buffer.from(text);
  const config = parseStrictJson(bytes, { code: 'E_USAGE', what: '--config' });
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw refuse('--config', text.slice(0, 40), 'want a JSON object');
  return { ...config };
}

function readConfigFile(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw refuse('--config', `@${file}`, error instanceof Error ? error.message : String(error));
  }
}

type LimitKind = 'size' | 'duration' | 'number';

const LIMITS = [
  { option: 'memory', flag: '--memory', key: 'memoryBytes', kind: 'size' },
  { option: 'cpus', flag: '--cpus', key: 'cpus', kind: 'number' },
  { option: 'pids', flag: '--pids', key: 'pids', kind: 'number' },
  { option: 'disk', flag: '--disk', key: 'diskBytes', kind: 'size' },
  { option: 'inodes', flag: '--inodes', key: 'inodes', kind: 'number' },
  { option: 'timeout', flag: '--timeout', key: 'timeMs', kind: 'duration' },
  { option: 'silence', flag: '--silence', key: 'silenceMs', kind: 'duration' },
  { option: 'outputLimit', flag: '--output-limit', key: 'outputBytes', kind: 'size' },
] as const satisfies readonly { option: keyof RunOptions; flag: string; key: string; kind: LimitKind }[];

/** The schema is loaded only when there is something to check: it takes as long as all the rest of the start. */
async function parseLimits(options: RunOptions): Promise<NonNullable<JobSubmission['limits']>> {
  const given = LIMITS.filter(({ option }) => options[option] !== undefined);
  if (given.length === 0) return {};
  const { limitsSchema } = await import('../core/limits.ts');
  const readers: Record<LimitKind, (text: string) => number> = { size: parseSize, duration: parseDuration, number: parseNumber };
  const values: Record<string, number> = {};
  for (const { option, flag, key, kind } of given) {
    const text = options[option] ?? '';
    try {
      values[key] = readers[kind](text);
    } catch (error) {
      throw refuse(flag, text, error instanceof Error ? error.message.replace(/^.*?: (?=want)/, '') : String(error));
    }
  }
  const issue = limitsSchema.safeParse(values).error?.issues[0];
  const wrong = given.find(({ key }) => key === issue?.path[0]);
  if (issue !== undefined && wrong !== undefined) throw refuse(wrong.flag, options[wrong.option] ?? '', inUnit(issue.message, wrong.kind));
  return values;
}

function parseNumber(text: string): number {
  if (!/^\d+(?:\.\d+)?$/.test(text)) throw new RootlayerError('E_USAGE', 'want a number');
  return Number(text);
}

/** The schema speaks of bytes and milliseconds. */
function inUnit(message: string, kind: LimitKind): string {
  const units: Record<LimitKind, string> = { size: ' bytes', duration: ' ms', number: '' };
  return `${message.charAt(0).toLowerCase()}${message.slice(1)}${units[kind]}`;
}

function refuse(option: string, value: string, why: string): RootlayerError {
  return new RootlayerError('E_USAGE', `Cannot use ${option} ${JSON.stringify(value.slice(0, 200))}: ${why}`);
}
