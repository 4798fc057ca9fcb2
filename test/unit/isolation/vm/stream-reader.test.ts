import t from 'tap';
import { RootlayerError } from '../../../../src/core/errors.ts';
import { frame } from '../../../../src/isolation/vm/frames.ts';
import { MARKS } from '../../../../src/isolation/vm/protocol.ts';
import { type GuestEvent, StreamReader } from '../../../../src/isolation/vm/stream-reader.ts';
import { randomNumbers } from './random-numbers.ts';

const READY = frame('R', Buffer.from([1, 0, 0, 0]));
const WAY = MARKS.map((mark) => frame('M', Buffer.from(mark)));
const END = frame(
  'X',
  Buffer.from('status=0\0oom=1\0forks-refused=2\0memory-peak=3\0pids-peak=4\0disk-bytes=5\0bytes-left=6\0inodes-left=7\0changed=1\0'),
);
const WHOLE = frame('F');
const GOOD = [READY, ...WAY, frame('1', Buffer.from('out')), frame('2', Buffer.from('err')), END, frame('T', Buffer.from('tar')), WHOLE];
const CLAIMS = {
  oomKills: 1,
  forksRefused: 2,
  memoryPeakBytes: 3,
  pidsPeak: 4,
  diskBytes: 5,
  bytesLeft: 6,
  inodesLeft: 7,
  changed: true,
};

const EVENTS: unknown[] = [
  { kind: 'ready' },
  ...MARKS.map((mark) => ({ kind: 'mark', mark })),
  { kind: 'output', stream: 'stdout', bytes: 'out' },
  { kind: 'output', stream: 'stderr', bytes: 'err' },
  { kind: 'end', end: { status: 0, claims: CLAIMS } },
  { kind: 'result', bytes: 'tar' },
  { kind: 'whole' },
];

function read(reader: StreamReader, chunks: Buffer[]): unknown[] {
  return chunks.flatMap((chunk) => [...reader.push(chunk)].map(plain));
}

function plain(event: GuestEvent): unknown {
  return 'bytes' in event ? { ...event, bytes: event.bytes.toString('latin1') } : event;
}

/** Bytes of the same kind that came one after the other are one. */
function joined(events: unknown[]): unknown[] {
  const all: Record<string, unknown>[] = [];
  for (const event of events as Record<string, unknown>[]) {
    const last = all.at(-1);
    if (last !== undefined && 'bytes' in event && last['kind'] === event['kind'] && last['stream'] === event['stream']) {
      last['bytes'] = `${last['bytes']}${event['bytes']}`;
    } else all.push({ ...event });
  }
  return all;
}

t.test('StreamReader gives a whole run', async (t) => {
  const reader = new StreamReader(true);
  t.same(read(reader, [Buffer.concat(GOOD)]), EVENTS);
  t.ok(reader.isOver);
});

t.test('StreamReader gives the same however the bytes are cut', async (t) => {
  const bytes = Buffer.concat(GOOD);
  for (const size of [1, 2, 3, 5, 7, 64]) {
    const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => bytes.subarray(index * size, (index + 1) * size));
    t.same(joined(read(new StreamReader(true), chunks)), EVENTS, `pieces of ${size}`);
  }
});

t.test('StreamReader of a restored guest waits for no answer', async (t) => {
  t.same(read(new StreamReader(false), GOOD.slice(1)), EVENTS.slice(1));
  t.throws(() => read(new StreamReader(false), [READY]), { code: 'E_VM_PROTOCOL' });
});

t.test('StreamReader gives an end by a signal, with what was not told as not known', async (t) => {
  const events = read(new StreamReader(false), [...WAY, frame('X', Buffer.from('signal=9\0changed=0\0')), WHOLE]);
  t.same(events.slice(-2), [
    {
      kind: 'end',
      end: {
        signal: 9,
        claims: {
          oomKills: 0,
          forksRefused: 0,
          memoryPeakBytes: null,
          pidsPeak: null,
          diskBytes: null,
          bytesLeft: null,
          inodesLeft: null,
          changed: false,
        },
      },
    },
    { kind: 'whole' },
  ]);
});

t.test('StreamReader gives the step that a guest failed at', async (t) => {
  t.same(read(new StreamReader(false), [frame('E', Buffer.from('mount\x002'))]), [{ kind: 'error', step: 'mount', errno: 'ENOENT' }]);
});

const on = (place: number, ...then: Buffer[]): Buffer[] => [...GOOD.slice(0, place), ...then];
const header = (type: string, length: number): Buffer => {
  const bytes = frame(type);
  bytes.writeUInt32LE(length, 1);
  return bytes;
};
const end = (text: string): Buffer[] => on(5, frame('X', Buffer.from(text)));

