import type { Session } from '../../../src/api/session.ts';
import type { Scope } from '../../../src/core/scope.ts';
import type { Bench, ScenarioMaker } from '../bench.ts';
import { timed } from '../measure.ts';
import { BASE_NAME, importBase, startDaemon } from '../rootlayer.ts';
import { type Contender, openScenario, type Sample } from '../scenario.ts';
import { openSeedVm } from '../seed-vm.ts';

/** From the request to the first byte that the script prints, in a virtual machine. */
export const firstByte: ScenarioMaker = {
  name: 'vm',
  open: async (bench) =>
    await openScenario(async (scope) => {
      const restored = await restoredContender(bench, scope);
      const seed = await seedContender(bench, scope);
      return {
        title: 'virtual machine, request to first byte of the script',
        unit: 'ms',
        roundsFactor: 1,
        comparisons: [
          { ours: restored, peer: seed, target: { kind: 'ratio', atMost: 1 / 20 } },
          { ours: restored, peer: null, target: { kind: 'value', atMost: 400 } },
        ],
      };
    }),
};

async function restoredContender({ workspace, base, cpu, signal }: Bench, scope: Scope): Promise<Contender> {
  const { session } = scope.use(await startDaemon(workspace, 'vm', 1));
  await importBase(session, base.archive, signal);
  const sample = async (): Promise<Sample> => {
    const started: string[] = [];
    const measured = await timed(cpu, async () => started.push(await untilFirstByte(session, signal)));
    for (const id of started) await untilEnd(session, id, signal);
    return measured;
  };
  return { name: 'restored', sample };
}

async function untilFirstByte(session: Session, signal: AbortSignal): Promise<string> {
  const { id } = await session.submit({ from: BASE_NAME, script: Buffer.from('echo x').toString('base64'), isolation: 'vm' });
  for await (const event of session.events(id, 1, true, signal)) {
    if (event.type === 'log') return id;
    if (event.type === 'end') throw new Error(`Cannot measure a job that ${event.job.state}: ${event.job.error?.message}`);
  }
  throw new Error('Cannot measure a job that printed nothing');
}

async function untilEnd(session: Session, id: string, signal: AbortSignal): Promise<void> {
  for await (const event of session.events(id as Parameters<Session['events']>[0], 1, true, signal)) if (event.type === 'end') return;
}

async function seedContender({ workspace, base, cpu }: Bench, scope: Scope): Promise<Contender> {
  const machine = scope.use(await openSeedVm(workspace, base.layer));
  return { name: "the seed's way", sample: async () => await timed(cpu, () => machine.run()) };
}
