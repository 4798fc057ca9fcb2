/** Where the daemon's log lines go; pino has this shape. Neither scripts, environments nor contents of files are ever given to it. */
export type Log = {
  info(fields: Record<string, unknown>, message: string): void;
  warn(fields: Record<string, unknown>, message: string): void;
  error(fields: Record<string, unknown>, message: string): void;
};
