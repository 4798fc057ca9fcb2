import { toRootlayerError } from '../../core/errors.ts';
import { NDJSON_TYPE } from '../ndjson.ts';
import { withProgress } from '../progress.ts';
import { type Answer, type Call, defineRoute, type Route } from '../route.ts';
import {
  contextSchema,
  imageDetailsSchema,
  imageFormatQuery,
  imageListSchema,
  imageParams,
  imageSchema,
  importLineSchema,
  importQuery,
  noQuery,
} from '../schema.ts';
import type { ImportOptions } from '../session.ts';

const importRoute = defineRoute({
  method: 'POST',
  path: '/v1/images',
  summary: 'Import an image: a docker-archive or a tar of an OCI layout, plain, gzip or zstd',
  params: noQuery,
  query: importQuery,
  body: { kind: 'stream', contentType: 'application/octet-stream', says: 'the archive' },
  isSubmission: true,
  answers: [
    {
      status: 201,
      says: `the image; with Accept: ${NDJSON_TYPE} the status is 200, and lines of progress come before it`,
      contents: { 'application/json': imageSchema },
    },
    { status: 200, says: 'progress, then the image or an error', contents: { [NDJSON_TYPE]: importLineSchema } },
  ],
  handle: async (call) => {
    const { name = null, select = null, shared } = call.query;
    const options = { name, select, shared };
    if (call.request.headers.accept?.includes(NDJSON_TYPE)) return { kind: 'lines', lines: importLines(call, options) };
    const image = await call.engine.importImage(call.caller, call.upload, options, () => {}, call.signal);
    return { kind: 'json', status: 201, body: image, location: `/v1/images/${image.id}` };
  },
});

/** An error before the first line has its own status; later ones are a line, since the status is sent. */
async function* importLines(call: Call<unknown, unknown, unknown>, options: ImportOptions): AsyncGenerator<unknown, void, undefined> {
  let hasBegun = false;
  try {
    const steps = withProgress((progress) => call.engine.importImage(call.caller, call.upload, options, progress, call.signal));
    for await (const step of steps) {
      hasBegun = true;
      yield step.type === 'progress' ? { type: 'progress', ...step.progress } : { type: 'result', image: step.result };
    }
  } catch (error) {
    const known = toRootlayerError(error);
    if (!hasBegun || known.code === 'E_INTERNAL') throw error;
    yield { type: 'error', error: known.toBody() };
  }
}

const listRoute = defineRoute({
  method: 'GET',
  path: '/v1/images',
  summary: 'The images of the caller, and shared ones',
  params: noQuery,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the images', contents: { 'application/json': imageListSchema } }],
  handle: ({ engine, caller }) => ({ kind: 'json', status: 200, body: { images: engine.listImages(caller) } }),
});

const inspectRoute = defineRoute({
  method: 'GET',
  path: '/v1/images/:ref',
  summary: 'One image and its config',
  params: imageParams,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the image', contents: { 'application/json': imageDetailsSchema } }],
  handle: async ({ engine, caller, params }) => ({ kind: 'json', status: 200, body: await engine.inspectImage(caller, params.ref) }),
});

const removeRoute = defineRoute({
  method: 'DELETE',
  path: '/v1/images/:ref',
  summary: 'Remove a name, or the image with its last name',
  params: imageParams,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 204, says: 'removed' }],
  handle: async ({ engine, caller, params }): Promise<Answer> => {
    await engine.removeImage(caller, params.ref);
    return { kind: 'empty' };
  },
});

const exportRoute = defineRoute({
  method: 'GET',
  path: '/v1/images/:ref/archive',
  summary: 'An image as an archive, or its merged root as a tar',
  params: imageParams,
  query: imageFormatQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the archive', contents: { 'application/x-tar': null } }],
  handle: async ({ engine, caller, params, query, signal }) => ({
    kind: 'download',
    contentType: 'application/x-tar',
    download: await engine.exportImage(caller, params.ref, query.format, signal),
  }),
});

const contextRoute = defineRoute({
  method: 'POST',
  path: '/v1/contexts',
  summary: 'Upload files for a job: members below copy/ go into the root, those below files/ are shown to the script only',
  params: noQuery,
  query: noQuery,
  body: { kind: 'stream', contentType: 'application/x-tar', says: 'a plain tar' },
  isSubmission: true,
  answers: [{ status: 201, says: 'the id for contextId of a job', contents: { 'application/json': contextSchema } }],
  handle: async ({ engine, caller, upload, signal }) => ({
    kind: 'json',
    status: 201,
    body: { id: await engine.addContext(caller, upload, signal) },
  }),
});

export const imageRoutes: readonly Route[] = [importRoute, listRoute, inspectRoute, removeRoute, exportRoute, contextRoute];
