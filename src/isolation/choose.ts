import type { Caller } from '../core/engine.ts';
import { RootlayerError } from '../core/errors.ts';
import type { Isolation, IsolationReport, JobRequest } from '../core/job.ts';

/** Who may use what; decided by the administrator who starts the engine. */
export type IsolationPolicy = {
  /** Callers whose scripts may be real root (`chroot`): uid 0 always, and these. */
  chrootUids: number[];
  /** Callers who may join the host's network: uid 0 always, and these. */
  networkUids: number[];
};

/** Chooses the isolation of a job and says why. Throws `E_FORBIDDEN` or `E_MISSING_FEATURE` for one that was asked for and cannot be. */
export function chooseIsolation(policy: IsolationPolicy, caller: Caller, request: JobRequest): IsolationReport {
  if (request.network === 'host' && caller.uid !== 0 && !policy.networkUids.includes(caller.uid)) {
    throw new RootlayerError('E_FORBIDDEN', "Cannot join the host's network: not allowed for this user, want --network none", {
      hint: 'Bring the files that the script needs with --copy or --file.',
    });
  }
  const refused: IsolationReport['refused'] = [];
  for (const isolation of candidates(request)) {
    const lacked = lacks(policy, caller, isolation);
    if (lacked === null)
      return { used: isolation, why: request.isolation === 'auto' ? 'the strongest that this machine offers' : 'asked for', refused };
    if (request.isolation !== 'auto') {
      throw new RootlayerError(
        isolation === 'chroot' ? 'E_FORBIDDEN' : 'E_MISSING_FEATURE',
        `Cannot use isolation "${isolation}": ${lacked}`,
        {
          hint: 'Use --isolation userns, which needs no trust.',
        },
      );
    }
    refused.push({ isolation, lacked });
  }
  throw new RootlayerError('E_MISSING_FEATURE', 'Cannot choose an isolation: none works here', { hint: 'See rootlayer doctor.' });
}

function candidates(request: JobRequest): Isolation[] {
  return request.isolation === 'auto' ? ['vm', 'userns'] : [request.isolation];
}

function lacks(policy: IsolationPolicy, caller: Caller, isolation: Isolation): string | null {
  switch (isolation) {
    case 'userns':
      return null;
    case 'chroot':
      return caller.uid === 0 || policy.chrootUids.includes(caller.uid)
        ? null
        : 'its script would be real root, which this user may not be';
    case 'vm':
      return 'this version cannot start virtual machines';
  }
}
