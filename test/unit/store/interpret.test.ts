import t from 'tap';
import { type Digest, hexOf } from '../../../src/core/digest.ts';
import type { ErrorCode } from '../../../src/core/errors.ts';
import type { ArchiveImage } from '../../../src/store/ingest/candidate.ts';
import { interpretArchive } from '../../../src/store/ingest/interpret.ts';
import {
  archiveOf,
  blobName,
  configFor,
  descriptorOf,
  jsonOf,
  layoutOf,
  MEDIA,
  type Members,
  manifestFor,
  sha256,
} from './archive-fixture.ts';

const PLATFORM = 'linux/amd64';
const BOTTOM = Buffer.from('bottom');
const TOP = Buffer.from('top');
const CONFIG = configFor([BOTTOM, TOP]);
const MANIFEST = manifestFor(CONFIG, [BOTTOM, TOP]);
const CONFIG_NAME = `${hexOf(sha256(CONFIG))}.json`;

function interpret(members: Members, select: string | null = null): ArchiveImage {
  const { listing, read } = archiveOf(members);
  return interpretArchive(listing, read, select, PLATFORM);
}

/** What matters of an image, in short. */
function summary(image: ArchiveImage): { names: string[]; config: Digest; layers: Digest[] } {
  return { names: image.names, config: image.config.file.digest, layers: image.layers.map((layer) => layer.file.digest) };
}

function dockerManifest(...entries: object[]): readonly [string, Buffer] {
  return ['manifest.json', jsonOf(entries)];
}

const EXPECTED = { names: ['app:1'], config: sha256(CONFIG), layers: [sha256(BOTTOM), sha256(TOP)] };

t.test('interpretArchive() reads the classic layout of docker save', async (t) => {
  const image = interpret([
    [`${'1'.repeat(64)}/VERSION`, Buffer.from('1.0')],
    [`${'1'.repeat(64)}/layer.tar`, BOTTOM],
    [`${'2'.repeat(64)}/layer.tar`, TOP],
    [CONFIG_NAME, CONFIG],
    dockerManifest({ Config: CONFIG_NAME, RepoTags: ['app:1'], Layers: [`${'1'.repeat(64)}/layer.tar`, `${'2'.repeat(64)}/layer.tar`] }),
    ['repositories', jsonOf({})],
  ]);
  t.same(summary(image), EXPECTED);
});

t.test("interpretArchive() reads skopeo's layout, with links between layers", async (t) => {
  const [first, second] = [`${hexOf(sha256(BOTTOM))}.tar`, `${hexOf(sha256(TOP))}.tar`];
  const image = interpret([
    [first, BOTTOM],
    [`${'1'.repeat(64)}/layer.tar`, { symlink: `../${first}` }],
    [second, TOP],
    [`${'2'.repeat(64)}/layer.tar`, { hardlink: second }],
    [CONFIG_NAME, CONFIG],
    dockerManifest({
      Config: CONFIG_NAME,
      RepoTags: ['docker.io/library/app:1'],
      Layers: [`${'1'.repeat(64)}/layer.tar`, `${'2'.repeat(64)}/layer.tar`],
    }),
  ]);
  t.same(summary(image), EXPECTED);
});

t.test('interpretArchive() reads the layout of Docker 25 by its manifest.json', async (t) => {
  const members = layoutOf([descriptorOf(MEDIA.manifest, MANIFEST)], [CONFIG, BOTTOM, TOP, MANIFEST]);
  const image = interpret([
    ...members,
    dockerManifest({ Config: blobName(CONFIG), RepoTags: ['app:1'], Layers: [blobName(BOTTOM), blobName(TOP)], LayerSources: {} }),
  ]);
  t.same(summary(image), EXPECTED);
});

t.test('interpretArchive() reads an OCI layout, by ref.name and by image name', async (t) => {
  const blobs = [CONFIG, BOTTOM, TOP, MANIFEST];
  const named = (annotations: object) => interpret(layoutOf([descriptorOf(MEDIA.manifest, MANIFEST, { annotations })], blobs));
  t.same(summary(named({ 'org.opencontainers.image.ref.name': 'app:1' })), EXPECTED);
  t.same(summary(named({ 'org.opencontainers.image.ref.name': '1', 'io.containerd.image.name': 'docker.io/library/app:1' })), EXPECTED);
  t.same(summary(named({ 'org.opencontainers.image.ref.name': 'latest' })), { ...EXPECTED, names: [] });
});

