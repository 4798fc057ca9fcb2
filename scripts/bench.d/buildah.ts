import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { run, runScript } from './command.ts';
import { makeDirectory, remove, type Workspace } from './workspace.ts';

/** Buildah with storage of its own in the workspace. */
export type Buildah = {
  /** Gives the id of the image. */
  pull(archive: string): Promise<string>;
  removeImage(id: string): Promise<void>;
  /** from, run and commit: the layer is then an uncompressed blob of an OCI layout that has the base's layer already. */
  build(image: string, script: string): Promise<void>;
  /** Removes the containers of earlier builds, but not the layout. */
  removeContainers(): Promise<void>;
} & AsyncDisposable;

const BUILD = `
container=$(buildah "\${@:4}" from --pull-never "$1")
buildah "\${@:4}" run --isolation chroot "$container" -- bash -e -c "$2"
buildah "\${@:4}" commit --quiet --disable-compression --signature-policy "$3/policy.json" "$container" "oci:$3/oci:latest"
`;

/** The overlay driver of the kernel is the fastest that works as root. */
export async function openBuildah(workspace: Workspace, name: string): Promise<Buildah> {
  const dir = makeDirectory(workspace, name);
  const policy = path.join(dir, 'policy.json');
  writeFileSync(policy, '{"default":[{"type":"insecureAcceptAnything"}]}');
  const storage = ['--root', path.join(dir, 'root'), '--runroot', path.join(dir, 'run'), '--storage-driver', 'overlay'];
  // What it would keep elsewhere, such as the blobs of a commit, is on the same filesystem as ours.
  const env = { HOME: dir, TMPDIR: makeDirectory(workspace, `${name}-tmp`) };
  const buildah = async (...args: string[]): Promise<string> => await run(['buildah', ...storage, ...args], { env });
  return {
    pull: async (archive) => await buildah('pull', '--quiet', '--signature-policy', policy, `docker-archive:${archive}`),
    removeImage: async (id) => {
      await buildah('rmi', id);
    },
    build: async (image, script) => {
      await runScript(BUILD, [image, script, dir, ...storage], { env });
    },
    removeContainers: async () => {
      await buildah('rm', '--all');
    },
    [Symbol.asyncDispose]: async () => {
      // Its storage is mounted on itself as long as it is in use.
      await runScript('for dir in "$1"/root/overlay "$1"/root; do if mountpoint -q "$dir"; then umount -R "$dir"; fi; done', [dir]);
      await remove(dir, env.TMPDIR);
    },
  };
}
