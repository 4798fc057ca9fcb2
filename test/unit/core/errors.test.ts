import t from 'tap';
import { ERROR_CODES, isErrorCode, RootlayerError, toRootlayerError } from '../../../src/core/errors.ts';
import { escapeName } from '../../../src/core/names.ts';
import { Scope } from '../../../src/core/scope.ts';

t.test('RootlayerError carries its code, hint and whether trying again can help', (t) => {
  const error = new RootlayerError('E_BUSY', 'full', { hint: 'wait' });
  t.same(error.toBody(), { code: 'E_BUSY', message: 'full', hint: 'wait', retryable: true });
  t.same(new RootlayerError('E_REF', 'no').toBody(), { code: 'E_REF', message: 'no', retryable: false });
  t.end();
});

t.test('toRootlayerError() keeps ours, wraps others, and brings out the work error that a failed release hides', (t) => {
  const ours = new RootlayerError('E_REF', 'no');
  t.equal(toRootlayerError(ours), ours);
  t.match(toRootlayerError(new TypeError('x')), { code: 'E_INTERNAL', message: 'x' });
  t.match(toRootlayerError('text'), { code: 'E_INTERNAL', message: 'text' });
  const hidden = Object.assign(new Error('release'), { name: 'SuppressedError', error: new Error('release'), suppressed: ours });
  t.equal(toRootlayerError(hidden), ours);
  t.end();
});

t.test('isErrorCode() knows the table and nothing inherited', (t) => {
  for (const code of Object.keys(ERROR_CODES)) t.ok(isErrorCode(code));
  for (const text of ['E_NOPE', '', 'toString', '__proto__']) t.notOk(isErrorCode(text));
  t.end();
});

t.test('A51 escapeName() shows no byte that could act on a terminal', (t) => {
  t.equal(escapeName(Buffer.from('plain name-1.txt')), 'plain name-1.txt');
  t.equal(escapeName(Buffer.from('a\n\x1b[31m\\')), 'a\\x0a\\x1b[31m\\\\');
  t.equal(escapeName(Buffer.from([0xff, 0xe2, 0x80, 0xae])), '\\xff\\xe2\\x80\\xae');
  t.equal(escapeName(Buffer.alloc(300, 0x61)), `${'a'.repeat(200)}...`);
  t.end();
});

t.test('Scope releases in reverse order, all of it, and tells the first failure', async (t) => {
  const order: string[] = [];
  const scope = new Scope();
  scope.defer(() => {
    order.push('first');
  });
  scope.defer(async () => {
    order.push('second');
    throw new Error('second failed');
  });
  scope.use({ [Symbol.asyncDispose]: async () => void order.push('third') });
  await t.rejects(scope[Symbol.asyncDispose](), { message: 'second failed' });
  t.same(order, ['third', 'second', 'first']);
  await scope[Symbol.asyncDispose]();
  t.equal(order.length, 3, 'a second release does nothing');
});
