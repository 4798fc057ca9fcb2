import { mkdirSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import t, { type Test } from 'tap';
import { planExport, planResult } from '../../../src/cli/output-plan.ts';

async function makeDir(t: Test): Promise<string> {
  const dir = realpathSync(await mkdtemp('/dev/shm/rootlayer-plan-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

t.test('planResult() takes the format from the ending', async (t) => {
  const dir = await makeDir(t);
  const samples: [string, string][] = [
    ['a.tar', 'tar'],
    ['a.tar.gz', 'tar.gz'],
    ['a.tgz', 'tar.gz'],
    ['a.tar.zst', 'tar.zst'],
    ['a.tzst', 'tar.zst'],
  ];
  for (const [name, format] of samples) {
    const file = path.join(dir, name);
    t.same(planResult(file, undefined), { target: { kind: 'file', path: file }, format, wasGuessed: true });
  }
  t.same(planResult(`${dir}/new/`, undefined), { target: { kind: 'directory', path: `${dir}/new` }, format: 'dir', wasGuessed: true });
  t.same(planResult('-', undefined), { target: { kind: 'stdout' }, format: 'tar', wasGuessed: true });
  t.same(planResult(`${dir}/x`, 'oci-archive'), { target: { kind: 'file', path: `${dir}/x` }, format: 'oci-archive', wasGuessed: false });
});

t.test('planResult() refuses what it cannot write, before any work', async (t) => {
  const dir = await makeDir(t);
  mkdirSync(path.join(dir, 'full/inner'), { recursive: true });
  writeFileSync(path.join(dir, 'file'), '');
  const refused: [out: string, format: string | undefined, why: RegExp][] = [
    [path.join(dir, 'a.zip'), undefined, /Cannot tell the format/],
    [path.join(dir, 'a.tar'), 'zip', /Cannot use --format "zip"/],
    [path.join(dir, 'none/a.tar'), undefined, /its directory .* is not there/],
    [path.join(dir, 'full'), 'tar', /it is a directory/],
    [path.join(dir, 'full'), 'dir', /the directory is not empty/],
    [path.join(dir, 'file'), 'oci-dir', /is no directory/],
    [path.join(dir, 'file/x'), 'tar', /-o/],
    ['-', 'dir', /cannot go to standard output/],
    ['', 'tar', /it is empty/],
  ];
  for (const [out, format, message] of refused) t.throws(() => planResult(out, format), { code: 'E_USAGE', message }, `${out} ${format}`);
});

t.test('planResult() never replaces a device, and follows a link to the file it names', async (t) => {
  const dir = await makeDir(t);
  t.same(planResult('/dev/null', 'tar').target, { kind: 'device', path: '/dev/null' });
  writeFileSync(path.join(dir, 'real.tar'), '');
  symlinkSync('real.tar', path.join(dir, 'link.tar'));
  t.same(planResult(path.join(dir, 'link.tar'), undefined).target, { kind: 'file', path: path.join(dir, 'real.tar') });
});

t.test('planExport() knows the formats of images', async (t) => {
  t.equal(planExport('-', 'rootfs-tar').format, 'rootfs-tar');
  t.throws(() => planExport('-', 'tar'), { code: 'E_USAGE', message: /want one of docker-archive, oci-archive, oci-dir, rootfs-tar/ });
});