const REFUSED: Record<string, Buffer[]> = {
  'a mark before the answer': [WAY[0] ?? READY],
  'two answers': [READY, READY],
  'another version of the protocol': [frame('R', Buffer.from([2, 0, 0, 0]))],
  'a short answer': [frame('R', Buffer.from([1]))],
  'an unknown type': [frame('Z')],
  'a type of the host': [READY, frame('G')],
  'a NUL byte as a type': [frame('\0')],
  'a mark left out': [READY, frame('M', Buffer.from('bound'))],
  'a mark twice': [READY, frame('M', Buffer.from('seeded')), frame('M', Buffer.from('seeded'))],
  'an unknown mark': [READY, frame('M', Buffer.from('ready'))],
  'output before the script': on(3, frame('1', Buffer.from('x'))),
  'a mark behind the last one': on(5, frame('M', Buffer.from('started'))),
  'an end before the script': on(3, END),
  'a result before the end': on(5, frame('T', Buffer.from('x'))),
  'the word that all is whole before the end': on(5, WHOLE),
  'two ends': on(8, END),
  'output behind the end': on(8, frame('1', Buffer.from('x'))),
  'a result of a failed script': [...end('status=1\0'), frame('T', Buffer.from('x'))],
  'a result of a script that changed nothing': [...end('status=0\0changed=0\0'), frame('T', Buffer.from('x'))],
  'anything behind the whole': [...GOOD, WHOLE],
  'anything behind an error': [READY, frame('E', Buffer.from('mount\x002')), WHOLE],
  'output of 4 GiB': on(5, header('1', 0xffffffff)),
  'output of one byte more than allowed': on(5, header('1', 65_537)),
  'an empty output': on(5, frame('1')),
  'an empty piece of a result': on(8, frame('T')),
  'a mark of 4 GiB': [READY, header('M', 0xffffffff)],
  'a whole with something in it': on(8, frame('F', Buffer.from('x'))),
  'an end of 1 MiB': on(5, header('X', 1 << 20)),
  'an end without a status': end('oom=0\0'),
  'an end with a status and a signal': end('status=0\0signal=9\0'),
  'an end by signal 0': end('signal=0\0'),
  'a status beyond 255': end('status=256\0'),
  'a negative status': end('status=-1\0'),
  'a status that is no number': end('status=x\0'),
  'a number that is none any more': end('status=0\0disk-bytes=99999999999999999\0'),
  'a record twice': end('status=0\0status=0\0'),
  'an unknown record': end('status=0\0host=me\0'),
  'a record of a prototype': end('status=0\0constructor=1\0'),
  'a record without an end': end('status=0'),
  'an empty record': end('status=0\0\0'),
  'nothing for an end': end(''),
  'an error without a number': [READY, frame('E', Buffer.from('mount'))],
  'an error without a step': [READY, frame('E', Buffer.from('\x002'))],
  'an error with control characters': [READY, frame('E', Buffer.from('\x1b[2J\x002'))],
};

for (const [what, chunks] of Object.entries(REFUSED)) {
  t.test(`V04 StreamReader refuses ${what}`, async (t) => {
    t.throws(() => read(new StreamReader(true), chunks), { code: 'E_VM_PROTOCOL' });
  });
}

t.test('V04 10,000 forged streams each give E_VM_PROTOCOL or a run that is allowed, and hold no memory', async (t) => {
  const random = randomNumbers(20_260_731);
  const outcomes = { refused: 0, whole: 0, unfinished: 0 };
  let mostHeld = 0;
  for (let count = 0; count < 10_000; count++) {
    const reader = new StreamReader(random(2) === 0);
    try {
      for (const chunk of forge(random)) {
        for (const event of reader.push(chunk)) if ('bytes' in event && event.bytes.length > 65_536) t.fail('more bytes than a frame has');
        mostHeld = Math.max(mostHeld, reader.heldBytes);
      }
      outcomes[reader.isOver ? 'whole' : 'unfinished'] += 1;
    } catch (error) {
      if (!(error instanceof RootlayerError) || error.code !== 'E_VM_PROTOCOL') throw error;
      outcomes.refused += 1;
    }
  }
  t.ok(mostHeld <= 4096, `held ${mostHeld} bytes`);
  t.ok(
    Object.values(outcomes).every((count) => count > 50),
    JSON.stringify(outcomes),
  );
});

/** A good run with some of its frames changed, cut, doubled or swapped, in pieces of any size; or plain noise. */
function forge(random: (below: number) => number): Buffer[] {
  const sequence = GOOD.slice(random(2)).map((each) => Buffer.from(each));
  for (let changes = random(3); changes > 0; changes--) distort(sequence, random);
  const bytes = random(20) === 0 ? noise(random, random(200)) : Buffer.concat(sequence);
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + random(40);
    pieces.push(bytes.subarray(at, at + length));
    at += length;
  }
  return pieces;
}

function distort(sequence: Buffer[], random: (below: number) => number): void {
  const place = random(sequence.length);
  const chosen = sequence[place] ?? WHOLE;
  switch (random(6)) {
    case 0:
      sequence.splice(place, 1);
      break;
    case 1:
      sequence.splice(place, 0, chosen);
      break;
    case 2:
      chosen[random(chosen.length)] = random(256);
      break;
    case 3:
      sequence.splice(place, 1, frame('12TXMEFR'[random(8)] ?? '1', noise(random, random(30))));
      break;
    case 4:
      sequence.splice(random(sequence.length), 0, ...sequence.splice(place, 1));
      break;
    default:
      chosen.writeUInt32LE(random(2 ** 32), 1);
  }
}

function noise(random: (below: number) => number, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random(256)));
}
