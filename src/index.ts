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
export { type ExportImageArgs, exportImage } from './recipe/archive/export-image.ts';
export { type MergeImagesArgs, mergeImages } from './recipe/archive/merge-images.ts';
export { type PullImageArgs, prefetchImage, pullImage } from './recipe/archive/pull-image.ts';
export { tarsum } from './recipe/archive/tarsum-stream.ts';
export { type BuildImageArgs, type BuiltImage, buildImage } from './recipe/build/build-image.ts';
export type { LayerDirectory } from './recipe/build/build-image-layer.ts';
export { mkPureLayer, type PureLayerArgs } from './recipe/build/pure-layer.ts';
export { mkRootLayer, type RootLayerArgs } from './recipe/build/root-layer.ts';
export { type OverlayResult, type RunWithOverlayArgs, runWithOverlay } from './recipe/build/run-with-overlay.ts';
export { type BinShArgs, binSh, type CaCertificatesArgs, caCertificates, type UsrBinEnvArgs, usrBinEnv } from './recipe/helpers/links.ts';
export { type MergeDrvsArgs, mergeDrvs } from './recipe/helpers/merge-drvs.ts';
export { type FakeNssArgs, fakeNss } from './recipe/helpers/nss.ts';
export { type ShadowSetupArgs, shadowSetup } from './recipe/helpers/shadow-setup.ts';
export type { StreamLayeredImageArgs } from './recipe/layered/args.ts';
export {
  type BuildLayeredImageArgs,
  type BuildLayeredImageWithNixDbArgs,
  buildLayeredImage,
  buildLayeredImageWithNixDb,
} from './recipe/layered/compressed.ts';
export type { LayeredImage } from './recipe/layered/image.ts';
export { streamLayeredImage } from './recipe/layered/stream-layered-image.ts';
export { type BuildImageWithNixDbArgs, buildImageWithNixDb } from './recipe/nix/build-image.ts';
export {
  type BuildNixShellImageArgs,
  buildNixShellImage,
  type StreamNixShellImageArgs,
  streamNixShellImage,
} from './recipe/nix/shell-image.ts';
export type { BuildContainerArgs } from './recipe/oci-runtime/args.ts';
export { type Bundle, buildContainer } from './recipe/oci-runtime/bundle.ts';
export { writeBundle } from './recipe/oci-runtime/write.ts';
export { type RecipeContext, recipeContext } from './recipe/recipe-context.ts';
export { type RecipeResult, runRecipe } from './recipe/run-recipe.ts';
export { type ShellScriptArgs, shellScript } from './recipe/script/shell-script.ts';
export { type CompressorChoice, compressors } from './recipe/tree/compressors.ts';
export type { ImageFile } from './recipe/tree/image-file.ts';
export type { Tree } from './recipe/tree/tree.ts';

/** Opens an engine in this process, which needs root; close it with `close`. Throws what `createEngine` in engine.ts throws. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { createEngine } = await import('./engine.ts');
  return createEngine(options);
}
