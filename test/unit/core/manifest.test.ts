import { createHash } from 'node:crypto';
import t from 'tap';
import { digestOf } from '../../../src/core/digest.ts';
import {
  checkContent,
  embeddedContent,
  kindOfMediaType,
  layerMediaType,
  parseDockerManifest,
  parseIndex,
  parseLayoutMarker,
  parseManifest,
} from '../../../src/core/manifest.ts';

const INDEX = 'application/vnd.oci.image.index.v1+json';
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const TAR = 'application/vnd.oci.image.layer.v1.tar';
const DIGEST = digestOf('a'.repeat(64));

function descriptor(mediaType: string, more: object = {}): { mediaType: string; digest: typeof DIGEST; size: number } {
  return { mediaType, digest: DIGEST, size: 1, ...more };
}

function manifest(more: object = {}): object {
  return { schemaVersion: 2, config: descriptor(CONFIG), layers: [descriptor(TAR)], ...more };
}

t.test('kindOfMediaType() knows the types of OCI and Docker', async (t) => {
  t.equal(kindOfMediaType(INDEX), 'index');
  t.equal(kindOfMediaType('application/vnd.docker.distribution.manifest.v2+json'), 'manifest');
  t.equal(kindOfMediaType('application/vnd.docker.container.image.v1+json'), 'config');
  t.equal(kindOfMediaType('application/vnd.docker.image.rootfs.diff.tar.gzip'), 'layer');
  t.equal(kindOfMediaType('constructor'), null);
});

t.test('layerMediaType() names the compression', async (t) => {
  t.equal(layerMediaType('none'), TAR);
  t.equal(layerMediaType('gzip'), `${TAR}+gzip`);
  t.equal(layerMediaType('zstd'), `${TAR}+zstd`);
});

t.test('parseIndex() and parseManifest() give well-formed documents', async (t) => {
  t.equal(parseIndex({ schemaVersion: 2, manifests: [descriptor(MANIFEST)] }, null).manifests.length, 1);
  t.equal(parseIndex({ schemaVersion: 2, mediaType: INDEX, manifests: [] }, INDEX).manifests.length, 0);
  t.equal(parseManifest(manifest({ mediaType: MANIFEST }), MANIFEST).layers.length, 1);
  t.equal(parseManifest(manifest({ layers: [] }), MANIFEST).layers.length, 0);
});

t.test('parseIndex() and parseManifest() refuse hostile documents', async (t) => {
  const asIndex =
    (value: unknown, announced: string | null = null) =>
    () =>
      parseIndex(value, announced);
  const asManifest =
    (value: unknown, announced = MANIFEST) =>
    () =>
      parseManifest(value, announced);
  const rows: [string, () => unknown][] = [
    ['A55 an index that is a manifest too', asIndex({ schemaVersion: 2, manifests: [], layers: [] })],
    ['A55 an index with a config', asIndex({ schemaVersion: 2, manifests: [], config: descriptor(CONFIG) })],
    ['A55 an index with fsLayers', asIndex({ schemaVersion: 2, manifests: [], fsLayers: [] })],
    ['A55 a manifest that is an index too', asManifest(manifest({ manifests: [] }))],
    ['A55 a manifest that calls itself an index', asManifest(manifest({ mediaType: INDEX }), INDEX)],
    [
      'A55 a manifest announced as another type',
      asManifest(manifest({ mediaType: 'application/vnd.docker.distribution.manifest.v2+json' })),
    ],
    ['A55 an index that calls itself a manifest', asIndex({ schemaVersion: 2, mediaType: MANIFEST, manifests: [] })],
    ['A55 an index announced as another type', asIndex({ schemaVersion: 2, mediaType: INDEX, manifests: [] }, 'application/x')],
    ['A52 a digest that is a path', asIndex({ schemaVersion: 2, manifests: [descriptor(MANIFEST, { digest: 'sha256:../../x' })] })],
    [
      'A52 a digest of another kind',
      asIndex({ schemaVersion: 2, manifests: [descriptor(MANIFEST, { digest: `sha512:${'a'.repeat(128)}` })] }),
    ],
    ['A53 a negative size', asManifest(manifest({ config: descriptor(CONFIG, { size: -1 }) }))],
    ['A53 a size that is a text', asManifest(manifest({ config: descriptor(CONFIG, { size: '1' }) }))],
    ['A61 an ext4 layer', asManifest(manifest({ layers: [descriptor('application/vnd.example.layer.ext4')] }))],
    ['A61 an erofs layer', asManifest(manifest({ layers: [descriptor('application/vnd.oci.image.layer.v1.erofs')] }))],
    ['A61 a squashfs layer', asManifest(manifest({ layers: [descriptor('application/vnd.sylabs.sif.layer.v1.squashfs')] }))],
    ['A61 a config for a layer', asManifest(manifest({ layers: [descriptor(CONFIG)] }))],
    ['A61 a layer for a config', asManifest(manifest({ config: descriptor(TAR) }))],
    ['A64 128 layers', asManifest(manifest({ layers: Array(128).fill(descriptor(TAR)) }))],
    ['A64 10001 manifests', asIndex({ schemaVersion: 2, manifests: Array(10_001).fill(descriptor(MANIFEST)) })],
    ['schema version 1', asManifest(manifest({ schemaVersion: 1 }))],
    ['no version', asIndex({ manifests: [] })],
    ['no config', asManifest({ schemaVersion: 2, layers: [] })],
    ['null', asIndex(null)],
    ['a list', asManifest([])],
  ];
  for (const [name, parse] of rows) t.throws(parse, { code: 'E_MANIFEST' }, name);
});

