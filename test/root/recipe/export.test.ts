import { execFileSync } from 'node:child_process';
import { createWriteStream, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import t from 'tap';
import { exportImage } from '../../../src/recipe/archive/export-image.ts';
import { buildContainer } from '../../../src/recipe/oci-runtime/bundle.ts';
import { writeBundle } from '../../../src/recipe/oci-runtime/write.ts';
import { rootlayerOk } from '../../helpers/command.ts';
import { extractDockerLayers } from '../../helpers/docker-archive-layers.ts';
import { temporary } from '../../helpers/image-judges.ts';
import { baseImagePath, requires } from '../../helpers/requires.ts';
import { makeSmallBase, WORK_TREE } from '../../helpers/small-base.ts';
import { diffTrees, listTree, type TreeEntry } from '../../helpers/tree.ts';
import { UmociLayout } from '../../helpers/umoci.ts';
import { writeMembers } from '../../unit/recipe/image-files.ts';
import { configFor, jsonOf } from '../../unit/store/archive-fixture.ts';

requires(t, 'root', 'umoci', 'base-image');

const signal = new AbortController().signal;
const dir = temporary(t);
const layers = makeSmallBase(path.join(dir, 'base'), extractDockerLayers(baseImagePath(), path.join(dir, 'debian')));
const image = writeImage();
const want = unpackedByUmoci();

function writeImage(): string {
  const bodies = layers.map((file) => readFileSync(file));
  const names = layers.map((_file, n) => `${n}/layer.tar`);
  return writeMembers(path.join(dir, 'image.tar'), [
    ...bodies.map((body, n) => [names[n] ?? '', body] as const),
    ['c.json', configFor(bodies)],
    ['manifest.json', jsonOf([{ Config: 'c.json', RepoTags: ['small:1'], Layers: names }])],
  ]);
}

function unpackedByUmoci(): TreeEntry[] {
  const layout = new UmociLayout(path.join(dir, 'layout'));
  layout.addImage('small', layers);
  layout.unpack('small', path.join(dir, 'want'));
  return listTree(path.join(dir, 'want'), { ignoreRootMtime: true });
}

t.ok(
  want.some(({ path: at }) => at.startsWith(`${WORK_TREE}/`)),
  'umoci has unpacked something',
);

t.test('exportImage() gives the tree that umoci unpacks: files, links, owners, times and attributes', async (t) => {
  const [tar, found] = [path.join(dir, 'root.tar'), path.join(dir, 'found')];
  await using made = await exportImage({ fromImage: image }, { signal, note: () => {} });
  await pipeline(made.open(signal), createWriteStream(tar));
  mkdirSync(found);
  execFileSync('tar', ['-C', found, '--numeric-owner', '--xattrs', '--xattrs-include=*', '-xpf', tar]);
  t.same(diffTrees(want, listTree(found, { ignoreRootMtime: true })), []);
});

t.test('writeBundle() writes the tree that umoci unpacks, links between files included', async (t) => {
  const bundle = path.join(dir, 'bundle');
  mkdirSync(bundle);
  const context = { signal, note: () => {} };
  await using made = await buildContainer({ fromImage: image, args: ['/usr/bin/bash'] }, context);
  await writeBundle(made, bundle, context);
  // Mount points that images without them need.
  const added = new Set(['dev', 'proc', 'sys']);
  const isWanted = ({ path: at }: TreeEntry): boolean => !added.has(at);
  t.same(diffTrees(want.filter(isWanted), listTree(path.join(bundle, 'rootfs'), { ignoreRootMtime: true }).filter(isWanted)), []);
});

t.test('rootlayer image export writes the root of an archive, whose programs are all there (seed check 23)', async (t) => {
  const out = path.join(dir, 'debian.tar');
  const ended = await rootlayerOk(['image', 'export', baseImagePath(), '--format', 'rootfs-tar', '--compat', 'seed', '-o', out, '--json']);
  t.match(JSON.parse(ended.stdout), { format: 'rootfs-tar', digest: /^sha256:/ });
  const names = execFileSync('tar', ['-tf', out], { encoding: 'utf8' }).split('\n');
  for (const name of ['./', './usr/bin/bash', './etc/passwd']) t.ok(names.includes(name), name);
});
