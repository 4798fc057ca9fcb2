import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import type { z } from 'zod';
import type { Caller, Download, Engine } from '../core/engine.ts';
import { readJsonBody } from './body.ts';
import { parseInput } from './parse-input.ts';

/** What a handler gives back; answer.ts writes it. */
export type Answer =
  | { kind: 'json'; status: 200 | 201; body: unknown; location?: string }
  | { kind: 'empty' }
  /** Text that is JSON already, byte by byte. */
  | { kind: 'text'; contentType: string; text: string }
  | { kind: 'download'; contentType: string; download: Download }
  /** Newline-delimited JSON. */
  | { kind: 'lines'; lines: AsyncIterable<unknown> }
  | { kind: 'bytes'; contentType: string; chunks: AsyncIterable<Buffer> };

/** What the daemon knows about itself. */
export type ServiceState = { version: string; isDraining: boolean; connections: number; uptimeSec: number };

/** One request, checked. */
export type Call<P, Q, B> = {
  engine: Engine;
  caller: Caller;
  params: P;
  query: Q;
  body: B;
  request: IncomingMessage;
  /** The body of a route that takes a stream; destroying it leaves the connection open for the answer. */
  upload: Readable;
  service: ServiceState;
  /** Aborts when the client is gone. */
  signal: AbortSignal;
};

/** A request whose parts nobody has looked at. */
export type RawCall = Omit<Call<unknown, unknown, undefined>, 'body'>;

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

/** What a route answers with, for the OpenAPI document. */
export type AnswerDoc = { status: 200 | 201 | 204; says: string; contents?: Record<string, z.ZodType | null> };

/** One route: what the server registers and what the OpenAPI document shows. */
export type Route = {
  method: Method;
  /** Parameters as `:name`, each a whole segment. */
  path: string;
  summary: string;
  params: z.ZodObject;
  query: z.ZodObject;
  body: BodyDoc;
  answers: AnswerDoc[];
  /** Makes something new, so a draining daemon refuses it. */
  isSubmission: boolean;
  handle: (call: RawCall) => Promise<Answer>;
};

type BodyDoc = { kind: 'none' } | { kind: 'json'; schema: z.ZodType } | { kind: 'stream'; contentType: string; says: string };

type Definition<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> = Omit<Route, 'params' | 'query' | 'body' | 'handle'> & {
  params: P;
  query: Q;
  body: { kind: 'none' } | { kind: 'json'; schema: B } | { kind: 'stream'; contentType: string; says: string };
  handle: (call: Call<z.output<P>, z.output<Q>, z.output<B>>) => Promise<Answer> | Answer;
};

/** Makes a route whose handler sees only checked values; a request that does not fit fails with `E_PROTOCOL`. */
export function defineRoute<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType>(definition: Definition<P, Q, B>): Route {
  const { body } = definition;
  return {
    ...definition,
    handle: async (raw) => {
      const params = parseInput(definition.params, raw.params, 'path');
      const query = parseInput(definition.query, raw.query, 'query');
      const value = body.kind === 'json' ? await readJsonBody(raw.request, raw.signal) : undefined;
      const checked = body.kind === 'json' ? parseInput(body.schema, value, 'request body') : undefined;
      return definition.handle({ ...raw, params, query, body: checked as z.output<B> });
    },
  };
}
