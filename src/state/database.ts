import { rmSync } from 'node:fs';
import Sqlite from 'better-sqlite3';
import { RootlayerError } from '../core/errors.ts';
import { migrations } from './migrations.ts';

/** An open state database. Rows come as the schema of {@link migrations} has them. */
export type Database = Sqlite.Database;

/** A prepared statement of a {@link Database}. */
export type Statement = Sqlite.Statement;

/**
 * Opens the state database, made or brought up to date as needed; before an upgrade the whole of it is copied to `<file>.v<version>`. Every commit is
 * on disk when it returns. The caller closes it. Throws `E_STATE` for a file that is no database, is damaged, or comes from a newer rootlayer.
 * Source: SQLite documentation, "PRAGMA synchronous" and "Write-Ahead Logging".
 */
export function openDatabase(file: string, steps: readonly string[] = migrations): Database {
  const database = openFile(file);
  try {
    database.pragma('journal_mode = WAL');
    database.pragma('synchronous = FULL');
    database.pragma('foreign_keys = ON');
    database.pragma('busy_timeout = 5000');
    const damage = database.pragma('quick_check(1)', { simple: true });
    if (damage !== 'ok') throw stateError(file, `it is damaged (${String(damage)})`);
    migrate(database, file, steps);
    return database;
  } catch (error) {
    database.close();
    if (error instanceof Sqlite.SqliteError) throw stateError(file, error.message, error);
    throw error;
  }
}

function openFile(file: string): Database {
  try {
    return new Sqlite(file);
  } catch (error) {
    throw stateError(file, error instanceof Error ? error.message : String(error), error);
  }
}

function migrate(database: Database, file: string, steps: readonly string[]): void {
  const version = Number(database.pragma('user_version', { simple: true }));
  if (version > steps.length) {
    throw stateError(
      file,
      `it has version ${version} and this rootlayer knows up to ${steps.length}`,
      undefined,
      'Use the newer rootlayer that wrote it.',
    );
  }
  if (version > 0 && version < steps.length) copyBefore(database, `${file}.v${version}`);
  for (const [index, step] of steps.slice(version).entries()) {
    database.transaction(() => {
      database.exec(step);
      database.pragma(`user_version = ${version + index + 1}`);
    })();
  }
}

/** A plain copy of the file would miss what is still in the write-ahead log. */
function copyBefore(database: Database, copy: string): void {
  rmSync(copy, { force: true });
  database.prepare('VACUUM INTO ?').run(copy);
}

function stateError(file: string, why: string, cause?: unknown, hint?: string): RootlayerError {
  return new RootlayerError('E_STATE', `Cannot use state database "${file}": ${why}`, { cause, hint });
}
