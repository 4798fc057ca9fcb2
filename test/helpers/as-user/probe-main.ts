import { closeSync, lstatSync, openSync, readdirSync } from 'node:fs';
import process from 'node:process';

/**
 * A program that tries, over and over, to get at what it should not: arguments are the state directory and the name of a file, wanted at the places
 * where processes can show it. It prints a line for each thing that it reached, and at the end, when its standard input closes, the number of rounds.
 */
function main(): void {
  const [stateDir = '', name = ''] = process.argv.slice(2);
  const reached = new Set<string>();
  let rounds = 0;
  const round = (): void => {
    for (const found of [...stateDirectory(stateDir), ...processes(name), ...loopDevices()]) {
      if (reached.has(found)) continue;
      reached.add(found);
      process.stdout.write(`${found}\n`);
    }
    rounds += 1;
  };
  const timer = setInterval(round, 5);
  process.stdin.resume().on('end', () => {
    clearInterval(timer);
    process.stdout.write(`rounds ${rounds}\n`);
  });
}

function stateDirectory(stateDir: string): string[] {
  return ['', '/layers', '/ingest', '/uppers', '/results', '/jobs', '/blobs/sha256', '/contexts', '/trash']
    .filter((below) => works(() => readdirSync(stateDir + below)))
    .map((below) => `directory ${stateDir}${below}`);
}

function processes(name: string): string[] {
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry));
  return pids.flatMap((pid) =>
    ['root', 'cwd']
      .map((link) => `/proc/${pid}/${link}/${name}`)
      .filter((file) => works(() => lstatSync(file)))
      .map((file) => `file ${file}`),
  );
}

function loopDevices(): string[] {
  return readdirSync('/dev')
    .filter((entry) => /^loop\d+$/.test(entry))
    .filter((entry) => works(() => closeSync(openSync(`/dev/${entry}`, 'r'))))
    .map((entry) => `device /dev/${entry}`);
}

function works(attempt: () => unknown): boolean {
  try {
    attempt();
    return true;
  } catch {
    return false;
  }
}

main();