t.test('interpretArchive() takes an image without layers', async (t) => {
  const config = configFor([]);
  const image = interpret([['c.json', config], dockerManifest({ Config: 'c.json', RepoTags: null, Layers: null })]);
  t.same(summary(image), { names: [], config: sha256(config), layers: [] });
});

t.test('interpretArchive() takes a layer that occurs twice', async (t) => {
  const config = configFor([BOTTOM, TOP, BOTTOM]);
  const image = interpret([
    ['a.tar', BOTTOM],
    ['b.tar', TOP],
    ['a.tar', BOTTOM],
    ['c.json', config],
    dockerManifest({ Config: 'c.json', Layers: ['a.tar', 'b.tar', 'a.tar'] }),
  ]);
  t.same(
    image.layers.map((layer) => layer.file.digest),
    [sha256(BOTTOM), sha256(TOP), sha256(BOTTOM)],
  );
});

const OTHER_CONFIG = configFor([TOP]);
const TWO_IMAGES: Members = [
  ['a.tar', BOTTOM],
  ['b.tar', TOP],
  ['one.json', CONFIG],
  ['two.json', OTHER_CONFIG],
  dockerManifest(
    { Config: 'one.json', RepoTags: ['foo:latest', 'foo:1'], Layers: ['a.tar', 'b.tar'] },
    { Config: 'two.json', RepoTags: ['o:lat', 'registry.example/o:2'], Layers: ['b.tar'] },
  ),
];

t.test('interpretArchive() chooses an image by its exact name or digest', async (t) => {
  const rows: [string, Buffer][] = [
    ['foo:latest', CONFIG],
    ['foo', CONFIG],
    ['docker.io/library/foo:1', CONFIG],
    ['o:lat', OTHER_CONFIG],
    ['registry.example/o:2', OTHER_CONFIG],
    [sha256(OTHER_CONFIG), OTHER_CONFIG],
  ];
  for (const [select, config] of rows) t.equal(interpret(TWO_IMAGES, select).config.file.digest, sha256(config), select);
});

t.test('interpretArchive() lists what there is when nothing or too much matches', async (t) => {
  t.throws(() => interpret(TWO_IMAGES), { code: 'E_IMAGE_AMBIGUOUS', message: /foo:latest, foo:1; o:lat, registry\.example\/o:2/ });
  for (const select of ['o:latest', 'fo:latest', 'foo:2', 'oo:latest', sha256(TOP), '']) {
    t.throws(() => interpret(TWO_IMAGES, select), { code: 'E_NOT_FOUND', message: /foo:latest/ }, select);
  }
  t.throws(() => interpret([dockerManifest()]), { code: 'E_NOT_FOUND', message: /it holds none/ });
});

t.test('interpretArchive() takes one image with several index entries as one', async (t) => {
  const entry = (name: string) => descriptorOf(MEDIA.manifest, MANIFEST, { annotations: { 'org.opencontainers.image.ref.name': name } });
  t.same(interpret(layoutOf([entry('app:1'), entry('app:2')], [CONFIG, BOTTOM, TOP, MANIFEST])).names, ['app:1', 'app:2']);
});

t.test('interpretArchive() goes through an index in the index, to the image of this platform', async (t) => {
  const arm = manifestFor(OTHER_CONFIG, [TOP]);
  const nested = jsonOf({
    schemaVersion: 2,
    mediaType: MEDIA.index,
    manifests: [
      descriptorOf(MEDIA.manifest, arm, { platform: { os: 'linux', architecture: 'arm64' } }),
      descriptorOf(MEDIA.manifest, MANIFEST, { platform: { os: 'linux', architecture: 'amd64' } }),
      descriptorOf(MEDIA.manifest, Buffer.from('elsewhere'), { platform: { os: 'linux', architecture: 's390x' } }),
      descriptorOf(MEDIA.manifest, Buffer.from('attestation'), { platform: { os: 'unknown', architecture: 'unknown' } }),
    ],
  });
  const index = descriptorOf(MEDIA.index, nested, { annotations: { 'org.opencontainers.image.ref.name': 'app:1' } });
  const members = layoutOf([index], [nested, arm, MANIFEST, CONFIG, OTHER_CONFIG, BOTTOM, TOP]);
  t.same(summary(interpret(members)), EXPECTED);
  t.equal(interpret(members, sha256(arm)).config.file.digest, sha256(OTHER_CONFIG));
  t.equal(interpret(members, 'app:1').config.file.digest, sha256(CONFIG));
});

