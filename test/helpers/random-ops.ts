/** A file of the tree that random operations work on. */
export type TreeItem = { path: string; type: 'file' | 'directory' | 'symlink' | 'other' };

/** Numbers from 0 to 1 that depend on the seed only (the mulberry32 generator). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Gives a bash script of `count` random operations over a tree: files, directories, links, owners, modes, times, attributes, deletions and all
 * of them in place of something else. Paths are relative to the current directory, so in a job it starts in `/`. It needs bash and coreutils,
 * and setfattr or perl for attributes; an operation that fails is passed over, and what may have become a fifo is not opened. The same seed
 * gives the same script.
 */
export function randomOperations(seed: number, tree: readonly TreeItem[], count: number): string {
  const model = new Model(seededRandom(seed), tree);
  const lines = Array.from({ length: count }, () => model.next());
  return [PRELUDE, ...lines.map((line) => `{ ${line}; } || :`), ''].join('\n');
}

/** `set_xattr NAME HEX PATH` and `remove_xattr NAME PATH`; the numbers are lsetxattr and lremovexattr. */
const PRELUDE = `
umask 022
case $(uname -m) in x86_64) lset=189 lremove=198 ;; *) lset=6 lremove=15 ;; esac
set_xattr() {
  if command -v setfattr > /dev/null; then setfattr -h -n "$1" -v "0x$2" -- "$3"; return; fi
  perl -e 'my ($call, $name, $hex, $path) = @ARGV; my $value = pack("H*", $hex); exit(syscall($call + 0, $path, $name, $value, length($value), 0) != 0)' \\
    "$lset" "$1" "$2" "$3"
}
remove_xattr() {
  if command -v setfattr > /dev/null; then setfattr -h -x "$1" -- "$2"; return; fi
  perl -e 'exit(syscall($ARGV[0] + 0, $ARGV[2], $ARGV[1]) != 0)' "$lremove" "$1" "$2"
}
`;

/** File capabilities of revision 2: cap_net_bind_service, and all the lower 32 with the effective flag. */
const CAPABILITIES = ['0000000200040000000000000000000000000000', '01000002ffffffff000000000000000000000000'];
const MODES = ['0600', '0644', '0755', '4755', '2755', '1777', '0000', '0700'];
const DATES = ['@0', '@1', '@315532800', '@1234567890', '@1700000000.5', '@4102444800', '@1600000000.999999999'];
/** As bash writes them; among them bytes that are no text, and names that look like options or like parts of paths. */
const ODD_NAMES = ["$'a b'", "$'new\\nline'", "$'\\xff\\xfe'", "'-rf'", "$'back\\\\slash'", "'.hidden'", "'é'", "'.w'", "'x=y'"];

type Operation = (model: Model) => string | null;

class Model {
  readonly random: () => number;
  /** By path as bash writes it. */
  readonly #items = new Map<string, TreeItem['type']>();
  #fresh = 0;

  constructor(random: () => number, tree: readonly TreeItem[]) {
    this.random = random;
    for (const { path, type } of tree) this.#items.set(quote(path), type);
  }

  next(): string {
    for (;;) {
      const line = this.pick(OPERATIONS)(this);
      if (line !== null) return line;
    }
  }

  pick<T>(list: readonly T[]): T {
    const item = list[Math.floor(this.random() * list.length)];
    if (item === undefined) throw new Error('Cannot pick from an empty list');
    return item;
  }