t.test('embeddedContent() gives only what has the digest and the size (A56)', async (t) => {
  const content = Buffer.from('{}');
  const digest = digestOf(createHash('sha256').update(content).digest());
  const data = content.toString('base64');
  t.equal(embeddedContent({ mediaType: MANIFEST, digest, size: 2 }), null);
  t.same(embeddedContent({ mediaType: MANIFEST, digest, size: 2, data }), content);
  t.throws(() => embeddedContent({ mediaType: MANIFEST, digest, size: 3, data }), { code: 'E_SIZE' });
  t.throws(() => embeddedContent({ mediaType: MANIFEST, digest: DIGEST, size: 2, data }), { code: 'E_DIGEST' });
});

t.test('checkContent() compares size and digest (A53)', async (t) => {
  const want = { digest: DIGEST, size: 5 };
  t.doesNotThrow(() => checkContent(want, { digest: DIGEST, sizeBytes: 5 }));
  t.throws(() => checkContent(want, { digest: DIGEST, sizeBytes: 6 }), { code: 'E_SIZE' });
  t.throws(() => checkContent(want, { digest: digestOf('b'.repeat(64)), sizeBytes: 5 }), { code: 'E_DIGEST' });
});

t.test('parseDockerManifest() reads the manifest of docker save', async (t) => {
  const entry = { Config: 'a.json', RepoTags: null, Layers: ['a/layer.tar'], LayerSources: {} };
  t.same(parseDockerManifest([entry]), [entry]);
  t.same(parseDockerManifest([{ Config: 'a.json' }]), [{ Config: 'a.json' }]);
});

t.test('parseDockerManifest() refuses others (A64)', async (t) => {
  const rows: [string, unknown][] = [
    ['A64 128 layers', [{ Config: 'a', Layers: Array(128).fill('x') }]],
    ['A64 1001 images', Array(1001).fill({ Config: 'a' })],
    ['no list', { Config: 'a' }],
    ['no Config', [{ Layers: [] }]],
    ['Layers is a text', [{ Config: 'a', Layers: 'x' }]],
    ['a name is a number', [{ Config: 'a', Layers: [7] }]],
  ];
  for (const [name, value] of rows) t.throws(() => parseDockerManifest(value), { code: 'E_MANIFEST' }, name);
});

t.test('parseLayoutMarker() knows version 1.0.0 only', async (t) => {
  t.doesNotThrow(() => parseLayoutMarker({ imageLayoutVersion: '1.0.0' }));
  t.throws(() => parseLayoutMarker({ imageLayoutVersion: '2.0.0' }), { code: 'E_MANIFEST' });
});