t.test('interpretArchive() reads a manifest from the data of its descriptor', async (t) => {
  const data = MANIFEST.toString('base64');
  t.same(summary(interpret(layoutOf([descriptorOf(MEDIA.manifest, MANIFEST, { data })], [CONFIG, BOTTOM, TOP]))).layers, EXPECTED.layers);
});

/** An OCI layout with one manifest, and a change to one of its parts. */
function layout(change: { descriptor?: object; manifest?: Buffer; blobs?: Buffer[]; index?: unknown; marker?: unknown }): Members {
  const manifest = change.manifest ?? MANIFEST;
  const members = layoutOf(
    [descriptorOf(MEDIA.manifest, manifest, change.descriptor)],
    [manifest, ...(change.blobs ?? [CONFIG, BOTTOM, TOP])],
  );
  return members.map(([name, content]) => {
    if (name === 'index.json' && change.index !== undefined) return [name, jsonOf(change.index)];
    return name === 'oci-layout' && change.marker !== undefined ? [name, jsonOf(change.marker)] : [name, content];
  });
}

function docker(entry: object, more: Members = []): Members {
  return [
    ['a.tar', BOTTOM],
    ['b.tar', TOP],
    ['c.json', CONFIG],
    dockerManifest({ Config: 'c.json', Layers: ['a.tar', 'b.tar'], ...entry }),
    ...more,
  ];
}

/** `depth` indexes in each other. */
function nestedIndexes(depth: number): Members {
  const blobs = [MANIFEST, CONFIG, BOTTOM, TOP];
  let descriptor = descriptorOf(MEDIA.manifest, MANIFEST);
  for (let level = 0; level < depth; level += 1) {
    const index = jsonOf({ schemaVersion: 2, manifests: [descriptor] });
    blobs.push(index);
    descriptor = descriptorOf(MEDIA.index, index);
  }
  return layoutOf([descriptor], blobs);
}

/** `width` indexes of `width` entries that all lead to indexes. */
function wideIndexes(width: number): Members {
  const blobs: Buffer[] = [];
  const manifests = Array.from({ length: width }, (_, n) => {
    const index = jsonOf({ schemaVersion: 2, n, padding: 'x'.repeat(1_000_000), manifests: [] });
    blobs.push(index);
    return descriptorOf(MEDIA.index, index);
  });
  return layoutOf(manifests, blobs);
}

function text(json: string): Members {
  return [['manifest.json', Buffer.from(json)]];
}

const FLIPPED = Buffer.from('botton');

