import process from 'node:process';
import { openApiDocument } from '../openapi.ts';
import { defineRoute, type Route } from '../route.ts';
import { featuresSchema, healthSchema, noQuery, versionSchema } from '../schema.ts';
import { imageRoutes } from './images.ts';
import { jobRoutes } from './jobs.ts';

const versionRoute = defineRoute({
  method: 'GET',
  path: '/v1/version',
  summary: 'The version of the daemon',
  params: noQuery,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the version', contents: { 'application/json': versionSchema } }],
  handle: ({ service }) => ({ kind: 'json', status: 200, body: { version: service.version, api: 'v1', node: process.version } }),
});

const healthRoute = defineRoute({
  method: 'GET',
  path: '/v1/health',
  summary: 'Whether the daemon takes work',
  params: noQuery,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'it is alive; "draining" takes no new work', contents: { 'application/json': healthSchema } }],
  handle: ({ service }) => ({
    kind: 'json',
    status: 200,
    body: { status: service.isDraining ? 'draining' : 'ok', uptimeSec: service.uptimeSec, connections: service.connections },
  }),
});

const featuresRoute = defineRoute({
  method: 'GET',
  path: '/v1/features',
  summary: 'What this machine offers, and the remedy for what it lacks',
  params: noQuery,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'the features', contents: { 'application/json': featuresSchema } }],
  handle: async ({ engine }) => ({ kind: 'json', status: 200, body: { features: await engine.features() } }),
});

const openApiRoute = defineRoute({
  method: 'GET',
  path: '/v1/openapi.json',
  summary: 'This document',
  params: noQuery,
  query: noQuery,
  body: { kind: 'none' },
  isSubmission: false,
  answers: [{ status: 200, says: 'an OpenAPI 3.1 document', contents: { 'application/json': null } }],
  handle: ({ service }) => ({ kind: 'json', status: 200, body: openApiDocument(routes, service.version) }),
});

/** Every route of the API. */
export const routes: readonly Route[] = [versionRoute, healthRoute, featuresRoute, openApiRoute, ...imageRoutes, ...jobRoutes];
