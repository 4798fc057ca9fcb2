import t from 'tap';
import { parseStrictJson } from '../../../src/core/strict-json.ts';

const parse = (text: string | Buffer): unknown =>
  parseStrictJson(Buffer.from(text as string), { maxBytes: 10_000, maxDepth: 8, maxKeys: 50 });

t.test('parseStrictJson() gives what JSON.parse gives for good documents', (t) => {
  const good = [
    '{}',
    '[]',
    'null',
    '"a"',
    '-0.5e3',
    '{"a":[1,{"b":"\\u00e9\\ud83d\\ude00"}],"c":"{[,:"}',
    ' {"a" : "\\"", "b":"\\\\"} ',
    '9007199254740991',
    '[[[[[[[[1]]]]]]]]',
  ];
  for (const text of good) t.same(parse(text), JSON.parse(text), text);
  t.end();
});

const BAD: Record<string, string | Buffer> = {
  nothing: '',
  'too large': `"${'x'.repeat(10_000)}"`,
  'arrays nested too deep': '['.repeat(9) + ']'.repeat(9),
  'objects nested too deep': `${'{"a":'.repeat(9)}1${'}'.repeat(9)}`,
  'a million open arrays': Buffer.from('['.repeat(9999)),
  'too many keys': `{${Array.from({ length: 51 }, (_v, index) => `"k${index}":1`).join(',')}}`,
  'a duplicate key': '{"a":1,"a":2}',
  'a duplicate key in another spelling': '{"a":1,"\\u0061":2}',
  'a duplicate key deeper down': '{"x":{"a":1,"b":{},"a":2}}',
  '__proto__ as a key': '{"__proto__":{"x":1}}',
  '__proto__ in escapes': '{"__pr\\u006fto__":{"x":1}}',
  'an integer beyond 2^53': '9007199254740993',
  'a negative integer beyond 2^53': '[-9007199254740993]',
  'a number out of range': '1e400',
  'half a surrogate pair': '"\\ud800"',
  'half a surrogate pair in a key': '{"\\udc00":1}',
  'invalid UTF-8': Buffer.from([0x22, 0xff, 0x22]),
  'overlong UTF-8': Buffer.from([0x22, 0xc0, 0xaf, 0x22]),
  'a surrogate in UTF-8': Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]),
  'a byte order mark': Buffer.from([0xef, 0xbb, 0xbf, 0x7b, 0x7d]),
  'a comment': '{/**/}',
  'a trailing comma': '[1,]',
  'a single quote': "{'a':1}",
  NaN: 'NaN',
  Infinity: '[Infinity]',
  'a leading zero': '[01]',
  'a plus sign': '[+1]',
  'hex digits': '0x10',
  'a bare word': '{a:1}',
  'two documents': '{}{}',
  'an unfinished string': '"abc',
  'an unfinished escape': '"\\',
  'an unknown escape': '"\\x41"',
  'an unfinished object': '{"a":1',
  'a closing bracket too many': '[]]',
  'brackets of two kinds': '[}',
  'a control character in a string': '"\u0001"',
  'a NUL byte after the document': '{}\0',
};

for (const [what, text] of Object.entries(BAD)) {
  t.test(`A57 parseStrictJson() refuses ${what}`, (t) => {
    t.throws(() => parse(text), { code: 'E_MANIFEST' });
    t.end();
  });
}

t.test('parseStrictJson() leaves Object.prototype alone and keeps "constructor" as an own key', (t) => {
  const value = parse('{"constructor":{"prototype":{"polluted":1}}}') as object;
  t.ok(Object.hasOwn(value, 'constructor'));
  t.notOk('polluted' in {});
  t.end();
});

t.test('parseStrictJson() reports the given code and names what was read', (t) => {
  t.throws(() => parseStrictJson(Buffer.from('{'), { code: 'E_PROTOCOL', what: 'job request' }), {
    code: 'E_PROTOCOL',
    message: /job request/,
  });
  t.end();
});
