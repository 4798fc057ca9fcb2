import t from 'tap';
import { type DiffId, parseDiffId } from '../../../src/core/digest.ts';
import {
  deriveConfig,
  type ImageConfig,
  mergeConfig,
  mergeEnv,
  parseImageConfig,
  runtimeConfigOf,
} from '../../../src/core/image-config.ts';

function diffId(digit: string): DiffId {
  return parseDiffId(`sha256:${digit.repeat(64)}`);
}

function image(config: object | null, more: object = {}): object {
  return { architecture: 'amd64', os: 'linux', config, rootfs: { type: 'layers', diff_ids: [diffId('1')] }, ...more };
}

t.test('parseImageConfig() keeps members that it does not know', async (t) => {
  const value = image({ Env: null, Cmd: ['sh'], X: { y: 1 } }, { 'os.version': '10', history: null, author: null, z: [1] });
  t.same(parseImageConfig(value), value);
});

t.test('parseImageConfig() takes an image without layers and without config', async (t) => {
  t.doesNotThrow(() => parseImageConfig({ rootfs: { type: 'layers', diff_ids: [] } }));
  t.doesNotThrow(() => parseImageConfig({ rootfs: { type: 'layers' } }));
});

t.test('parseImageConfig() refuses configs that are no such (A54, A58)', async (t) => {
  const rows: [string, unknown][] = [
    ['A58 Env with NUL', image({ Env: ['A=b\0c'] })],
    ['A58 Env without a name', image({ Env: ['=x'] })],
    ['A58 Env without =', image({ Env: ['LD_PRELOAD'] })],
    ['A58 Env is no list', image({ Env: { A: 'b' } })],
    ['A58 User 0x0', image({ User: '0x0' })],
    ['A58 User 2^32', image({ User: '4294967296' })],
    ['A58 User 2^32 - 1', image({ User: '4294967295' })],
    ['A58 User with a large group', image({ User: '0:4294967296' })],
    ['A58 User with a newline', image({ User: 'a\nb' })],
    ['A58 User -1', image({ User: '-1' })],
    ['A58 User with three parts', image({ User: 'a:b:c' })],
    ['A58 WorkingDir with NUL', image({ WorkingDir: '/a\0b' })],
    ['A58 Cmd with NUL', image({ Cmd: ['a\0'] })],
    ['A58 Cmd is a text', image({ Cmd: 'sh' })],
    ['A58 Volumes is a list', image({ Volumes: ['/x'] })],
    ['A58 Labels with a number', image({ Labels: { a: 1 } })],
    ['A58 Label with NUL in its name', image({ Labels: { 'a\0': '1' } })],
    ['A54 no rootfs', { config: {} }],
    ['A54 another kind of rootfs', { rootfs: { type: 'disk', diff_ids: [] } }],
    ['A52 a diffID that is a path', { rootfs: { type: 'layers', diff_ids: ['sha256:../../x'] } }],
    ['A64 128 layers', { rootfs: { type: 'layers', diff_ids: Array(128).fill(diffId('1')) } }],
    ['a list', []],
    ['null', null],
  ];
  for (const [name, value] of rows) t.throws(() => parseImageConfig(value), { code: 'E_CONFIG' }, name);
});

t.test('runtimeConfigOf() gives nothing but the allow list (A58)', async (t) => {
  const config = parseImageConfig(
    image({ Env: ['A=b=c', 'LD_PRELOAD=/x'], WorkingDir: '/srv', User: 'app:app', Labels: { 'run.me': 'sh' }, Volumes: { '/etc': {} } }),
  );
  t.same(runtimeConfigOf(config.config), {
    env: [
      ['A', 'b=c'],
      ['LD_PRELOAD', '/x'],
    ],
    workingDir: '/srv',
    user: 'app:app',
  });
  for (const dir of ['', 'relative', '../x', '/a/../b', '/proc/self/fd/7/..'])
    t.equal(runtimeConfigOf({ WorkingDir: dir }).workingDir, null, dir);
  t.same(runtimeConfigOf(null), { env: [], workingDir: null, user: null });
});

t.test('mergeEnv() takes the last value in the place of the first', async (t) => {
  t.same(mergeEnv(['A=1', 'B=2', 'A=3'], ['C=4', 'B=', 'D=x=y']), ['A=3', 'B=', 'C=4', 'D=x=y']);
});

