import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import t from 'tap';
import { hostTools } from '../../../src/recipe/script/tools-image-host.ts';
import { packTree } from '../../../src/recipe/tree/pack.ts';
import { requires } from '../../helpers/requires.ts';
import { scratch } from './image-files.ts';

const signal = new AbortController().signal;

t.test('hostTools() gives a root directory in which this machine’s shell and its companions run', async (t) => {
  if (!requires(t, 'root', 'bash', 'chroot')) return;
  const tree = await hostTools(signal);
  const root = path.join(scratch(t), 'root');
  mkdirSync(root);
  if (tree === null) return;
  execFileSync('tar', ['-xf', '-', '-C', root], { input: await buffer(packTree(tree, { format: 'plain' }, signal)) });
  const script =
    'echo "b a" | tr " " "\\n" | sort | sed s/a/A/ | grep -n . | head -1; find /etc -name passwd -exec cut -d: -f1 {} +; tar --version | head -1';
  const printed = execFileSync('chroot', [root, '/usr/bin/env', '-i', 'PATH=/usr/bin', 'sh', '-c', script], { encoding: 'utf8' });
  t.match(printed, /^1:A\nroot\ntar \(GNU tar\)/);
});

t.test('hostTools() gives the same files each time, all root’s and from 1970', async (t) => {
  const [one, two] = [await hostTools(signal), await hostTools(signal)];
  t.same([...(one?.entries() ?? [])], [...(two?.entries() ?? [])]);
  for (const { node } of one?.entries() ?? [])
    if (node.uid !== 0 || node.gid !== 0 || node.mtimeSec !== 0) t.fail('an owner or time of the machine');
});
