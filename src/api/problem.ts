import { ERROR_CODES, type ErrorCode, RootlayerError, toRootlayerError } from '../core/errors.ts';

/** An error on the wire: problem details with rootlayer's own members. Source: RFC 9457, section 3. */
export type Problem = {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: ErrorCode;
  message: string;
  hint?: string;
  retryable: boolean;
};

export const PROBLEM_TYPE = 'application/problem+json';

/** Seconds a client should wait before it repeats a request that found everything taken. */
export const RETRY_AFTER_SEC = 1;

/** Gives an error as problem details. */
export function problemOf(error: RootlayerError): Problem {
  const { status, says } = ERROR_CODES[error.code];
  return { type: `urn:rootlayer:error:${error.code}`, title: says, status, detail: error.message, ...error.toBody() };
}

/**
 * Gives what a client may see of a thrown value: a RootlayerError as it is. Anything else is a defect whose text can hold what is none of the
 * client's business, so it gets the id under which the daemon's log has it.
 */
export function visibleError(thrown: unknown, requestId: string): RootlayerError {
  const error = toRootlayerError(thrown);
  if (error.code !== 'E_INTERNAL') return error;
  return new RootlayerError('E_INTERNAL', `Cannot finish request ${requestId}: a defect of rootlayer`, {
    hint: `the daemon's log has the details under "request": "${requestId}"`,
    cause: thrown,
  });
}

/** Gives a whole HTTP answer for a connection that gets no further: garbage, or one too many. */
export function rawProblem(error: RootlayerError, status: number = ERROR_CODES[error.code].status): string {
  const body = JSON.stringify({ ...problemOf(error), status });
  const retry = error.retryable ? `Retry-After: ${RETRY_AFTER_SEC}\r\n` : '';
  return (
    `HTTP/1.1 ${status} ${error.code}\r\nContent-Type: ${PROBLEM_TYPE}\r\n` +
    `Content-Length: ${Buffer.byteLength(body)}\r\n${retry}Connection: close\r\n\r\n${body}`
  );
}
