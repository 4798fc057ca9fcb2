import http from 'node:http';
import process from 'node:process';
import { json } from 'node:stream/consumers';

/** One HTTP request as JSON; a body is sent as JSON, or as it is with another content type. */
export type PlainRequest = { method: string; path: string; body?: unknown; contentType?: string };

/** Its answer; `headers` without what changes from one to the next. `status` is 0 when there was no connection, and `body` says why. */
export type PlainAnswer = { status: number; headers: Record<string, unknown>; body: string };

/**
 * A program: reads `{ socket, requests }` from standard input, sends them one after the other, and prints the answers as JSON. It runs as another user,
 * and needs nothing but Node.
 */
async function main(): Promise<void> {
  const { socket, requests } = (await json(process.stdin)) as { socket: string; requests: PlainRequest[] };
  const answers: PlainAnswer[] = [];
  for (const request of requests) answers.push(await send(socket, request));
  process.stdout.write(JSON.stringify(answers));
}

const CHANGING_HEADERS = ['date', 'keep-alive', 'connection'];
const BODY_KEPT = 100_000;

function send(socketPath: string, { method, path, body, contentType = 'application/json' }: PlainRequest): Promise<PlainAnswer> {
  return new Promise((resolve) => {
    const headers = body === undefined ? {} : { 'content-type': contentType };
    const request = http.request({ socketPath, method, path, headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('latin1').on('data', (chunk: string) => {
        if (text.length < BODY_KEPT) text += chunk;
      });
      response.on('close', () => {
        const kept = Object.entries(response.headers).filter(([name]) => !CHANGING_HEADERS.includes(name));
        resolve({ status: response.statusCode ?? 0, headers: Object.fromEntries(kept), body: text });
      });
    });
    request.on('error', (error) => resolve({ status: 0, headers: {}, body: String(error) }));
    request.end(typeof body === 'string' ? body : body === undefined ? undefined : JSON.stringify(body));
  });
}

await main();
