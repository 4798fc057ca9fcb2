/**
 * The entry of a worker process that unpacks layers. Everything it will need is loaded here, before it is locked in; the thread starts
 * first, and the rest is loaded meanwhile.
 */
import { StreamHash } from './stream-hash.ts';

const starting = StreamHash.start();
const { serveUnpacking } = await import('./unpack-handler.ts');
await serveUnpacking(await starting);
