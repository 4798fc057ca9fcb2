#!/usr/bin/env node
import process from 'node:process';
import { readVersion } from '../api/version.ts';

const args = process.argv.slice(2);
if (args.length === 1 && (args[0] === '--version' || args[0] === '-V')) {
  process.stdout.write(`rootlayer ${readVersion()}\n`);
} else {
  const { main } = await import('./program.ts');
  // Something an engine or a socket left open must not keep a finished command alive.
  process.exit(await main(args));
}
