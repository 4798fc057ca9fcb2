import { assertNever } from '../../core/assert-never.ts';
import { parseJobId } from '../../core/ids.ts';
import type { Compression } from '../../core/image.ts';
import { type JobEvent, jobRequestSchema, terminalSizeSchema } from '../../core/job.ts';
import { MAX_INPUT_BYTES, readInputBody } from '../body.ts';
import { NDJSON_TYPE } from '../ndjson.ts';
import { type Answer, defineRoute, type Route } from '../route.ts';
import {
  compressionQuery,
  eventSchema,
  eventsQuery,
  imageFormatQuery,
  jobListSchema,
  jobParams,
  jobSchema,
  logQuery,
  noQuery,
} from '../schema.ts';
import type { LogStream } from '../session.ts';

const submitRoute = defineRoute({
  method: 'POST',
  path: '/v1/jobs',
  summary: 'Run a script on a base image',
  params: noQuery,
  query: noQuery,
  body: { kind: 'json', schema: jobRequestSchema },
  isSubmission: true,
  answers: [{ status: 201, says: 'the job, queued', contents: { 'application/json': jobSchema } }],
  handle: ({ engine, caller, body }) => {
    const job = engine.submit(caller, body);
    return { kind: 'json', status: 201, body: job, location: `/v1/jobs/${job.id}` };
  },
});

const listRoute = defineRoute({
  method: 'GET',
  path: '/v1/jobs',
  summary: 'The jobs of the caller',
  params: noQuery,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the jobs', contents: { 'application/json': jobListSchema } }],
  handle: ({ engine, caller }) => ({ kind: 'json', status: 200, body: { jobs: engine.listJobs(caller) } }),
});

const showRoute = defineRoute({
  method: 'GET',
  path: '/v1/jobs/:id',
  summary: 'One job',
  params: jobParams,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the job', contents: { 'application/json': jobSchema } }],
  handle: ({ engine, caller, params }) => ({ kind: 'json', status: 200, body: engine.getJob(caller, parseJobId(params.id)) }),
});

const cancelRoute = defineRoute({
  method: 'POST',
  path: '/v1/jobs/:id/cancel',
  summary: 'End a job; answers once it has ended',
  params: jobParams,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the job in its final state', contents: { 'application/json': jobSchema } }],
  handle: async ({ engine, caller, params }) => ({
    kind: 'json',
    status: 200,
    body: await engine.cancelJob(caller, parseJobId(params.id)),
  }),
});

const removeRoute = defineRoute({
  method: 'DELETE',
  path: '/v1/jobs/:id',
  summary: 'Remove a job that has ended, with its log and layer',
  params: jobParams,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 204, says: 'removed' }],
  handle: async ({ engine, caller, params }): Promise<Answer> => {
    await engine.removeJob(caller, parseJobId(params.id));
    return { kind: 'empty' };
  },
});

const eventsRoute = defineRoute({
  method: 'GET',
  path: '/v1/jobs/:id/events',
  summary: 'What happened in a job: a replay, then live; the last event is "end"',
  params: jobParams,
  query: eventsQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'one event a line', contents: { [NDJSON_TYPE]: eventSchema } }],
  handle: ({ engine, caller, params, query, signal }) => ({
    kind: 'lines',
    lines: engine.events(caller, parseJobId(params.id), query.from, query.follow, signal),
  }),
});

const logRoute = defineRoute({
  method: 'GET',
  path: '/v1/jobs/:id/log',
  summary: 'What the script printed, byte by byte',
  params: jobParams,
  query: logQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the log', contents: { 'text/plain': null } }],
  handle: ({ engine, caller, params, query, signal }) => ({
    kind: 'bytes',
    contentType: 'text/plain; charset=utf-8',
    chunks: logBytes(engine.events(caller, parseJobId(params.id), 1, query.follow, signal), query.stream),
  }),
});

async function* logBytes(events: AsyncIterable<JobEvent>, wanted: LogStream): AsyncGenerator<Buffer, void, undefined> {
  for await (const event of events) {
    if (event.type !== 'log' || (wanted !== 'both' && wanted !== event.stream) || event.data === '') continue;
    yield Buffer.from(event.data, event.encoding ?? 'utf8');
  }
}

const inputRoute = defineRoute({
  method: 'POST',
  path: '/v1/jobs/:id/terminal/input',
  summary: "Type bytes at a running job's terminal; none are the end of its input",
  params: jobParams,
  query: noQuery,
  body: { kind: 'stream', contentType: 'application/octet-stream', says: `the bytes, at most ${MAX_INPUT_BYTES}` },
  isSubmission: false,
  answers: [{ status: 204, says: 'taken' }],
  handle: async ({ engine, caller, params, request, signal }): Promise<Answer> => {
    await engine.sendInput(caller, parseJobId(params.id), await readInputBody(request, signal));
    return { kind: 'empty' };
  },
});

const sizeRoute = defineRoute({
  method: 'PUT',
  path: '/v1/jobs/:id/terminal/size',
  summary: "Set the size of a running job's terminal, in characters",
  params: jobParams,
  query: noQuery,
  body: { kind: 'json', schema: terminalSizeSchema },
  isSubmission: false,
  answers: [{ status: 204, says: 'set' }],
  handle: async ({ engine, caller, params, body }): Promise<Answer> => {
    await engine.resizeTerminal(caller, parseJobId(params.id), body);
    return { kind: 'empty' };
  },
});

const layerRoute = defineRoute({
  method: 'GET',
  path: '/v1/jobs/:id/layer',
  summary: 'The layer that a job made',
  params: jobParams,
  query: compressionQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [
    {
      status: 200,
      says: 'the layer; Repr-Digest as a header, or as a trailer when the bytes are made on the way',
      contents: { 'application/x-tar': null, 'application/gzip': null, 'application/zstd': null },
    },
  ],
  handle: async ({ engine, caller, params, query, signal }) => ({
    kind: 'download',
    contentType: layerType(query.compression),
    download: await engine.openLayer(caller, parseJobId(params.id), query.compression, signal),
  }),
});

function layerType(compression: Compression): string {
  switch (compression) {
    case 'none':
      return 'application/x-tar';
    case 'gzip':
      return 'application/gzip';
    case 'zstd':
      return 'application/zstd';
    default:
      return assertNever(compression);
  }
}

const imageRoute = defineRoute({
  method: 'GET',
  path: '/v1/jobs/:id/image',
  summary: "The base image with the job's layer on top",
  params: jobParams,
  query: imageFormatQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the archive', contents: { 'application/x-tar': null } }],
  handle: async ({ engine, caller, params, query, signal }) => ({
    kind: 'download',
    contentType: 'application/x-tar',
    download: await engine.openJobImage(caller, parseJobId(params.id), query.format, signal),
  }),
});

const layerJsonRoute = defineRoute({
  method: 'GET',
  path: '/v1/jobs/:id/layer-json',
  summary: 'The file "json" of the layer directory: the config with the tarsum as checksum',
  params: jobParams,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the document, to be stored byte by byte', contents: { 'application/json': null } }],
  handle: async ({ engine, caller, params }) => ({
    kind: 'text',
    contentType: 'application/json; charset=utf-8',
    text: await engine.layerJson(caller, parseJobId(params.id)),
  }),
});

export const jobRoutes: readonly Route[] = [
  submitRoute,
  listRoute,
  showRoute,
  cancelRoute,
  removeRoute,
  eventsRoute,
  logRoute,
  inputRoute,
  sizeRoute,
  layerRoute,
  imageRoute,
  layerJsonRoute,
];