t.test('mergeConfig() follows a rule for each member', async (t) => {
  const base = {
    Env: ['PATH=/bin', 'A=1'],
    Labels: { a: '1', b: '2' },
    ExposedPorts: { '80/tcp': {} },
    Volumes: { '/data': {} },
    Entrypoint: ['/init'],
    Cmd: ['serve'],
    User: 'app',
    WorkingDir: '/srv',
    StopSignal: 'SIGTERM',
    Other: 7,
  };
  const rows: [string, Record<string, unknown> | null, object][] = [
    ['nothing', null, {}],
    ['Env by name', { Env: ['A=2', 'B=3'] }, { Env: ['PATH=/bin', 'A=2', 'B=3'] }],
    ['Env removed', { Env: null }, { Env: undefined }],
    ['Labels by key', { Labels: { b: '3', c: '4' } }, { Labels: { a: '1', b: '3', c: '4' } }],
    ['a label removed', { Labels: { a: null } }, { Labels: { b: '2' } }],
    ['ExposedPorts by key', { ExposedPorts: { '443/tcp': {}, '80/tcp': null } }, { ExposedPorts: { '443/tcp': {} } }],
    ['Volumes by key', { Volumes: { '/x': {} } }, { Volumes: { '/data': {}, '/x': {} } }],
    ['Entrypoint clears Cmd', { Entrypoint: ['/bin/sh'] }, { Entrypoint: ['/bin/sh'], Cmd: undefined }],
    ['Entrypoint and Cmd', { Entrypoint: ['/bin/sh'], Cmd: ['-l'] }, { Entrypoint: ['/bin/sh'], Cmd: ['-l'] }],
    ['Entrypoint removed', { Entrypoint: null }, { Entrypoint: undefined }],
    ['Cmd replaced', { Cmd: ['x', 'y'] }, { Cmd: ['x', 'y'] }],
    ['User replaced', { User: '0' }, { User: '0' }],
    ['WorkingDir removed', { WorkingDir: null }, { WorkingDir: undefined }],
    [
      'Healthcheck and Shell new',
      { Healthcheck: { Test: ['NONE'] }, Shell: ['/bin/sh'] },
      { Healthcheck: { Test: ['NONE'] }, Shell: ['/bin/sh'] },
    ],
    ['StopSignal replaced', { StopSignal: '9' }, { StopSignal: '9' }],
  ];
  for (const [name, override, change] of rows) {
    const want = Object.fromEntries(Object.entries({ ...base, ...change }).filter(([, value]) => value !== undefined));
    t.same(mergeConfig({ ...base, Image: null }, override), want, name);
  }
});

t.test('mergeConfig() refuses members that are not known, by name', async (t) => {
  t.throws(() => mergeConfig({}, { entrypoint: ['x'] }), { code: 'E_CONFIG', message: /"entrypoint"/ });
  t.throws(() => mergeConfig({}, { Cmd: 'sh' }), { code: 'E_CONFIG', message: /"Cmd"/ });
  t.throws(() => mergeConfig({}, { Env: ['A'] }), { code: 'E_CONFIG', message: /"Env.0".*NAME=value/ });
  t.throws(() => mergeConfig({}, { constructor: {} }), { code: 'E_CONFIG' });
});

const STEP = { created: '2024-01-01T00:00:00Z', createdBy: 'rootlayer run', override: null };

t.test('deriveConfig() adds a layer to a base, with its history', async (t) => {
  const base = parseImageConfig(
    image(
      { Cmd: ['sh'], Labels: { b: '1', a: '2' } },
      {
        created: '2020-01-01T00:00:00Z',
        variant: 'v8',
        docker_version: '20',
        container: 'x',
        zz: 1,
        history: [{ created_by: 'a' }, { empty_layer: true }],
      },
    ),
  );
  const { json, config } = deriveConfig(base, diffId('2'), { ...STEP, override: { User: 'app' } });
  t.equal(
    json,
    `{"created":"2024-01-01T00:00:00Z","architecture":"amd64","variant":"v8","os":"linux","config":{"Cmd":["sh"],"Labels":{"a":"2","b":"1"},"User":"app"},"rootfs":{"type":"layers","diff_ids":["${diffId('1')}","${diffId('2')}"]},"history":[{"created_by":"a"},{"empty_layer":true},{"created":"2024-01-01T00:00:00Z","created_by":"rootlayer run"}],"zz":1}`,
  );
  t.same(parseImageConfig(JSON.parse(json)), config);
});

t.test('deriveConfig() gives the same text for the same members in another order', async (t) => {
  const a = parseImageConfig(image({ Cmd: ['x'], User: 'u' }, { y: { b: 1, a: 2 }, x: 1 }));
  const b = parseImageConfig({ x: 1, y: { a: 2, b: 1 }, ...image({ User: 'u', Cmd: ['x'] }) });
  t.equal(deriveConfig(a, diffId('2'), STEP).json, deriveConfig(b, diffId('2'), STEP).json);
});

t.test('deriveConfig() repairs a history that does not match the layers', async (t) => {
  const layers = { rootfs: { type: 'layers', diff_ids: [diffId('1'), diffId('2')] }, created: '2020-01-01T00:00:00Z' };
  for (const history of [undefined, null, [], [{ created_by: 'one' }], [{}, {}, {}], [{ empty_layer: true }, {}]]) {
    const base = parseImageConfig(image({}, { ...layers, ...(history === undefined ? {} : { history }) }));
    const { config } = deriveConfig(base, diffId('3'), STEP);
    t.equal(config.history?.filter((entry) => entry.empty_layer !== true).length, 3, JSON.stringify(history));
  }
});

t.test('deriveConfig() without a layer adds a step that has none', async (t) => {
  const base: ImageConfig = parseImageConfig(image({}, { history: [{}] }));
  const { config } = deriveConfig(base, null, STEP);
  t.same(config.rootfs.diff_ids, [diffId('1')]);
  t.same(config.history?.at(-1), { created: STEP.created, created_by: STEP.createdBy, empty_layer: true });
});

t.test('deriveConfig() from scratch wants to know the architecture', async (t) => {
  const { config } = deriveConfig(null, diffId('1'), { ...STEP, architecture: 'arm64' });
  t.match(config, { architecture: 'arm64', os: 'linux', rootfs: { type: 'layers', diff_ids: [diffId('1')] } });
  t.throws(() => deriveConfig(null, diffId('1'), STEP), { code: 'E_CONFIG' });
});

t.test('deriveConfig() refuses the 128th layer', async (t) => {
  const base = parseImageConfig({ architecture: 'amd64', rootfs: { type: 'layers', diff_ids: Array(127).fill(diffId('1')) } });
  t.throws(() => deriveConfig(base, diffId('2'), STEP), { code: 'E_CONFIG', message: /128 layers/ });
});
