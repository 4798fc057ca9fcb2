import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';

const OUTPUT = new URL('../../../src/cli/output.js', import.meta.url).href;

t.test('whenDrained() and whenFlushed() wait for nobody whose reader has left in the middle of a large write', async (t) => {
  const program = `
    const { ignoreBrokenPipes, whenDrained, whenFlushed } = await import(${JSON.stringify(OUTPUT)});
    ignoreBrokenPipes();
    const gone = new Promise((resolve) => process.stdout.once('close', resolve));
    process.stdout.write('x'.repeat(3_000_000));
    process.stderr.write('writing');
    await gone;
    await whenDrained();
    await whenFlushed();
    process.exitCode = 7;`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'pipe'] });
  await once(child.stderr, 'data');
  child.stdout.destroy();
  const [status] = await once(child, 'exit');
  t.equal(status, 7);
});