t.test('interpretArchive() refuses hostile archives', async (t) => {
  const rows: [string, Members, ErrorCode][] = [
    ['A52 a config that is a path', docker({ Config: '../../etc/passwd' }), 'E_ARCHIVE_PATH'],
    ['A52 an absolute config', docker({ Config: '/etc/passwd' }), 'E_ARCHIVE_PATH'],
    ['A52 a digest that is a path', layout({ descriptor: { digest: 'sha256:../../x' } }), 'E_MANIFEST'],
    ['A52 a digest of another kind', layout({ descriptor: { digest: `sha512:${'a'.repeat(64)}` } }), 'E_MANIFEST'],
    ['A52 an upper-case digest', layout({ descriptor: { digest: sha256(MANIFEST).toUpperCase() } }), 'E_MANIFEST'],
    ['A53 a config with another digest', docker({ Config: CONFIG_NAME }, [[CONFIG_NAME, OTHER_CONFIG]]), 'E_DIGEST'],
    ['A53 a layer blob with another digest', docker({ Layers: [blobName(BOTTOM), 'b.tar'] }, [[blobName(BOTTOM), FLIPPED]]), 'E_DIGEST'],
    [
      'A53 a manifest with another digest',
      layoutOf([descriptorOf(MEDIA.manifest, MANIFEST)], []).concat([[blobName(MANIFEST), jsonOf({})]]),
      'E_SIZE',
    ],
    ['A53 a manifest of another size', layout({ descriptor: { size: MANIFEST.length - 1 } }), 'E_SIZE'],
    [
      'A53 a layer that goes on behind its size',
      layout({ manifest: manifestFor(CONFIG, [BOTTOM, TOP.subarray(0, 2)]), blobs: [CONFIG, BOTTOM, TOP] }),
      'E_MANIFEST',
    ],
    [
      'A53 a layer of another size',
      layout({
        manifest: manifestFor(CONFIG, [BOTTOM, TOP], { layers: [BOTTOM, TOP].map((l) => ({ ...descriptorOf(MEDIA.tar, l), size: 99 })) }),
      }),
      'E_SIZE',
    ],
    ['A54 fewer layers than diffIDs', docker({ Layers: ['a.tar'] }), 'E_MANIFEST'],
    ['A54 more layers than diffIDs', docker({ Layers: ['a.tar', 'b.tar', 'a.tar'] }), 'E_MANIFEST'],
    ['A54 no layers', docker({ Layers: null }), 'E_MANIFEST'],
    ['A54 a layer that is not there', docker({ Layers: ['a.tar', 'z.tar'] }), 'E_MANIFEST'],
    ['A54 a config that is not there', docker({ Config: 'z.json' }), 'E_MANIFEST'],
    ['A54 a config without rootfs', [['c.json', jsonOf({})], dockerManifest({ Config: 'c.json' })], 'E_CONFIG'],
    ['A55 index.json that is a manifest too', layout({ index: { schemaVersion: 2, manifests: [], layers: [] } }), 'E_MANIFEST'],
    ['A55 a manifest that is an index too', layout({ manifest: manifestFor(CONFIG, [BOTTOM, TOP], { manifests: [] }) }), 'E_MANIFEST'],
    [
      'A55 an index announced as a manifest',
      layout({ manifest: jsonOf({ schemaVersion: 2, mediaType: MEDIA.index, manifests: [] }) }),
      'E_MANIFEST',
    ],
    [
      'A55 a manifest with a lying type',
      layout({ manifest: manifestFor(CONFIG, [BOTTOM, TOP], { mediaType: 'application/json' }) }),
      'E_MANIFEST',
    ],
    ['A55 index.json with a lying type', layout({ index: { schemaVersion: 2, mediaType: MEDIA.manifest, manifests: [] } }), 'E_MANIFEST'],
    ['A55 another layout version', layout({ marker: { imageLayoutVersion: '9' } }), 'E_MANIFEST'],
    ['A56 indexes three deep', nestedIndexes(2), 'E_MANIFEST'],
    ['A56 indexes a hundred deep', nestedIndexes(100), 'E_MANIFEST'],
    ['A56 many large indexes', wideIndexes(20), 'E_MANIFEST'],
    ['A56 a layer that is elsewhere', layout({ blobs: [CONFIG, BOTTOM] }), 'E_MANIFEST'],
    [
      'A56 a layer with urls is not fetched',
      layout({
        manifest: manifestFor(CONFIG, [], {
          layers: [BOTTOM, TOP].map((layer) => descriptorOf(MEDIA.tar, layer, { urls: ['http://127.0.0.1:9/x'] })),
        }),
        blobs: [CONFIG],
      }),
      'E_MANIFEST',
    ],
    [
      'A56 data with another digest',
      layout({ descriptor: { data: Buffer.from(MANIFEST).fill('x', 5, 6).toString('base64') } }),
      'E_DIGEST',
    ],
    ['A56 data of another size', layout({ descriptor: { data: 'e30=' } }), 'E_SIZE'],
    ['A57 a deep manifest.json', text('['.repeat(40) + ']'.repeat(40)), 'E_MANIFEST'],
    ['A57 a very deep manifest.json', text('['.repeat(1_000_000)), 'E_MANIFEST'],
    ['A57 a large manifest.json', [['manifest.json', Buffer.alloc(4 * 1024 * 1024 + 1, 0x20)]], 'E_MANIFEST'],
    ['A57 a duplicate key', text('[{"Config":"a","Config":"b"}]'), 'E_MANIFEST'],
    ['A57 __proto__', text('[{"Config":"a","__proto__":{}}]'), 'E_MANIFEST'],
    ['A57 a byte order mark', text('\uFEFF[]'), 'E_MANIFEST'],
    ['A57 half a surrogate pair', text('[{"Config":"\\ud800"}]'), 'E_MANIFEST'],
    ['A57 a number beyond 2^53', text('[{"Config":"a","n":9007199254740993}]'), 'E_MANIFEST'],
    ['A57 no UTF-8', [['manifest.json', Buffer.from([0x5b, 0xff, 0x5d])]], 'E_MANIFEST'],
    ['A57 no JSON', text('manifest'), 'E_MANIFEST'],
    ['A57 an empty manifest.json', text(''), 'E_MANIFEST'],
    ['A57 many keys', text(`[{${Array.from({ length: 100_001 }, (_, n) => `"${n}":0`).join(',')}}]`), 'E_MANIFEST'],
    [
      'A57 a large config',
      docker({}).map(([name, content]) => (name === 'c.json' ? [name, Buffer.alloc(5 << 20, 0x20)] : [name, content])),
      'E_MANIFEST',
    ],
    [
      'A58 a config with NUL in Env',
      [['c.json', configFor([], { config: { Env: ['A=\0'] } })], dockerManifest({ Config: 'c.json' })],
      'E_CONFIG',
    ],
    [
      'A58 a config with user 0x0',
      [['c.json', configFor([], { config: { User: '0x0' } })], dockerManifest({ Config: 'c.json' })],
      'E_CONFIG',
    ],
    [
      'A61 an erofs layer',
      layout({
        manifest: manifestFor(CONFIG, [], { layers: [descriptorOf('application/vnd.erofs', BOTTOM), descriptorOf(MEDIA.tar, TOP)] }),
      }),
      'E_MANIFEST',
    ],
    ['A64 128 layers', docker({ Layers: Array(128).fill('a.tar') }), 'E_MANIFEST'],
    ['A64 100000 layers', docker({ Layers: Array(100_000).fill('a.tar') }), 'E_MANIFEST'],
    ['A64 a layer that is a path', docker({ Layers: ['../../etc/shadow', 'b.tar'] }), 'E_ARCHIVE_PATH'],
    ['A64 an absolute layer', docker({ Layers: ['/etc/shadow', 'b.tar'] }), 'E_ARCHIVE_PATH'],
    ['A64 a layer with .. inside', docker({ Layers: ['a/../../x', 'b.tar'] }), 'E_ARCHIVE_PATH'],
    ['A64 a layer with NUL', docker({ Layers: ['a.tar\0', 'b.tar'] }), 'E_ARCHIVE_PATH'],
    ['A64 a link out of the archive', docker({ Layers: ['l', 'b.tar'] }, [['l', { symlink: '../x' }]]), 'E_ARCHIVE_LINK'],
    ['A64 an absolute link', docker({ Layers: ['l', 'b.tar'] }, [['l', { symlink: '/etc/shadow' }]]), 'E_ARCHIVE_LINK'],
    ['A64 an absolute hard link', docker({ Layers: ['l', 'b.tar'] }, [['l', { hardlink: '/etc/shadow' }]]), 'E_ARCHIVE_LINK'],
    ['A64 a link to a directory above', docker({ Layers: ['x/l', 'b.tar'] }, [['x/l', { symlink: '..' }]]), 'E_ARCHIVE_LINK'],
    [
      'A64 links in a circle',
      docker({ Layers: ['l', 'b.tar'] }, [
        ['l', { symlink: 'm' }],
        ['m', { symlink: 'l' }],
      ]),
      'E_ARCHIVE_LINK',
    ],
    ['A64 a link to nothing', docker({ Layers: ['l', 'b.tar'] }, [['l', { symlink: 'gone.tar' }]]), 'E_MANIFEST'],
    ['A64 a member twice with other content', docker({}, [['a.tar', FLIPPED]]), 'E_ARCHIVE_PATH'],
    ['A64 a member that is a file and a link', docker({}, [['a.tar', { symlink: 'b.tar' }]]), 'E_ARCHIVE_PATH'],
    ['neither format', [['x', BOTTOM]], 'E_IMAGE_FORMAT'],
    ['an empty archive', [], 'E_IMAGE_FORMAT'],
    ['oci-layout without an index', [['oci-layout', jsonOf({ imageLayoutVersion: '1.0.0' })]], 'E_IMAGE_FORMAT'],
  ];
  for (const [name, members, code] of rows) t.throws(() => interpret(members), { code }, name);
});

t.test('interpretArchive() takes the depth that A56 allows', async (t) => {
  t.same(summary(interpret(nestedIndexes(1))).layers, EXPECTED.layers);
});
