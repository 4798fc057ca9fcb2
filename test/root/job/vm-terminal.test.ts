import t from 'tap';
import { closeTestEngine, openTestEngine } from '../../helpers/engine.ts';
import { requires } from '../../helpers/requires.ts';
import { terminalBehaviour } from '../../suites/terminal.ts';

t.setTimeout(300_000);
requires(t, 'qemu-system-x86_64', 'vm-kernel');
const env = await openTestEngine(t);
if (env !== null) {
  terminalBehaviour(t, env, 'vm');
  closeTestEngine(t, env);
}
