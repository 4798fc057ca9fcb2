import type { CpuAccount } from './cpu-account.ts';
import type { Base } from './inputs.ts';
import type { Scenario } from './scenario.ts';
import type { Workspace } from './workspace.ts';

/** What every scenario works with. */
export type Bench = { workspace: Workspace; base: Base; cpu: CpuAccount; signal: AbortSignal };

/** A scenario that can be chosen by name; making its inputs and daemons is not measured. */
export type ScenarioMaker = { name: string; open(bench: Bench): Promise<Scenario> };
