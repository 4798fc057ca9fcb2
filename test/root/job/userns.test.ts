import t from 'tap';
import { closeTestEngine, openTestEngine } from '../../helpers/engine.ts';
import { jobBehaviour } from '../../suites/job-behaviour.ts';

const env = await openTestEngine(t);
if (env !== null) {
  jobBehaviour(t, env, 'userns');
  closeTestEngine(t, env);
}
