import { writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Scope } from '../../../src/core/scope.ts';
import type { Bench, ScenarioMaker } from '../bench.ts';
import { type Buildah, openBuildah } from '../buildah.ts';
import { run } from '../command.ts';
import { timed } from '../measure.ts';
import { BASE_NAME, type Daemon, importBase, openEmbedded, runJob, startDaemon } from '../rootlayer.ts';
import { type Contender, openScenario } from '../scenario.ts';

/** 5,000 files of 5,000 bytes in 50 directories. Perl, which every Debian has, makes them four times as fast as the shell: less of the time is the script's own. */
export const FILES_SCRIPT = `
perl -e '
  my $block = "0" x 4992;
  for my $d (10..59) {
    mkdir "/srv/$d" or die;
    for my $f (100..199) {
      open my $file, ">", "/srv/$d/$f" or die;
      print $file "$d-$f-$block\\n";
      close $file or die;
    }
  }'
`;

const MAX_JOBS = 2;
const WARM_UP_JOBS = 30;

/** A script that does nothing: all there is to measure is what surrounds it. */
export const noop: ScenarioMaker = {
  name: 'noop',
  open: async (bench) =>
    await openScenario(async (scope) => {
      const daemon = await daemonContender(bench, scope, 'true');
      const embedded = await embeddedContender(bench, scope, 'true');
      const buildah = await buildahContender(bench, scope, 'true');
      const unshare = unshareContender(bench);
      return {
        title: 'no-op job',
        unit: 'ms',
        roundsFactor: 3,
        comparisons: [
          { ours: daemon, peer: null, target: { kind: 'value', atMost: 15 } },
          { ours: daemon, peer: buildah, target: { kind: 'ratio', atMost: 1 / 20 } },
          { ours: daemon, peer: unshare, target: null },
          { ours: embedded, peer: buildah, target: null },
          { ours: embedded, peer: unshare, target: null },
        ],
      };
    }),
};

/** A script that writes, and a layer that has something in it. */
export const files: ScenarioMaker = {
  name: 'files',
  open: async (bench) =>
    await openScenario(async (scope) => {
      const daemon = await daemonContender(bench, scope, FILES_SCRIPT);
      const embedded = await embeddedContender(bench, scope, FILES_SCRIPT);
      const buildah = await buildahContender(bench, scope, FILES_SCRIPT);
      return {
        title: '5,000 files (25 MB)',
        unit: 'ms',
        roundsFactor: 1,
        comparisons: [
          { ours: daemon, peer: null, target: { kind: 'value', atMost: 429 } },
          { ours: daemon, peer: buildah, target: { kind: 'ratio', atMost: 1 / 2.5 } },
          { ours: embedded, peer: buildah, target: null },
        ],
      };
    }),
};

async function daemonContender({ workspace, base, cpu, signal }: Bench, scope: Scope, script: string): Promise<Contender> {
  const daemon: Daemon = scope.use(await startDaemon(workspace, 'daemon', MAX_JOBS));
  await importBase(daemon.session, base.archive, signal);
  // A daemon that has been running for a while: its code is compiled.
  for (let job = 0; job < WARM_UP_JOBS; job += 1) await daemon.session.removeJob(await runJob(daemon.session, 'true', signal));
  return {
    name: 'daemon',
    sample: async () => {
      const jobs: Awaited<ReturnType<typeof runJob>>[] = [];
      const sample = await timed(cpu, async () => jobs.push(await runJob(daemon.session, script, signal)));
      for (const id of jobs) await daemon.session.removeJob(id);
      return sample;
    },
  };
}

async function embeddedContender({ workspace, base, cpu }: Bench, scope: Scope, script: string): Promise<Contender> {
  const embedded = scope.use(await openEmbedded(workspace, 'embedded'));
  await embedded.command('image', 'import', base.archive);
  const scriptFile = path.join(embedded.dir, 'script');
  writeFileSync(scriptFile, script);
  const output = path.join(embedded.dir, 'layer.tar');
  return {
    name: 'one command',
    sample: async () => await timed(cpu, () => embedded.command('run', '--from', BASE_NAME, '--script', scriptFile, '-o', output)),
  };
}

async function buildahContender({ workspace, base, cpu }: Bench, scope: Scope, script: string): Promise<Contender> {
  const buildah: Buildah = scope.use(await openBuildah(workspace, 'buildah'));
  const image = await buildah.pull(base.archive);
  return {
    name: 'buildah from, run, commit',
    sample: async () => {
      const sample = await timed(cpu, () => buildah.build(image, script));
      await buildah.removeContainers();
      return sample;
    },
  };
}

/** What nixpkgs' runInLinuxVM-less recipes do: namespaces and chroot, without overlay, limits or a layer. */
function unshareContender({ base, cpu }: Bench): Contender {
  const argv = ['unshare', '-imnpuf', `--mount-proc=${path.join(base.rootfs, 'proc')}`, 'chroot', base.rootfs, 'true'];
  return { name: 'unshare, chroot, true', sample: async () => await timed(cpu, () => run(argv)) };
}
