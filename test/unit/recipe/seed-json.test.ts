import { spawnSync } from 'node:child_process';
import t from 'tap';
import { jqText, jshonText } from '../../../src/recipe/build/seed-json.ts';
import { requires } from '../../helpers/requires.ts';

const SAMPLE = {
  text: 'x/y"\\\u0001\u001f\u001a\u007fü€😀\t\n\b\f\r',
  '/key with "quotes"': {},
  list: [],
  nested: [1, { b: [true, false, null] }, [[]], 's'],
  whole: 12_345_678_901_234,
  negative: -3,
};

const REALS = [1.5, 0.1, -0.25, 1e-7, 123.456, 1e30, 1.5e-10, 0.0001, 0.00001];

function run(program: string, args: string[], input: string): string {
  const ran = spawnSync(program, args, { input, encoding: 'utf8' });
  if (ran.status !== 0) throw new Error(ran.stderr);
  return ran.stdout;
}

t.test('jqText() prints as jq does', async (t) => {
  if (!requires(t, 'jq')) return;
  for (const value of [SAMPLE, REALS, {}, [], 'text', null, 2 ** 60]) {
    t.equal(jqText(value), run('jq', ['.'], JSON.stringify(value)));
  }
});

t.test('jshonText() prints as jshon does', async (t) => {
  if (!requires(t, 'jshon')) return;
  for (const value of [SAMPLE, { list: REALS }, [REALS]]) {
    const wrapped = { value, added: 'x' };
    t.equal(jshonText(wrapped), run('jshon', ['-s', 'x', '-i', 'added'], JSON.stringify({ value })));
  }
});

t.test('jshonText() and jqText() leave out what is undefined', async (t) => {
  t.equal(jshonText({ a: undefined, b: 1 }), '{\n "b": 1\n}\n');
  t.equal(jqText({ a: undefined }), '{}\n');
});
