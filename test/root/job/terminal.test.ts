import t from 'tap';
import { closeTestEngine, openTestEngine } from '../../helpers/engine.ts';
import { terminalBehaviour } from '../../suites/terminal.ts';

t.setTimeout(120_000);
const env = await openTestEngine(t);
if (env !== null) {
  terminalBehaviour(t, env, 'userns');
  terminalBehaviour(t, env, 'chroot');
  closeTestEngine(t, env);
}
