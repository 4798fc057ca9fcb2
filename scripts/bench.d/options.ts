import { parseArgs } from 'node:util';

/** What the command line asks for. */
export type Options = {
  rounds: number;
  only: RegExp;
  state: 'tmpfs' | 'ext4';
  format: 'text' | 'markdown' | 'json';
};

/** Reads the arguments. Throws an Error that says what is wrong. */
export function parseOptions(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      rounds: { type: 'string', default: '7' },
      only: { type: 'string', default: '' },
      state: { type: 'string', default: 'tmpfs' },
      markdown: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  });
  const { rounds, only, state, markdown, json } = values;
  if (!/^[1-9]\d{0,3}$/.test(rounds)) throw new Error(`Cannot use --rounds "${rounds}": want a whole number from 1 on`);
  if (state !== 'tmpfs' && state !== 'ext4') throw new Error(`Cannot use --state "${state}": want tmpfs or ext4`);
  return { rounds: Number(rounds), only: new RegExp(only), state, format: json ? 'json' : markdown ? 'markdown' : 'text' };
}
