import { Command } from 'commander';
import type { Session } from '../../api/session.ts';
import { Scope } from '../../core/scope.ts';
import type { RecipeContext } from '../../recipe/recipe-context.ts';
import { listenForInterrupts } from '../interrupts.ts';
import { formatBytes, Output, print, printJson } from '../output.ts';
import type { Outcome } from '../program.ts';
import { addSessionOptions, openSession, type SessionOptions } from '../session.ts';

type BuildOptions = SessionOptions & { output?: string; json?: boolean; set: string[]; schema?: boolean; quiet?: boolean };

const collect = (value: string, previous: string[]): string[] => [...previous, value];

/** How long an engine that fails to end is waited for. */
const CLOSE_TIME_MS = 30_000;

export function buildCommand(outcome: Outcome): Command {
  const command = new Command('build')
    .argument('[recipe]', 'a JSON file; "-" is standard input')
    .option('-o, --output <out>', 'where the result goes (default: its own name, here); "-" is standard output')
    .option('--set <key=value>', 'set a member of the recipe; the value is JSON, or else a text; repeatable', collect, [])
    .option('--quiet', 'do not tell what is done')
    .option('--schema', 'print the JSON schema of recipes')
    .option('--json', 'print one JSON document on standard output, and what is done on standard error');
  return addSessionOptions(command)
    .addHelpText(
      'after',
      `
A recipe is one JSON object: "function" names an image function such as buildImage, the other members are its arguments (docs/recipes.md). Relative
paths in a recipe are relative to it. A daemon, or root, is needed only when a script must run.
Exit status: that of the script that failed; 125 when rootlayer failed, 124 for a time limit, 137 for the memory limit, 130 when cancelled.

Example:
  rootlayer build image.json -o image.tar.gz`,
    )
    .action(async (recipe: string | undefined, options: BuildOptions) => {
      outcome.exitStatus = await build(recipe, options, outcome);
    });
}

async function build(recipe: string | undefined, options: BuildOptions, outcome: Outcome): Promise<number> {
  if (options.schema) return await printSchema();
  const { buildRecipe } = await import('../build-recipe.ts');
  return await buildWith(buildRecipe, recipe, options, outcome);
}

type BuildRecipe = typeof import('../build-recipe.ts').buildRecipe;

async function buildWith(buildRecipe: BuildRecipe, recipe: string | undefined, options: BuildOptions, outcome: Outcome): Promise<number> {
  const output = new Output({ keepsStdout: true, raw: false });
  const interrupts = listenForInterrupts();
  await using sessions = new LazySession(options);
  try {
    const context: RecipeContext = {
      signal: interrupts.signal,
      note: (line) => {
        if (!options.quiet) output.note(line);
      },
      progress: ({ stage, done, total, unit }) => output.progress(stage, done, total, unit),
      session: () => sessions.open(),
    };
    const built = await buildRecipe(recipe, options, context, outcome);
    if (options.json) printJson(built);
    else if (built.output.path !== '-') output.note(`written  ${built.output.path} (${formatBytes(built.output.sizeBytes)})`);
    return 0;
  } finally {
    output.end();
    interrupts.stop();
  }
}

async function printSchema(): Promise<number> {
  const { recipeJsonSchema } = await import('../../recipe/schema.ts');
  print(JSON.stringify(recipeJsonSchema(), null, 2));
  return 0;
}

/** The daemon, or an engine in this process: opened when the first script must run. */
class LazySession implements AsyncDisposable {
  readonly #options: SessionOptions;
  readonly #scope = new Scope();
  #session: Promise<Session> | null = null;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  open(): Promise<Session> {
    this.#session ??= this.#start();
    return this.#session;
  }

  async #start(): Promise<Session> {
    const session = await openSession(this.#options);
    this.#scope.defer(async () => await session.close(AbortSignal.timeout(CLOSE_TIME_MS)));
    return session;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scope[Symbol.asyncDispose]();
  }
}
