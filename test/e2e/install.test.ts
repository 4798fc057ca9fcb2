import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { rootlayerOk, runOk } from '../helpers/command.ts';
import { extractDockerLayers } from '../helpers/docker-archive-layers.ts';
import { repoRoot } from '../helpers/repo.ts';
import { baseImagePath, debsPath, requires } from '../helpers/requires.ts';
import { LIST_TREE, parseListing } from '../helpers/script-tree.ts';
import { diffTrees, listTree, type TreeEntry } from '../helpers/tree.ts';
import { UmociLayout } from '../helpers/umoci.ts';

requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher', 'base-image', 'debs', 'umoci', 'skopeo', 'buildah', 'podman');

/** The sandbox mounts on these, so a script cannot see what the image has there. */
const MOUNT_POINTS = ['dev', 'proc', 'sys'];

const directory = mkdtempSync(path.join(tmpdir(), 'install-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
const at = (name: string): string => path.join(directory, name);
const stateDir = at('state');

/** The example of the repository, then what `/` looks like at its end; the listing alone goes to standard output. */
const script = `exec 3>&1 >&2\n${readFileSync(path.join(repoRoot, 'examples/install.sh'), 'utf8')}\nexec >&3\n${LIST_TREE}`;
writeFileSync(at('install.sh'), script);

const installed = await rootlayerOk(
  [
    'run',
    '--from',
    baseImagePath(),
    '--script',
    at('install.sh'),
    '--copy',
    debsPath(),
    '--state-dir',
    stateDir,
    '-o',
    at('layer.tar'),
  ].concat(['--name', 'app:1', '--config', '{"Cmd":["/usr/local/bin/app-server","/srv/app/greeting"]}']),
);

t.test('run installs packages, an account, a capability and links, and writes the layer', (t) => {
  t.match(installed.stderr, /Setting up rsync/);
  const diffId = /^diffID {3}(\S+)$/m.exec(installed.stderr)?.[1];
  const bytes = readFileSync(at('layer.tar'));
  t.equal(diffId, `sha256:${createHash('sha256').update(bytes).digest('hex')}`);
  t.match(installed.stderr, /^tarsum {3}tarsum\.v1\+sha256:[0-9a-f]{64}$/m);
  t.match(installed.stderr, new RegExp(`^size .*\\(${bytes.length} bytes\\)$`, 'm'));
  t.match(installed.stderr, /^entries {2}[1-9]\d*$/m);
  t.end();
});

const layout = new UmociLayout(at('layout'));
const baseLayers = extractDockerLayers(baseImagePath(), at('base-files'));

t.test('the layer, applied to the base by umoci, equals the merged tree that the script saw', { timeout: 240_000 }, (t) => {
  layout.addImage('base', baseLayers);
  layout.unpack('base', at('base'));
  const base = listTree(at('base'));
  const expected = [...parseListing(installed.stdout), ...base.filter(isHidden)];
  t.ok(expected.length > 5000, 'the listing is whole');
  // A comparison of lists that hardly differ from the base would prove nothing.
  t.ok(diffTrees(base, expected).length > 500, 'and far from the base');
  t.match(
    expected.find((entry) => entry.path === 'usr/local/bin/app-server'),
    { type: 'file', xattrs: { 'security.capability': /^01000002/ } },
  );
  t.ok(expected.some((entry) => entry.path === 'srv/app/greeting.again' && entry.linkOf === 'srv/app/greeting'));
  rmSync(at('base'), { recursive: true });

  layout.addImage('result', [...baseLayers, at('layer.tar')]);
  layout.unpack('result', at('applied'));
  const applied = listTree(at('applied'));
  rmSync(at('applied'), { recursive: true });
  t.strictSame(diffTrees(expected, applied), []);
  t.end();
});

t.test('the OCI directory passes skopeo, and umoci unpacks it to the same tree', { timeout: 240_000 }, async (t) => {
  await rootlayerOk(['job', 'get', jobId(await jobs()), '--format', 'oci-dir', '-o', at('oci'), '--state-dir', stateDir]);
  const inspected: unknown = JSON.parse(await runOk('skopeo', ['inspect', `oci:${at('oci')}`]));
  t.match(inspected, { Os: 'linux', Layers: { length: 2 } });
  const config: unknown = JSON.parse(await runOk('skopeo', ['inspect', '--config', `oci:${at('oci')}`]));
  t.match(config, { config: { Cmd: ['/usr/local/bin/app-server', '/srv/app/greeting'] }, rootfs: { diff_ids: { length: 2 } } });
  const tag = (await runOk('umoci', ['list', '--layout', at('oci')])).trim();
  await runOk('umoci', ['raw', 'unpack', '--image', `${at('oci')}:${tag}`, at('from-oci')]);
  const differences = diffTrees(
    parseListing(installed.stdout),
    listTree(at('from-oci')).filter((entry) => !isHidden(entry)),
  );
  rmSync(at('from-oci'), { recursive: true });
  rmSync(at('oci'), { recursive: true });
  t.strictSame(differences, []);
});

t.test('podman loads the docker-archive, and buildah runs a program of the layer in it', { timeout: 240_000 }, async (t) => {
  const archive = at('image.tar');
  await rootlayerOk(['job', 'get', jobId(await jobs()), '--format', 'docker-archive', '-o', archive, '--state-dir', stateDir]);
  for (const name of ['storage', 'tmp']) mkdirSync(at(`podman-${name}`));
  // podman takes no path of more than 50 characters here.
  const runRoot = mkdtempSync('/tmp/rlpod-');
  t.teardown(() => rmSync(runRoot, { recursive: true, force: true }));
  const storage = ['--root', at('podman-storage'), '--runroot', runRoot, '--storage-driver', 'vfs'];
  const env = { TMPDIR: at('podman-tmp') };
  t.match(await runOk('podman', [...storage, '--tmpdir', at('podman-tmp'), 'load', '-i', archive], { env }), /Loaded image: \S*app:1$/m);
  rmSync(archive);
  const container = (await runOk('buildah', [...storage, 'from', '--pull-never', 'localhost/app:1'], { env })).trim();
  try {
    const inside = (...args: string[]) => runOk('buildah', [...storage, 'run', '--isolation', 'chroot', container, '--', ...args], { env });
    t.equal(await inside('/usr/local/bin/app-server', '/srv/app/greeting'), 'hello from the root layer\n');
    t.match(await inside('dpkg', '--list', 'rsync'), /^ii {2}rsync /m);
    t.match(await inside('jq', '--version'), /^jq-/);
    t.equal(await inside('stat', '-c', '%U:%a:%h', '/srv/app/greeting'), 'app:640:2\n');
    t.equal(await inside('ls', '/etc/update-motd.d'), '10-greeting\n');
  } finally {
    await runOk('buildah', [...storage, 'rm', container], { env });
  }
});

async function jobs(): Promise<unknown> {
  return JSON.parse((await rootlayerOk(['job', 'ls', '--json', '--state-dir', stateDir])).stdout);
}

function jobId(list: unknown): string {
  const [job] = (list as { jobs: { id: string }[] }).jobs;
  if (job === undefined) throw new Error('Cannot find the job: the list is empty');
  return job.id;
}

function isHidden(entry: TreeEntry): boolean {
  return MOUNT_POINTS.some((name) => entry.path === name || entry.path.startsWith(`${name}/`));
}
