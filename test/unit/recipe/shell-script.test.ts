import { spawnSync } from 'node:child_process';
import t from 'tap';
import { shellScript } from '../../../src/recipe/script/shell-script.ts';

t.test('shellScript() gives a script that stops at the first error and finds coreutils', async (t) => {
  t.same(shellScript({ name: 's', text: 'ls' }), { name: 's', text: '#!/bin/bash\nset -e\nexport PATH=/usr/bin:/bin\nls\n', mode: 0o755 });
  const other = shellScript({ name: 's', text: 'ls', shell: '/nix/bash', coreutils: '/nix/coreutils' });
  t.equal(other.text, '#!/nix/bash\nset -e\nexport PATH=/nix/coreutils/bin:/bin\nls\n');
});

t.test('shellScript() runs a text as it is, quotes and parentheses too', async (t) => {
  const { text } = shellScript({ name: 's', text: 'echo "($((1+1)) \'x\') $(basename /a/b)"; false; echo never' });
  const ran = spawnSync('bash', ['-s'], { input: text, encoding: 'utf8' });
  t.same([ran.stdout, ran.status], ["(2 'x') b\n", 1]);
});

t.test('shellScript() refuses a shell without a path', async (t) => {
  t.throws(() => shellScript({ name: 's', text: '', shell: 'bash' }), { code: 'E_RECIPE', message: /\/shell: / });
});
