import { execFileSync } from 'node:child_process';
import type { TreeItem } from '../../helpers/random-ops.ts';

/** Makes a small tree with something of everything that a layer can hold, in an empty directory. Needs root. */
export function makeBaseTree(directory: string): void {
  execFileSync('bash', ['-c', SCRIPT], { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
}

/** What is in the tree, for random operations; the device is left alone, as jobs cannot make one. */
export const BASE_ITEMS: readonly TreeItem[] = [
  ...['bin', 'etc', 'etc/conf.d', 'etc/empty', 'usr', 'usr/lib', 'usr/lib/deep', 'usr/lib/deep/er', 'var', 'var/log', 'var/odd', 'tmp'].map(
    (path): TreeItem => ({ path, type: 'directory' }),
  ),
  ...['bin/tool', 'bin/setuid', 'bin/ping', 'etc/passwd', 'etc/hosts', 'etc/attrs', 'etc/acl', 'etc/nothing', 'var/hole', 'top'].map(
    (path): TreeItem => ({ path, type: 'file' }),
  ),
  ...['usr/lib/one', 'usr/lib/two', 'usr/lib/deep/three'].map((path): TreeItem => ({ path, type: 'file' })),
  ...Array.from({ length: 8 }, (_item, n): TreeItem => ({ path: `etc/conf.d/${n}`, type: 'file' })),
  ...Array.from({ length: 8 }, (_item, n): TreeItem => ({ path: `usr/lib/deep/er/lib${n}.so`, type: 'file' })),
  ...Array.from({ length: 4 }, (_item, n): TreeItem => ({ path: `var/log/log.${n}`, type: 'file' })),
  ...['lib', 'etc/dangling', 'usr/lib/up'].map((path): TreeItem => ({ path, type: 'symlink' })),
  { path: 'var/fifo', type: 'other' },
];

const SCRIPT = `
set -e
umask 022
mkdir -p bin etc/conf.d etc/empty usr/lib/deep/er var/log var/odd tmp dev
chmod 1777 tmp
chmod 700 var/log
chown 3:4 var/odd
echo tool > bin/tool; chmod 755 bin/tool
echo setuid > bin/setuid; chmod 4755 bin/setuid
echo ping > bin/ping; chmod 755 bin/ping; setfattr -n security.capability -v 0x0000000200040000000000000000000000000000 bin/ping
echo root:x:0:0 > etc/passwd
echo 127.0.0.1 > etc/hosts; chown 1000:1001 etc/hosts
echo attrs > etc/attrs; setfattr -n user.one -v 1 etc/attrs; setfattr -n user.binary -v 0x000a3d00ff etc/attrs
setfattr -n user.dir -v d etc
echo acl > etc/acl; setfacl -m u:1000:rw,g:5:r etc/acl
setfacl -d -m u:7:rwx etc/empty
: > etc/nothing
for n in 0 1 2 3 4 5 6 7; do echo "conf $n" > etc/conf.d/$n; head -c $((n * 700)) /dev/zero | tr '\\0' "$n" > usr/lib/deep/er/lib$n.so; done
for n in 0 1 2 3; do echo "log $n" > var/log/log.$n; chmod 640 var/log/log.$n; done
echo linked > usr/lib/one; ln usr/lib/one usr/lib/two; ln usr/lib/one usr/lib/deep/three
truncate -s 1M var/hole
echo top > top
ln -s usr/lib lib; ln -s /nowhere etc/dangling; ln -s ../.. usr/lib/up
mkfifo -m 622 var/fifo
mknod -m 666 dev/null c 1 3
echo bytes > "$(printf 'var/odd/\\377\\376')"; echo space > 'var/odd/a b'; echo line > "$(printf 'var/odd/new\\nline')"
mkdir -p "var/odd/$(printf 'x%.0s' {1..120})"; echo long > "var/odd/$(printf 'x%.0s' {1..120})/$(printf 'y%.0s' {1..120})"
chown -h 8:9 etc/dangling
find . -depth -exec touch -h -d @1600000000.25 {} +
touch -d @86400 etc/hosts; touch -h -d @1111111111.75 lib; touch -d @1500000000 .
`;
