import t from 'tap';
import { type Tally, TapTally } from '../../../scripts/test-runner/tally.ts';

function tally(...lines: readonly string[]): Tally {
  const reader = new TapTally();
  for (const line of lines) reader.write(Buffer.from(`${line}\n`));
  return reader.end();
}

t.test('TapTally counts innermost subtests, not their assertions', async (t) => {
  const counted = tally(
    'TAP version 14',
    '# Subtest: outer',
    '    # Subtest: one',
    '        ok 1 - a',
    '        ok 2 - b',
    '        1..2',
    '    ok 1 - one',
    '    # Subtest: two',
    '        ok 1 - a',
    '        1..1',
    '    ok 2 - two',
    '    1..2',
    'ok 1 - outer',
    'ok 2 - alone',
    '1..2',
  );
  t.strictSame(counted, { passed: 3, failures: [], skips: [] });
});

t.test('TapTally names a failed test by its path and gives its diagnostics', async (t) => {
  const counted = tally(
    '# Subtest: outer',
    '    # Subtest: one',
    '        not ok 1 - a',
    '          ---',
    '          found: 1',
    '          ...',
    '        1..1',
    '    not ok 1 - one',
    '    # Subtest: two',
    '        ok 1 - a',
    '        1..1',
    '    ok 2 - two',
    '    1..2',
    'not ok 1 - outer',
    '1..1',
  );
  t.strictSame(counted, { passed: 1, failures: [{ name: 'outer > one', detail: 'a\nfound: 1' }], skips: [] });
});

t.test('TapTally shows what a child program printed as text', async (t) => {
  const counted = tally(
    'not ok 1 - a',
    '  ---',
    '  stderr:',
    '    type: Buffer',
    '    data:',
    '      - 104',
    '      - 105',
    '  ...',
    '1..1',
  );
  t.strictSame(counted.failures, [{ name: 'a', detail: 'a\nstderr: "hi"' }]);
});

t.test('TapTally counts an assertion that fails beside subtests', async (t) => {
  const counted = tally(
    '# Subtest: outer',
    '    # Subtest: one',
    '        ok 1 - a',
    '        1..1',
    '    ok 1 - one',
    '    not ok 2 - beside',
    '    1..2',
    'not ok 1 - outer',
    '1..1',
  );
  t.strictSame(counted, { passed: 1, failures: [{ name: 'outer', detail: 'beside' }], skips: [] });
});

t.test('TapTally keeps the reason of a skipped test and of a skipped file', async (t) => {
  const one = tally('# Subtest: one', '    1..0 # needs x', 'ok 1 - one # SKIP needs x', 'ok 2 - two', '1..2');
  t.strictSame(one, { passed: 1, failures: [], skips: [{ name: 'one', reason: 'needs x' }] });
  t.strictSame(tally('TAP version 14', '1..0 # needs root'), {
    passed: 0,
    failures: [],
    skips: [{ name: 'all tests', reason: 'needs root' }],
  });
});

t.test('TapTally fails a stream whose plan is not met', async (t) => {
  const few = tally('ok 1 - a', '1..2');
  t.equal(few.passed, 1);
  t.equal(few.failures.length, 1);
  t.equal(tally('1..1', 'ok 1 - a', 'ok 2 - b').failures.length, 1);
  t.equal(tally('ok 1 - a').failures.length, 1, 'no plan at all');
});

t.test('TapTally fails a subtest whose plan is not met', async (t) => {
  const counted = tally('# Subtest: one', '    1..2', '    ok 1 - a', 'not ok 1 - one', '1..1');
  t.equal(counted.passed, 0);
  t.equal(counted.failures.length, 1);
});

t.test('TapTally fails a stream that bails out', async (t) => {
  const counted = tally('ok 1 - a', 'Bail out! the house burns');
  t.match(counted.failures, [{ detail: 'bail out: the house burns' }]);
});

t.test('TapTally fails a stream without a test', async (t) => {
  t.equal(tally('').failures.length, 1);
  t.equal(tally('TAP version 14').failures.length, 1);
  t.equal(tally('hello').failures.length, 1);
});
