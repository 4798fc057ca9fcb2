import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { createEngine } from '../../../src/engine.ts';
import { requires } from '../../helpers/requires.ts';

requires(t, 'root', 'overlay', 'loop', 'userns', 'launcher');

const stateDir = mkdtempSync(join(tmpdir(), 'vm-killed-'));
t.teardown(() => rmSync(stateDir, { recursive: true }));

t.test('createEngine() removes what a killed one left of virtual machines, not what is whole', async (t) => {
  const at = (name: string): string => join(stateDir, 'vm', name);
  mkdirSync(at('templates'), { recursive: true });
  for (const name of ['new-1.ab', 'templates/key.1.new', 'templates/key']) writeFileSync(at(name), 'secret');
  const engine = await createEngine({ stateDir });
  await engine.close(AbortSignal.timeout(1000));
  t.notOk(existsSync(at('new-1.ab')));
  t.notOk(existsSync(at('templates/key.1.new')));
  t.ok(existsSync(at('templates/key')));
});
