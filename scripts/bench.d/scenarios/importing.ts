import type { Scope } from '../../../src/core/scope.ts';
import type { Bench, ScenarioMaker } from '../bench.ts';
import { openBuildah } from '../buildah.ts';
import { timed } from '../measure.ts';
import { BASE_NAME, importBase, openEmbedded, startDaemon } from '../rootlayer.ts';
import { type Contender, openScenario, type Sample } from '../scenario.ts';

/** From a docker-archive to a base on which a job could start at once. */
export const importArchive: ScenarioMaker = {
  name: 'import',
  open: async (bench) =>
    await openScenario(async (scope) => {
      const daemon = await daemonContender(bench, scope);
      const embedded = await embeddedContender(bench, scope);
      const buildah = await buildahContender(bench, scope);
      return {
        title: 'import of the base, docker-archive to ready',
        unit: 'ms',
        roundsFactor: 1,
        comparisons: [
          { ours: daemon, peer: buildah, target: { kind: 'ratio', atMost: 0.5 } },
          { ours: embedded, peer: buildah, target: { kind: 'ratio', atMost: 0.5 } },
        ],
      };
    }),
};

async function daemonContender({ workspace, base, cpu, signal }: Bench, scope: Scope): Promise<Contender> {
  const { session } = scope.use(await startDaemon(workspace, 'daemon', 1));
  const sample = async (): Promise<Sample> => {
    const measured = await timed(cpu, () => importBase(session, base.archive, signal));
    await session.removeImage(BASE_NAME);
    return measured;
  };
  return { name: 'daemon', sample };
}

async function embeddedContender({ workspace, base, cpu }: Bench, scope: Scope): Promise<Contender> {
  const embedded = scope.use(await openEmbedded(workspace, 'embedded'));
  const sample = async (): Promise<Sample> => {
    const measured = await timed(cpu, () => embedded.command('image', 'import', base.archive));
    await embedded.command('image', 'rm', BASE_NAME);
    return measured;
  };
  return { name: 'one command', sample };
}

async function buildahContender({ workspace, base, cpu }: Bench, scope: Scope): Promise<Contender> {
  const buildah = scope.use(await openBuildah(workspace, 'buildah'));
  const sample = async (): Promise<Sample> => {
    const pulled: string[] = [];
    const measured = await timed(cpu, async () => pulled.push(await buildah.pull(base.archive)));
    for (const id of pulled) await buildah.removeImage(id);
    return measured;
  };
  return { name: 'buildah pull', sample };
}
