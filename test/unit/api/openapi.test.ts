import t, { type Test } from 'tap';
import { openApiDocument } from '../../../src/api/openapi.ts';
import { routes } from '../../../src/api/routes/service.ts';
import { eventSchema, imageDetailsSchema, importLineSchema, jobListSchema, jobSchema } from '../../../src/api/schema.ts';
import { startFakeDaemon } from '../../helpers/fake-daemon.ts';
import { fetchFrom, SCRIPT } from './raw.ts';

type Json = Record<string, unknown>;

const document = JSON.parse(JSON.stringify(openApiDocument(routes, '1.2.3'))) as Json;
const paths = document['paths'] as Record<string, Record<string, Json>>;

t.test('openApiDocument() has every route, and no other', async (t) => {
  const documented = Object.entries(paths).flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`));
  const registered = routes.map(({ method, path }) => `${method} ${path.replace(/:([a-z]+)/g, '{$1}')}`);
  t.same(documented.sort(), registered.sort());
});

t.test('openApiDocument() has the members that OpenAPI 3.1 wants', async (t) => {
  t.match(document, { openapi: '3.1.0', info: { title: 'rootlayer', version: '1.2.3' } });
  const ids = new Set<unknown>();
  for (const [path, item] of Object.entries(paths)) {
    t.match(path, /^\/v1\/[a-z0-9{}./-]+$/);
    for (const [method, operation] of Object.entries(item)) {
      const at = `${method} ${path}`;
      t.type(operation['summary'], 'string', `${at} has a summary`);
      t.notOk(ids.has(operation['operationId']), `${at} has an id of its own`);
      ids.add(operation['operationId']);
      checkParameters(t, at, path, operation);
      for (const [status, answer] of Object.entries(operation['responses'] as Json)) {
        t.match(status, /^(?:[1-5]\d\d|default)$/, `${at} has a status`);
        t.ok('$ref' in Object(answer) || 'description' in Object(answer), `${at} says what ${status} is`);
      }
    }
  }
});

function checkParameters(t: Test, at: string, path: string, operation: Json): void {
  const parameters = operation['parameters'] as Json[];
  const inPath = parameters.filter((parameter) => parameter['in'] === 'path');
  const wanted = [...path.matchAll(/\{([a-z]+)\}/g)].map((match) => match[1]);
  t.same(
    inPath.map((parameter) => parameter['name']),
    wanted,
    `${at} declares its path parameters`,
  );
  for (const parameter of parameters) {
    t.ok(parameter['in'] === 'query' || parameter['required'] === true, `${at} wants its path parameters`);
    t.type(parameter['schema'], 'object', `${at} has a schema for ${String(parameter['name'])}`);
  }
}

t.test('openApiDocument() has only references that lead somewhere', async (t) => {
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1] ?? '');
  t.ok(references.length > 0);
  for (const reference of new Set(references)) {
    const target = reference
      .replace(/^#\//, '')
      .split('/')
      .reduce<unknown>((value, key) => Reflect.get(Object(value), key), document);
    t.type(target, 'object', reference);
  }
});

t.test('openApiDocument() refuses unknown members of a job, and takes no host path', async (t) => {
  const submit = paths['/v1/jobs']?.['post']?.['requestBody'];
  const schema = Reflect.get(Object(Reflect.get(Object(Reflect.get(Object(submit), 'content')), 'application/json')), 'schema') as Json;
  t.equal(schema['additionalProperties'], false);
  // C09: what a client says is an enum, a digest, an id or opaque text; files travel as bytes.
  t.same(Object.keys(schema['properties'] as Json).sort(), [
    'compat',
    'config',
    'contextId',
    'env',
    'from',
    'isolation',
    'limits',
    'name',
    'network',
    'script',
    'sourceDateEpoch',
    'terminal',
  ]);
});

t.test('GET /v1/openapi.json serves the document', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const reply = await fetchFrom(socketPath, '/v1/openapi.json');
  t.equal(reply.status, 200);
  t.same(Object.keys(JSON.parse(reply.body).paths), Object.keys(paths));
});

t.test('what the daemon answers fits the schemas of the document', async (t) => {
  const { socketPath } = await startFakeDaemon(t);
  const headers = { 'content-type': 'application/json' };
  const lines = await fetchFrom(socketPath, '/v1/images?name=a:1', {
    method: 'POST',
    headers: { accept: 'application/x-ndjson' },
    body: 'x',
  });
  for (const line of lines.body.trimEnd().split('\n')) t.doesNotThrow(() => importLineSchema.parse(JSON.parse(line)));
  t.same(imageDetailsSchema.parse(JSON.parse((await fetchFrom(socketPath, '/v1/images/a:1')).body)).image.names, ['a:1']);
  const body = JSON.stringify({ from: 'a:1', script: SCRIPT('echo hi\nwarn careful\nbytes /w==') });
  const submitted = await fetchFrom(socketPath, '/v1/jobs', { method: 'POST', headers, body });
  const { id } = jobSchema.parse(JSON.parse(submitted.body));
  const events = await fetchFrom(socketPath, `/v1/jobs/${id}/events?follow=1`);
  const types = events.body
    .trimEnd()
    .split('\n')
    .map((line) => eventSchema.parse(JSON.parse(line)).type);
  t.same(new Set(types), new Set(['state', 'log', 'warning', 'progress', 'end']));
  t.equal(jobListSchema.parse(JSON.parse((await fetchFrom(socketPath, '/v1/jobs')).body)).jobs.length, 1);
});
