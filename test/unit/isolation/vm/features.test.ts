import t from 'tap';
import { RootlayerError } from '../../../../src/core/errors.ts';
import { knownAccelerationFeature, triedAccelerationFeature, vmPartFeatures } from '../../../../src/isolation/vm/features.ts';

function missing(): never {
  throw new RootlayerError('E_TOOL', 'Cannot find it', { hint: 'Install it.' });
}

t.test('vmPartFeatures() tells versions, and what to do about what is missing', async (t) => {
  t.same(
    vmPartFeatures(() => '7.2', missing),
    [
      { name: 'qemu', ok: true, required: false, detail: '7.2', remedy: null },
      { name: 'vm-kernel', ok: false, required: false, detail: 'Cannot find it', remedy: 'Only --isolation vm needs it. Install it.' },
    ],
  );
  t.match(
    vmPartFeatures(missing, () => ({ release: '6.1' })),
    [{ ok: false }, { ok: true, detail: '6.1' }],
  );
});

t.test('the acceleration of virtual machines is said to be a boundary only with KVM', async (t) => {
  const kvm = { ok: true, acceleration: 'kvm', why: 'a guest has booted with it' } as const;
  const tcg = { ok: true, acceleration: 'tcg', why: 'there is no /dev/kvm' } as const;
  const facts = { qemuVersion: '7.2', kernelRelease: '6.1' };
  t.match(knownAccelerationFeature(kvm), { ok: true, detail: /KVM, a security boundary/, remedy: null });
  t.match(knownAccelerationFeature(tcg), {
    ok: false,
    required: false,
    detail: /no security boundary: there is no \/dev\/kvm/,
    remedy: /kvm/,
  });
  t.same(triedAccelerationFeature({ ...kvm, ...facts, boundary: true }), knownAccelerationFeature(kvm));
  t.same(triedAccelerationFeature({ ...tcg, ...facts, boundary: false }), knownAccelerationFeature(tcg));
});

t.test('what is not known of acceleration is said to be so', async (t) => {
  t.match(knownAccelerationFeature({ ok: true, acceleration: 'untried', why: '' }), {
    ok: false,
    detail: /not been tried/,
    remedy: /doctor --vm/,
  });
  t.match(knownAccelerationFeature({ ok: false, lacked: 'no QEMU' }), { ok: false, detail: 'no QEMU' });
  t.match(triedAccelerationFeature({ ok: false, lacked: 'no QEMU', remedy: 'Install it.' }), {
    ok: false,
    detail: 'no QEMU',
    remedy: 'Install it.',
  });
});
