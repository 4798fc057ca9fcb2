import { createReadStream, createWriteStream, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Test } from 'tap';
import type { Isolation } from '../../src/core/job.ts';
import { runOk } from '../helpers/command.ts';
import { extractDockerLayers } from '../helpers/docker-archive-layers.ts';
import { ROOT, type TestEngine } from '../helpers/engine.ts';
import { randomOperations } from '../helpers/random-ops.ts';
import { baseImagePath } from '../helpers/requires.ts';
import { LIST_TREE, parseListing } from '../helpers/script-tree.ts';
import { makeSmallBase, WORK_TREE } from '../helpers/small-base.ts';
import { diffTrees, listTree, type TreeEntry } from '../helpers/tree.ts';
import { UmociLayout } from '../helpers/umoci.ts';
import { BASE_ITEMS } from '../root/capture/base-tree.ts';

const OPERATIONS = 30;

/** How many sequences, and how many jobs of them run at once. */
export type SequenceOptions = { sequences: number; atOnce: number; timeoutMs: number };

/**
 * The law of layers, by whole jobs: base and layer, applied by umoci, equal the tree that the script saw at its end. It asks for umoci.
 */
export async function randomSequences(t: Test, env: TestEngine, isolation: Isolation, options: SequenceOptions): Promise<void> {
  const directory = mkdtempSync(path.join(tmpdir(), 'law-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const judge = await Judge.start(env, isolation, directory);

  t.test('the listing of a job that changes nothing equals the base as umoci unpacks it', { timeout: 60_000 }, async (t) => {
    const { expected, applied, state } = await judge.tryScript('noop', ':');
    t.equal(state, 'done');
    t.strictSame(diffTrees(expected, applied), []);
    t.ok(applied.some((entry) => entry.path === 'w/etc/conf.d/3'));
    t.notOk(applied.some((entry) => ['w/etc/conf.d/7', 'w/var/log/log.1'].includes(entry.path)));
  });

  const name = `base and layer equal the merged tree after ${options.sequences} random sequences of operations`;
  t.test(name, { timeout: options.timeoutMs }, async (t) => {
    const seeds = Array.from({ length: options.sequences }, (_seed, n) => n + 1);
    const work = async (): Promise<void> => {
      for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift()) {
        const operations = randomOperations(seed, BASE_ITEMS, OPERATIONS);
        const { expected, applied, state, entries } = await judge.tryScript(`seed-${seed}`, operations);
        t.strictSame(
          { state, differences: diffTrees(expected, applied) },
          { state: 'done', differences: [] },
          `seed ${seed}, ${entries} entries`,
        );
      }
    };
    await Promise.all(Array.from({ length: options.atOnce }, work));
  });
}

type Verdict = { state: string; entries: number; expected: TreeEntry[]; applied: TreeEntry[] };

/** Runs scripts as whole jobs on the small base, and has umoci apply their layers. */
class Judge {
  readonly #env: TestEngine;
  readonly #isolation: Isolation;
  readonly #directory: string;
  readonly #baseLayers: readonly string[];
  readonly #layout: UmociLayout;

  private constructor(env: TestEngine, isolation: Isolation, directory: string, baseLayers: readonly string[], layout: UmociLayout) {
    this.#env = env;
    this.#isolation = isolation;
    this.#directory = directory;
    this.#baseLayers = baseLayers;
    this.#layout = layout;
  }

  static async start(env: TestEngine, isolation: Isolation, directory: string): Promise<Judge> {
    const debian = path.join(directory, 'debian');
    const baseLayers = makeSmallBase(directory, extractDockerLayers(baseImagePath(), debian));
    rmSync(debian, { recursive: true });
    const layout = new UmociLayout(path.join(directory, 'layout'));
    layout.addImage('base', baseLayers);
    const archive = path.join(directory, 'base.tar');
    await runOk('tar', ['-cf', archive, '-C', path.join(directory, 'layout'), '.']);
    const options = { name: 'small:1', select: null, shared: false };
    await env.engine.importImage(ROOT, createReadStream(archive), options, () => {}, AbortSignal.timeout(30_000));
    return new Judge(env, isolation, directory, baseLayers, layout);
  }

  /** Runs the script's operations in the work tree; `expected` is what it saw of the whole root at its end. */
  async tryScript(tag: string, operations: string): Promise<Verdict> {
    const script = `export LC_ALL=C; cd /${WORK_TREE}\nexec 3>&1 >&2\n${operations}\nexec >&3\n${LIST_TREE}`;
    const { job, stdout, stderr } = await this.#env.run({ from: 'small:1', script, isolation: this.#isolation });
    if (job.layer === null) throw new Error(`${tag}: ${JSON.stringify(job.error)}\n${stderr.slice(-1000)}`);
    const own = path.join(this.#directory, tag);
    mkdirSync(own);
    const layer = path.join(own, 'layer.tar');
    const { stream } = await this.#env.engine.openLayer(ROOT, job.id, 'none', AbortSignal.timeout(30_000));
    await pipeline(stream, createWriteStream(layer));
    this.#layout.addImage(tag, [...this.#baseLayers, layer]);
    await runOk('umoci', ['raw', 'unpack', '--image', `${path.join(this.#directory, 'layout')}:${tag}`, path.join(own, 'applied')]);
    const applied = listTree(path.join(own, 'applied'));
    rmSync(own, { recursive: true });
    await this.#env.engine.removeJob(ROOT, job.id);
    return { state: job.state, entries: job.layer.entries, expected: parseListing(stdout), applied };
  }
}
