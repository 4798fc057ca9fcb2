import t from 'tap';
import { closeTestEngine, openTestEngine } from '../helpers/engine.ts';
import { requires } from '../helpers/requires.ts';
import { randomSequences } from '../suites/random-sequences.ts';

requires(t, 'umoci');
const env = await openTestEngine(t);
if (env !== null) {
  // Two jobs run and umoci judges another meanwhile.
  await randomSequences(t, env, 'userns', { sequences: 200, atOnce: 3, timeoutMs: 600_000 });
  closeTestEngine(t, env);
}