  /** A random path of one of these types, or null when there is none. */
  find(...types: readonly TreeItem['type'][]): string | null {
    const paths = [...this.#items].filter(([, type]) => types.includes(type)).map(([path]) => path);
    return paths.length === 0 ? null : this.pick(paths);
  }

  any(): string | null {
    return this.find('file', 'directory', 'symlink', 'other');
  }

  /** A path that is not there yet, in the root or any directory. */
  newPath(): string {
    const parent = this.random() < 0.15 ? null : this.find('directory');
    const name = this.random() < 0.2 ? this.pick(ODD_NAMES) : `'n${this.#fresh++}'`;
    const path = `${parent ?? '.'}/${name}`;
    return this.#items.has(path) ? this.newPath() : path;
  }

  add(path: string, type: TreeItem['type']): void {
    this.#items.set(path, type);
  }

  /** Forgets a path and all below it. */
  remove(path: string): void {
    for (const known of [...this.#items.keys()]) {
      if (known === path || known.startsWith(`${path}/`)) this.#items.delete(known);
    }
  }

  typeOf(path: string): TreeItem['type'] | undefined {
    return this.#items.get(path);
  }

  move(from: string, to: string): void {
    const moved = [...this.#items].filter(([known]) => known === from || known.startsWith(`${from}/`));
    this.remove(from);
    this.remove(to);
    for (const [known, type] of moved) this.#items.set(to + known.slice(from.length), type);
  }

  number(below: number): number {
    return Math.floor(this.random() * below);
  }
}

/** With a leading `./`, so that no name is taken for an option. */
function quote(path: string): string {
  return `./${path
    .split('/')
    .map((part) => `'${part.replaceAll("'", `'\\''`)}'`)
    .join('/')}`;
}

/** Makes something at a path that is free. */
function make(model: Model, path: string): string {
  switch (model.number(6)) {
    case 0:
      model.add(path, 'directory');
      return `mkdir ${path}`;
    case 1:
      model.add(path, 'symlink');
      return `ln -s 'target-${model.number(9)}' ${path}`;
    case 2:
      model.add(path, 'other');
      return `mkfifo ${path}`;
    case 3:
      model.add(path, 'file');
      return `truncate -s ${model.number(300_000)} ${path}`;
    default:
      model.add(path, 'file');
      return `echo 'made ${model.number(1000)}' > ${path}`;
  }
}

/** An operation on one path of these types. */
function on(types: TreeItem['type'][], line: (model: Model, path: string) => string | null): Operation {
  return (model) => {
    const path = model.find(...types);
    return path === null ? null : line(model, path);
  };
}

const ALL: TreeItem['type'][] = ['file', 'directory', 'symlink', 'other'];
const INODES: TreeItem['type'][] = ['file', 'directory', 'other'];

/** Replaces what is at a path with something of any type. */
const replace = on(ALL, (model, path) => {
  model.remove(path);
  return `rm -rf ${path} && ${make(model, path)}`;
});

/** Leaves the directory opaque in the upper, with or without something in it. */
const recreateDirectory = on(['directory'], (model, path) => {
  model.remove(path);
  model.add(path, 'directory');
  const child = model.random() < 0.7 ? ` && ${make(model, `${path}/'again'`)}` : '';
  return `rm -rf ${path} && mkdir ${path}${child}`;
});

const rename = on(ALL, (model, path) => {
  const to = model.random() < 0.7 ? model.newPath() : model.any();
  if (to === null || to === path || to.startsWith(`${path}/`) || path.startsWith(`${to}/`)) return null;
  model.move(path, to);
  return `rm -rf ${to} && mv -T ${path} ${to}`;
});

const link = on(['file', 'symlink', 'other'], (model, path) => {
  const to = model.newPath();
  model.add(to, model.typeOf(path) ?? 'file');
  return `ln -P ${path} ${to}`;
});

/** Copies a file up and puts everything back as it was: the layer must be as if nothing had happened. */
const touchAndRestore = on(['file'], (_model, path) => {
  const scratch = './.restore';
  return `[ -f ${path} ] && cp -a ${path} ${scratch} && echo more >> ${path} && cat ${scratch} > ${path} && touch -r ${scratch} ${path}; rm -f ${scratch}`;
});

const OPERATIONS: readonly Operation[] = [
  (model) => make(model, model.newPath()),
  (model) => make(model, model.newPath()),
  (model) => make(model, model.newPath()),
  on(['file'], (model, path) => `[ -f ${path} ] && echo 'written ${model.number(1000)}' > ${path}`),
  on(['file'], (model, path) => `[ -f ${path} ] && echo 'appended ${model.number(1000)}' >> ${path}`),
  on(['file'], (model, path) => `truncate -s ${model.number(20_000)} ${path}`),
  on(INODES, (model, path) => `chmod ${model.pick(MODES)} ${path}`),
  on(ALL, (model, path) => `chown -h ${model.number(65_536)}:${model.number(3000)} ${path}`),
  on(ALL, (model, path) => `touch -h -d ${model.pick(DATES)} ${path}`),
  // Never an empty value: Go's tar reader, and umoci with it, takes one for a deletion.
  on(['file', 'directory'], (model, path) => `set_xattr user.n${model.number(3)} ${'00ff0a3d'.slice(0, 2 + 2 * model.number(4))} ${path}`),
  on(['file', 'directory'], (model, path) => `remove_xattr user.n${model.number(3)} ${path}`),
  on(['file'], (model, path) => `set_xattr security.capability ${model.pick(CAPABILITIES)} ${path}`),
  link,
  link,
  rename,
  rename,
  replace,
  replace,
  recreateDirectory,
  recreateDirectory,
  touchAndRestore,
  on(ALL, (model, path) => {
    model.remove(path);
    return `rm -rf ${path}`;
  }),
  on(['directory'], (_model, path) => `rmdir ${path}`),
];
