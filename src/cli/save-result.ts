import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Fetched, Session } from '../api/session.ts';
import { assertNever } from '../core/assert-never.ts';
import type { JobId } from '../core/ids.ts';
import { unpackOciArchive } from './oci-dir.ts';
import type { ExportFormat, OutputPlan, ResultFormat } from './output-plan.ts';
import { type OnBytes, type Saved, saveDirectory, saveStream } from './save.ts';

/** The content of the file `VERSION` of a layer directory: three bytes. Source: Docker image specification v1.0, "VERSION". */
const LAYER_DIRECTORY_VERSION = '1.0';

/** Fetches the result of a job and writes it. */
export async function saveResult(
  session: Session,
  id: JobId,
  plan: OutputPlan<ResultFormat>,
  onBytes: OnBytes,
  signal: AbortSignal,
): Promise<Saved> {
  const { target, format } = plan;
  switch (format) {
    case 'tar':
      return saveStream(await session.openLayer(id, 'none', signal), target, onBytes, signal);
    case 'tar.gz':
      return saveStream(await session.openLayer(id, 'gzip', signal), target, onBytes, signal);
    case 'tar.zst':
      return saveStream(await session.openLayer(id, 'zstd', signal), target, onBytes, signal);
    case 'docker-archive':
    case 'oci-archive':
      return saveStream(await session.openJobImage(id, format, signal), target, onBytes, signal);
    case 'oci-dir':
      return saveOciDir(await session.openJobImage(id, 'oci-archive', signal), directoryOf(plan), onBytes);
    case 'dir':
      return saveLayerDir(session, id, directoryOf(plan), onBytes, signal);
    default:
      return assertNever(format);
  }
}

/** Fetches an image and writes it. */
export async function saveImage(
  session: Session,
  ref: string,
  plan: OutputPlan<ExportFormat>,
  onBytes: OnBytes,
  signal: AbortSignal,
): Promise<Saved> {
  const { target, format } = plan;
  if (format === 'oci-dir') return saveOciDir(await session.exportImage(ref, 'oci-archive', signal), directoryOf(plan), onBytes);
  return saveStream(await session.exportImage(ref, format, signal), target, onBytes, signal);
}

function directoryOf({ target }: OutputPlan<string>): string {
  return target.kind === 'stdout' ? '.' : target.path;
}

async function saveLayerDir(session: Session, id: JobId, dir: string, onBytes: OnBytes, signal: AbortSignal): Promise<Saved> {
  return saveDirectory(dir, async (draft) => {
    await writeFile(path.join(draft, 'json'), await session.layerJson(id));
    await writeFile(path.join(draft, 'VERSION'), LAYER_DIRECTORY_VERSION);
    const fetched = await session.openLayer(id, 'none', signal);
    return saveStream(fetched, { kind: 'file', path: path.join(draft, 'layer.tar') }, onBytes, signal);
  });
}

/** The digest is that of the archive the directory was unpacked from. */
function saveOciDir(fetched: Fetched, dir: string, onBytes: OnBytes): Promise<Saved> {
  return saveDirectory(dir, async (draft) => {
    let sizeBytes = 0;
    fetched.stream.on('data', (chunk: Buffer) => {
      sizeBytes += chunk.length;
      onBytes(sizeBytes, fetched.sizeBytes);
    });
    fetched.stream.pause();
    await unpackOciArchive(fetched.stream, draft);
    return { digest: await fetched.digest, sizeBytes };
  });
}
