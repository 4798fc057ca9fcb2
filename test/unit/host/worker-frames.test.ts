import t from 'tap';
import { FrameReader } from '../../../src/host/worker-frames.ts';

function frame(body: string | Buffer, length?: number): Buffer {
  const bytes = Buffer.from(body as string);
  const header = Buffer.alloc(4);
  header.writeUInt32LE(length ?? bytes.length, 0);
  return Buffer.concat([header, bytes]);
}

const ready = frame('{"kind":"ready"}');
const result = frame('{"kind":"result","result":{"a":[1]}}');

t.test('FrameReader puts messages together from any pieces', (t) => {
  const all = Buffer.concat([ready, result, ready]);
  for (const size of [1, 2, 3, 5, 7, 16, all.length]) {
    const reader = new FrameReader();
    const got: string[] = [];
    for (let at = 0; at < all.length; at += size) got.push(...reader.push(all.subarray(at, at + size)).map((message) => message.kind));
    t.same(got, ['ready', 'result', 'ready'], `pieces of ${size}`);
  }
  t.end();
});

const HOSTILE: Record<string, Buffer> = {
  'a frame of 4 GiB': frame('', 0xffffffff),
  'a frame beyond the limit': frame('', 32 * 1024 * 1024 + 1),
  null: frame('null'),
  'a number': frame('1'),
  'no JSON': frame('{'),
  nothing: frame(''),
  'invalid UTF-8': frame(Buffer.from([0xff, 0xfe])),
  'an unknown kind': frame('{"kind":"exec"}'),
  'an error without a body': frame('{"kind":"error"}'),
  'an unknown error code': frame('{"kind":"error","error":{"code":"E_NOPE","message":"x"}}'),
  'an inherited name as code': frame('{"kind":"error","error":{"code":"toString","message":"x"}}'),
  'a code that only the daemon may say': frame('{"kind":"error","error":{"code":"E_CANCELLED","message":"x"}}'),
  'a message that is no text': frame('{"kind":"error","error":{"code":"E_SYSCALL","message":{}}}'),
  'progress of another form': frame('{"kind":"progress","progress":{"stage":"x","done":"1","total":null,"unit":"bytes"}}'),
  'progress with more in it': frame('{"kind":"progress","progress":{"stage":"x","done":1,"total":null,"unit":"bytes","evil":1}}'),
  'progress in another unit': frame('{"kind":"progress","progress":{"stage":"x","done":1,"total":null,"unit":"sheep"}}'),
};

for (const [what, bytes] of Object.entries(HOSTILE)) {
  t.test(`V04 FrameReader refuses ${what}`, (t) => {
    t.throws(() => new FrameReader().push(bytes));
    t.end();
  });
}
