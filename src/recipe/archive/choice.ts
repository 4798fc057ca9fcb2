import { RootlayerError } from '../../core/errors.ts';
import { splitImageName } from '../../core/reference.ts';
import { type Candidate, chooseCandidate, describeCandidates, readableNames } from '../../store/ingest/candidate.ts';
import { hostPlatform } from '../../store/platform.ts';

/** Which image of an archive: by name, by tag, or by both; with neither the first. */
export type BaseChoice = { readonly name?: string | null | undefined; readonly tag?: string | null | undefined };

/** Tells whether it is left open which image. */
export function isUnnamed({ name, tag }: BaseChoice): boolean {
  return (name ?? null) === null && (tag ?? null) === null;
}

/** Gives the image that is meant; `file` is for messages. Throws `E_NOT_FOUND` and `E_IMAGE_AMBIGUOUS`, both listing what there is. */
export function choose(candidates: readonly Candidate[], choice: BaseChoice, file: string): Candidate {
  const matching = candidates.filter((candidate) => isMeant(candidate, choice));
  if (matching.length === 0) {
    const wanted = isUnnamed(choice) ? 'an image' : `an image with ${wordsOf(choice)}`;
    throw new RootlayerError('E_NOT_FOUND', `Cannot find ${wanted} in ${JSON.stringify(file)}: it holds ${describeCandidates(candidates)}`);
  }
  const [first] = fittingPlatform(matching);
  if (first !== undefined && isUnnamed(choice)) return first;
  const chosen = chooseCandidate(matching, null, hostPlatform());
  return matching.find((candidate) => candidate.digests[0] === chosen.digests[0]) ?? chosen;
}

/** Gives the candidates for this machine's platform or for none in particular; all when there is none. */
export function fittingPlatform(candidates: readonly Candidate[]): readonly Candidate[] {
  const fitting = candidates.filter(({ platform }) => platform === null || platform === hostPlatform());
  return fitting.length > 0 ? fitting : candidates;
}

function isMeant(candidate: Candidate, choice: BaseChoice): boolean {
  const { name, tag } = { name: choice.name ?? null, tag: choice.tag ?? null };
  if (name === null && (tag === null || candidate.tags.includes(tag))) return true;
  const wanted = name === null ? null : splitImageName(name).name;
  return candidate.names.some((own) => {
    const parts = splitImageName(own);
    return (wanted === null || parts.name === wanted) && (tag === null || parts.tag === tag);
  });
}

function wordsOf({ name, tag }: BaseChoice): string {
  const words = [name == null ? '' : `the name ${JSON.stringify(name)}`, tag == null ? '' : `the tag ${JSON.stringify(tag)}`];
  return words.filter((word) => word !== '').join(' and ');
}

/** Gives all names of an image: it can be there more than once, under different ones. */
export function namesOf(candidates: readonly Candidate[], chosen: Candidate): string[] {
  const same = candidates.filter((candidate) => candidate.digests[0] === chosen.digests[0]);
  return readableNames(same.flatMap(({ names }) => names));
}
