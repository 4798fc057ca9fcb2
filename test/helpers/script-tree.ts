import { escapeName } from '../../src/core/names.ts';
import type { TreeEntry } from './tree.ts';

/**
 * Bash code that prints a listing of the tree at `$LIST_ROOT` (default `/`) to standard output, from within a job: the merged tree as the script
 * itself sees it. It needs perl and sha256sum. Mount points are left out. {@link parseListing} reads it.
 */
export const LIST_TREE = `
perl - "\${LIST_ROOT:-/}" <<'PERL'
use strict;
my $top = $ARGV[0];
my ($LIST, $GET) = \`uname -m\` =~ /^x86_64/ ? (195, 192) : (12, 9);
sub xattrs {
  my ($path) = @_;
  my $names = "\\0" x 65536;
  my $length = syscall($LIST, $path, $names, length $names);
  die "llistxattr $path: $!" if $length < 0;
  return join ',', map {
    my ($name, $value) = ($_, "\\0" x 65536);
    my $size = syscall($GET, $path, $name, $value, length $value);
    die "lgetxattr $path: $!" if $size < 0;
    sprintf '%s=%s', unpack('H*', $name), unpack('H*', substr $value, 0, $size);
  } sort split /\\0/, substr $names, 0, $length;
}
my (@entries, @files);
my $device = (lstat $top)[0];
sub visit {
  my ($path, $name) = @_;
  my @stat = lstat $path or die "lstat $path: $!";
  my ($dev, $ino, $mode, $nlink, $uid, $gid, $rdev, $size, $mtime) = @stat[0, 1, 2, 3, 4, 5, 6, 7, 9];
  my $type = $mode & 0170000;
  return if $type == 0040000 && $dev != $device;
  my $target = $type == 0120000 ? readlink $path : '';
  push @entries, [unpack('H*', $name), $type, $mode & 07777, $uid, $gid, $mtime, $size, $nlink, "$dev:$ino", $rdev, unpack('H*', $target), xattrs($path)];
  push @files, $path if $type == 0100000;
  return if $type != 0040000;
  opendir my $handle, $path or die "opendir $path: $!";
  my @names = sort grep { $_ ne '.' && $_ ne '..' } readdir $handle;
  closedir $handle;
  visit($path eq '/' ? "/$_" : "$path/$_", $name eq '' ? $_ : "$name/$_") for @names;
}
visit($top, '');
my @sums;
while (my @batch = splice @files, 0, 500) {
  open my $pipe, '-|', 'sha256sum', '-z', '--', @batch or die "sha256sum: $!";
  local $/ = "\\0";
  while (<$pipe>) { push @sums, substr $_, 0, 64; }
  close $pipe or die "sha256sum: status $?";
}
for my $entry (@entries) {
  print join(' ', map { $_ eq '' ? '-' : $_ } @$entry, $entry->[1] == 0100000 ? shift @sums : ''), "\\n";
}
PERL
`;

const TYPES = new Map<number, TreeEntry['type']>([
  [0o100000, 'file'],
  [0o040000, 'directory'],
  [0o120000, 'symlink'],
  [0o010000, 'fifo'],
  [0o140000, 'socket'],
  [0o020000, 'char'],
  [0o060000, 'block'],
]);

/** Reads what {@link LIST_TREE} printed, in the form that `listTree` gives. */
export function parseListing(text: string): TreeEntry[] {
  const firstNames = new Map<string, string>();
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => parseLine(line, firstNames));
}

function parseLine(line: string, firstNames: Map<string, string>): TreeEntry {
  const [name = '', typeBits, mode, uid, gid, mtime, size, nlink, inode = '', rdev, target = '', xattrs = '', sha256 = ''] = line
    .split(' ')
    .map((field) => (field === '-' ? '' : field));
  const path = name === '' ? '.' : escapeName(Buffer.from(name, 'hex'), 65_536);
  const type = TYPES.get(Number(typeBits)) ?? 'unknown';
  const entry: TreeEntry = {
    path,
    type,
    mode: Number(mode).toString(8).padStart(4, '0'),
    owner: `${uid}:${gid}`,
    mtimeSec: Number(mtime),
  };
  if (type === 'file') Object.assign(entry, { size: Number(size), sha256 });
  if (type === 'symlink') entry.target = escapeName(Buffer.from(target, 'hex'), 65_536);
  if (type === 'char' || type === 'block') entry.device = deviceOf(BigInt(rdev ?? 0));
  if (xattrs !== '') entry.xattrs = parseXattrs(xattrs);
  if (type !== 'directory' && Number(nlink) > 1) {
    const first = firstNames.get(inode);
    if (first === undefined) firstNames.set(inode, path);
    else entry.linkOf = first;
  }
  return entry;
}

function parseXattrs(text: string): Record<string, string> {
  return Object.fromEntries(
    text.split(',').map((pair) => {
      const [name = '', value = ''] = pair.split('=');
      return [escapeName(Buffer.from(name, 'hex')), value];
    }),
  );
}

/** The bits of a device number as stat(2) gives it. Source: gnu_dev_major(3). */
function deviceOf(rdev: bigint): string {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & ~0xffn);
  return `${major}:${minor}`;
}
