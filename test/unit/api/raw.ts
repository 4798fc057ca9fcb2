import { spawn } from 'node:child_process';
import http from 'node:http';
import net from 'node:net';

/** What came back on a connection, and whether the server closed it. */
export type RawAnswer = { text: string; isClosed: boolean };

/** Sends bytes as they are and gives what came within the time, or up to the close. */
export function sendRaw(socketPath: string, bytes: Buffer | string, waitMs = 5000): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(socketPath);
    let text = '';
    const finish = (isClosed: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ text, isClosed });
    };
    const timer = setTimeout(() => finish(false), waitMs);
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
    });
    socket.once('close', () => finish(true));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') reject(error);
    });
    socket.write(bytes);
  });
}

export type Reply = { status: number; headers: http.IncomingHttpHeaders; body: string };

/** One plain request. */
export function fetchFrom(
  socketPath: string,
  path: string,
  options: { method?: string; headers?: http.OutgoingHttpHeaders; body?: string | Buffer } = {},
): Promise<Reply> {
  const { method = 'GET', headers = {}, body } = options;
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, path, method, headers, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks).toString('utf8') });
      });
    });
    request.once('error', reject);
    request.end(body);
  });
}

/** The members of an error answer that clients match on. */
export function problemFields({ status, headers, body }: Reply): { status: number; type: string | undefined; code: unknown } {
  const problem: unknown = JSON.parse(body);
  const code: unknown = typeof problem === 'object' && problem !== null ? Reflect.get(problem, 'code') : undefined;
  return { status, type: headers['content-type'], code };
}

/** Runs curl as another user and gives its standard output. */
export function curlAs(uid: number, socketPath: string, args: readonly string[]): Promise<string> {
  const ids = ['--reuid', String(uid), '--regid', String(uid), '--clear-groups'];
  const child = spawn('setpriv', [...ids, 'curl', '-sS', '--max-time', '20', '--unix-socket', socketPath, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: '/usr/bin:/bin' },
  });
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString('utf8');
    });
    child.once('error', reject);
    child.once('close', () => resolve(text));
  });
}

/** Waits until the condition holds. */
export async function until(condition: () => boolean, what: string, waitMs = 10_000): Promise<void> {
  const deadline = performance.now() + waitMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export const SCRIPT = (text: string): string => Buffer.from(text).toString('base64');
