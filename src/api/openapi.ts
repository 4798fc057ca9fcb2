import { z } from 'zod';
import { NDJSON_TYPE } from './ndjson.ts';
import { PROBLEM_TYPE } from './problem.ts';
import type { AnswerDoc, Route } from './route.ts';
import { problemSchema } from './schema.ts';

/** A piece of an OpenAPI document. */
type Json = Record<string, unknown>;

/** Gives the OpenAPI 3.1 document of the routes, with the schemas that the server itself checks by. Source: OpenAPI Specification 3.1.0. */
export function openApiDocument(routes: readonly Route[], version: string): Json {
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    const path = route.path.replace(/:([a-z]+)/g, '{$1}');
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'rootlayer',
      version,
      description:
        'HTTP/1.1 over a Unix socket. The caller is the uid that the kernel recorded for the connection; what belongs to others answers 404.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: 'http://localhost', description: 'the host name is not looked at' }],
    paths,
    components: {
      schemas: { Problem: toSchema(problemSchema, 'output') },
      responses: {
        Problem: { description: 'an error', content: { [PROBLEM_TYPE]: { schema: { $ref: '#/components/schemas/Problem' } } } },
      },
    },
  };
}

function operation(route: Route): Json {
  return {
    operationId: operationId(route),
    summary: route.summary,
    parameters: [...parameters(route.params, 'path'), ...parameters(route.query, 'query')],
    ...requestBody(route),
    responses: {
      ...Object.fromEntries(route.answers.map((answer) => [String(answer.status), response(answer)])),
      default: { $ref: '#/components/responses/Problem' },
    },
  };
}

/** `GET /v1/jobs/:id/log` becomes `get-jobs-id-log`. */
function operationId(route: Route): string {
  const words = route.path
    .split('/')
    .slice(2)
    .join('-')
    .replace(/[^a-z-]+/g, '');
  return `${route.method.toLowerCase()}-${words}`;
}

function parameters(schema: z.ZodObject, where: 'path' | 'query'): Json[] {
  const { properties = {} } = toSchema(schema, 'input') as { properties?: Record<string, Json> };
  return Object.entries(properties).map(([name, property]) => ({ name, in: where, required: where === 'path', schema: property }));
}

function requestBody({ body }: Route): Json {
  switch (body.kind) {
    case 'none':
      return {};
    case 'json':
      return { requestBody: { required: true, content: { 'application/json': { schema: toSchema(body.schema, 'input') } } } };
    case 'stream':
      return { requestBody: { required: true, description: body.says, content: { [body.contentType]: {} } } };
  }
}

function response(answer: AnswerDoc): Json {
  if (answer.contents === undefined) return { description: answer.says };
  const content = Object.entries(answer.contents).map(([type, schema]) => [type, mediaType(type, schema)]);
  return { description: answer.says, content: Object.fromEntries(content) };
}

function mediaType(type: string, schema: z.ZodType | null): Json {
  if (schema === null) return {};
  const document = toSchema(schema, 'output');
  // OpenAPI 3.1 has no word for a schema of each line.
  return type === NDJSON_TYPE
    ? { schema: { type: 'string', description: 'one JSON document a line' }, 'x-line-schema': document }
    : { schema: document };
}

function toSchema(schema: z.ZodType, io: 'input' | 'output'): Json {
  const document: Json = { ...z.toJSONSchema(schema, { io, target: 'draft-2020-12' }) };
  // The document as a whole has one dialect.
  delete document['$schema'];
  return document;
}
