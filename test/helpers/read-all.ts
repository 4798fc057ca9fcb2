import { Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';

/** Reads a pipe to its end; its descriptor is closed then. */
export async function readAll(fd: number): Promise<Buffer> {
  return await buffer(new Socket({ fd, readable: true, writable: false }));
}
