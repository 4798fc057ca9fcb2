import t from 'tap';
import { RootlayerError } from '../../../../src/core/errors.ts';
import type { TarEntry } from '../../../../src/core/tar/entry.ts';
import { LateList } from '../../../../src/store/unpack/late-list.ts';

const MIB = 1024 * 1024;
const entry = {
  name: Buffer.from('d'),
  uid: 0,
  gid: 0,
  mode: 0o600,
  devMajor: 1,
  devMinor: 3,
  mtimeSec: 2 ** 32,
  mtimeNsec: 999_999_999,
} as TarEntry;

/** Adds until it is refused; gives the list's bytes as a worker sends them, and the error. */
function fill(add: (list: LateList, index: number) => void): { bytes: number; error: unknown } {
  const list = new LateList();
  try {
    for (let index = 0; index < 1_000_000; index++) add(list, index);
    return { bytes: Number.POSITIVE_INFINITY, error: null };
  } catch (error) {
    return { bytes: JSON.stringify(list.work()).length, error };
  }
}

t.test('LateList takes what the daemon can parse in little time, and refuses more', (t) => {
  const mark = { name: Buffer.from('trusted.overlay.opaque'), value: Buffer.from('y') };
  const lists = {
    'short names': fill((list, index) => list.device(`d${index}`, 'char', entry)),
    'long names': fill((list, index) => list.device(`${'d'.repeat(3000)}${index}`, 'char', entry)),
    links: fill((list, index) => list.link(`d${index}`, 'd'.repeat(1000), entry)),
    marks: fill((list, index) => list.attributes(`d${index}`, entry, [mark])),
    owners: fill((list, index) => list.attributes(`d${index}`, { ...entry, uid: 100_000 }, [])),
  };
  for (const [what, { bytes, error }] of Object.entries(lists)) {
    t.ok(bytes > MIB / 2 && bytes < 4.5 * MIB, `${what}: ${bytes} bytes`);
    t.ok(error instanceof RootlayerError && error.code === 'E_LIMIT_RESULT', what);
    t.match(error, { message: /owners above 65535.* longer than 4 MiB/ }, what);
  }
  t.end();
});
