import t from 'tap';
import { LAYER_VERSION, rootLayerJson } from '../../../src/image/root-layer.ts';

t.test('rootLayerJson() sets the checksum and keeps all else in order', async (t) => {
  const config = { os: 'linux', checksum: 'old', config: { Env: ['A=1'] } };
  t.equal(rootLayerJson(config, 'tarsum.v1+sha256:00'), '{"os":"linux","checksum":"tarsum.v1+sha256:00","config":{"Env":["A=1"]}}\n');
  t.equal(rootLayerJson({ os: 'linux' }, 'x'), '{"os":"linux","checksum":"x"}\n');
});

t.test('LAYER_VERSION is three bytes', async (t) => {
  t.same(Buffer.from(LAYER_VERSION), Buffer.from([0x31, 0x2e, 0x30]));
});
