/** The content of the `VERSION` file beside a layer, without a newline. Source: moby, image spec v1.2, "VERSION". */
export const LAYER_VERSION = '1.0';

/**
 * Gives the `json` file of a mkRootLayer directory: a config with the layer's tarsum as its `checksum`. The other members keep their order. Source:
 * nixpkgs dockerTools, mkRootLayer.
 */
export function rootLayerJson(config: Readonly<Record<string, unknown>>, tarsum: string): string {
  return `${JSON.stringify({ ...config, checksum: tarsum })}\n`;
}
