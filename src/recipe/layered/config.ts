import { RootlayerError } from '../../core/errors.ts';
import { type ContainerConfig, mergeConfig, mergeEnv, parseImageConfig } from '../../core/image-config.ts';
import type { BaseImage } from '../archive/base-archive.ts';
import { recipeError } from '../recipe-error.ts';
import type { LayeredArgs } from './args.ts';
import { sortedKeys } from './json.ts';

/**
 * Gives the container config of a layered image: its own, with keys in order, over the base's; see `mergeConfig` for the rule of each field. With
 * `inherit` "seed" only `Env` is taken over. Throws `E_RECIPE` naming the member.
 */
export function layeredConfig({ config, inherit, compat }: LayeredArgs, base: BaseImage | null): unknown {
  const own = sortedKeys(config) as Record<string, unknown>;
  checkConfig(own);
  const baseConfig = base === null ? null : parseImageConfig(base.config).config;
  if (base === null || (inherit ?? (compat === 'seed' ? 'seed' : 'all')) === 'seed') return withEnv(own, baseConfig);
  return sortedKeys(mergeConfig(baseConfig, own));
}

/** Own keys keep their places; `Env` comes last where only the base has one. */
function withEnv(own: Record<string, unknown>, base: ContainerConfig | null | undefined): Record<string, unknown> {
  if (base === null || base === undefined) return own;
  const env = mergeEnv(base.Env ?? [], (own['Env'] as string[] | null | undefined) ?? []);
  return env.length === 0 ? own : { ...own, Env: env };
}

/** Gives the time that `created` or `mtime` names, in seconds since 1970. */
export function secondsOf(time: string): number {
  return Math.floor((time === 'now' ? Date.now() : Date.parse(time)) / 1000);
}

/** Throws `E_RECIPE` with the member's place for a config that `mergeConfig` refuses. */
export function checkConfig(config: Record<string, unknown>): void {
  try {
    mergeConfig(null, config);
  } catch (error) {
    if (!(error instanceof RootlayerError) || error.code !== 'E_CONFIG') throw error;
    const named = / member "([^"]*)": (.*)$/.exec(error.message);
    const unknown = /there is no member "([^"]*)"/.exec(error.message);
    const place = [...(named?.[1] ?? '').split('.').filter((part) => part !== ''), ...(unknown?.[1] === undefined ? [] : [unknown[1]])];
    throw recipeError(['config', ...place], unknown === null ? (named?.[2] ?? error.message) : 'there is no such member', undefined, error);
  }
}
