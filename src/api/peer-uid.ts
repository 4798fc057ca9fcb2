import type { Socket } from 'node:net';
import { getPeerCredentials } from '../host/libc.ts';

/** What the kernel gives for a peer that it knows nothing of: (uid_t) -1. */
const NO_UID = 0xffffffff;

/** Gives the uid at the other end of a connected Unix socket. Throws when it cannot be known. Source: socket(7), SO_PEERCRED. */
export function readPeerUid(socket: Socket): number {
  const { uid } = getPeerCredentials(descriptorOf(socket));
  if (uid === NO_UID) throw new Error('the kernel knows no uid for the connection');
  return uid;
}

/** Node shows a socket's descriptor nowhere but on its handle. */
function descriptorOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  if (typeof fd !== 'number' || fd < 0) throw new Error('the connection has no descriptor');
  return fd;
}
