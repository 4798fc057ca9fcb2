/**
 * rootlayer as a library: a client of the daemon, the engine without one, and the image functions. Importing this loads neither the engine nor its native modules.
 */
import type { Engine } from './core/engine.ts';
import type { EngineOptions } from './engine.ts';

export { connect } from './api/client.ts';
export { sessionOf } from './api/embedded.ts';
export type { Fetched, ImageDetails, ImportOptions, JobSubmission, Session } from './api/session.ts';
export type { DiffId, Digest } from './core/digest.ts';
export type { Caller, Download, Engine, Feature, Progress } from './core/engine.ts';
export { ERROR_CODES, type ErrorBody, type ErrorCode, RootlayerError } from './core/errors.ts';
export type { JobId } from './core/ids.ts';
export type { Compression, ImageFormat, ImageLayer, ImageRecord } from './core/image.ts';
export type { JobEvent, JobRecord, JobRequest, JobState, LayerSummary, TerminalSize } from './core/job.ts';
export type { EngineOptions } from './engine.ts';
export { type BuildImageArgs, type BuiltImage, buildImage } from './recipe/build-image.ts';
export type { LayerDirectory } from './recipe/build-image-layer.ts';
export { type CompressorChoice, compressors } from './recipe/compressors.ts';
export { type ExportImageArgs, exportImage } from './recipe/export-image.ts';
export { type BinShArgs, binSh, type CaCertificatesArgs, caCertificates, type UsrBinEnvArgs, usrBinEnv } from './recipe/helpers-links.ts';
export { type FakeNssArgs, fakeNss } from './recipe/helpers-nss.ts';
export type { ImageFile } from './recipe/image-file.ts';
export type { StreamLayeredImageArgs } from './recipe/layered-args.ts';
export {
  type BuildLayeredImageArgs,
  type BuildLayeredImageWithNixDbArgs,
  buildLayeredImage,
  buildLayeredImageWithNixDb,
} from './recipe/layered-compressed.ts';
export type { LayeredImage } from './recipe/layered-image.ts';
export { type MergeDrvsArgs, mergeDrvs } from './recipe/merge-drvs.ts';
export { type MergeImagesArgs, mergeImages } from './recipe/merge-images.ts';
export { type BuildImageWithNixDbArgs, buildImageWithNixDb } from './recipe/nix-build-image.ts';
export {
  type BuildNixShellImageArgs,
  buildNixShellImage,
  type StreamNixShellImageArgs,
  streamNixShellImage,
} from './recipe/nix-shell-image.ts';
export type { BuildContainerArgs } from './recipe/oci-runtime-args.ts';
export { type Bundle, buildContainer } from './recipe/oci-runtime-bundle.ts';
export { writeBundle } from './recipe/oci-runtime-write.ts';
export { type PullImageArgs, prefetchImage, pullImage } from './recipe/pull-image.ts';
export { mkPureLayer, type PureLayerArgs } from './recipe/pure-layer.ts';
export { type RecipeContext, recipeContext } from './recipe/recipe-context.ts';
export { mkRootLayer, type RootLayerArgs } from './recipe/root-layer.ts';
export { type RecipeResult, runRecipe } from './recipe/run-recipe.ts';
export { type OverlayResult, type RunWithOverlayArgs, runWithOverlay } from './recipe/run-with-overlay.ts';
export { type ShadowSetupArgs, shadowSetup } from './recipe/shadow-setup.ts';
export { type ShellScriptArgs, shellScript } from './recipe/shell-script.ts';
export { streamLayeredImage } from './recipe/stream-layered-image.ts';
export { tarsum } from './recipe/tarsum-stream.ts';
export type { Tree } from './recipe/tree.ts';

/** Opens an engine in this process, which needs root; close it with `close`. Throws what `createEngine` in engine.ts throws. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { createEngine } = await import('./engine.ts');
  return createEngine(options);
}
