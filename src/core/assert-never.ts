/** Marks a `switch` over a union as complete: reaching it is a bug in rootlayer, never a bad input. */
export function assertNever(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
