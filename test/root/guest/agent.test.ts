import { execFileSync } from 'node:child_process';
import { chmodSync, lutimesSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { AGENT } from '../../../src/guest/guest-image.ts';
import { readTar } from '../../helpers/engine.ts';
import { makeBusyboxDisk, makeDisk, makeScratchDisk } from '../../helpers/guest-disks.ts';
import { listResult, MEMORY, MIB, openTestGuest, xattrsOf } from '../../helpers/guest-job.ts';
import type { GuestFrame, GuestJob } from '../../helpers/guest-vm.ts';
import { requires } from '../../helpers/requires.ts';

t.setTimeout(300_000);
requires(t, 'setfattr');
const { dir, base, run } = await openTestGuest(t, AGENT);

t.test('agent runs a script as the request says', async (t) => {
  const files = makeBusyboxDisk(path.join(dir, 'files'));
  const script = `
    echo "$HOME $(hostname) $(umask) $(pwd) $(id -u) $$"; cat; echo "\${A-unset}|$(printenv B)"
    ls -ld /dev/rootlayer/script; ls /dev/rootlayer/files; ulimit -f -c -n; date +%s
    cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; cut -d: -f3 /proc/self/cgroup; cat /sys/class/net/lo/operstate
    echo trouble >&2; echo direct > /dev/stdout; exit 7
    # ${'x'.repeat(70_000)}`;
  const ran = await run(script, { files, records: [['hostname', 'some-job']], env: ['B=two words'] });
  const now = Math.floor(Date.now() / 1000);
  const lines = ran.stdout.split('\n');
  const clock = Number(lines.splice(7, 1)[0]);
  t.strictSame(lines, [
    '/root some-job 0022 / 0 1',
    'unset|two words',
    `-r-xr-xr-x 1 root root ${script.length} ${lines[2]?.slice(29)}`,
    'busybox',
    'file size                   (blocks, -f) 65536',
    'core file size              (blocks, -c) 0',
    'open files                          (-n) 4096',
    String(MEMORY),
    '256',
    '/',
    'unknown',
    'direct',
    '',
  ]);
  t.ok(Math.abs(clock - now) < 5, `its clock is ${now - clock} s behind`);
  t.equal(ran.stderr, 'trouble\n');
  t.match(ran.end, { status: '7', oom: '0', 'forks-refused': '0', changed: '0' });
  t.ok(Number(ran.end['memory-peak']) > MIB && Number(ran.end['inodes-left']) > 10_000);
  t.match(ran.frames, /^M[12]+XF$/);
  t.strictSame(Object.keys(ran.marks).slice(0, 4), ['seeded', 'bound', 'mounted', 'started']);
});

t.test('agent sends what a script changed, exactly', async (t) => {
  const script = String.raw`
    cd /srv; echo one > a; ln a b; ln a ../opt/c; ln -s ../etc/passwd link; mkfifo pipe; mknod disk b 7 42; mknod zero c 1 5; chmod 666 zero
    head -c 1 /dev/zero > plain; chown 3000000000:1234 plain; chmod 6755 plain; touch -d '1969-12-31 23:59:58.25 UTC' plain
    cp /bin/true cap; setcap cap_net_raw+ep cap; touch -d '2050-01-01 00:00:00 UTC' cap
    setxattr() { perl -e 'my ($f, $n, $v) = (shift, shift, pack "H*", shift); syscall(188, $f, $n, $v, length $v, 0) == 0 or die $!' "$@"; }
    setxattr a user.a=b% 00ff62696e; setxattr a user.overlay 78
    setxattr b system.posix_acl_access 0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000400ffffffff
    printf 'raw' > "$(printf 'caf\351')"; mkdir -p "$(printf '%0250d' 7)/$(printf '%0250d' 8)"; : > "$(printf '%0250d' 7)/$(printf '%0250d' 8)/f"
    ln -s "$(printf '%0150d' 1)" longlink
    rm /etc/motd; rm -r /usr/share/perl5; rm -r /usr/share/doc/tar; mkdir /usr/share/doc/tar; echo new > /usr/share/doc/tar/x
    mv /var/mail /var/post; perl -e 'use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0); bind($s, pack_sockaddr_un("sock")) or die $!' 
    truncate -s 3M sparse; printf end >> sparse`;
  const ran = await run(script);
  t.equal(ran.stderr, '');
  t.match(ran.end, { status: '0', changed: '1' });
  t.match(ran.frames, /^M1?XTF$/);
  const seen = listResult(ran.tar);
  const long = `./srv/${'7'.padStart(250, '0')}/${'8'.padStart(250, '0')}/`;
  t.match(seen, {
    './srv/link': 'symlink 777 0:0 ../etc/passwd',
    './srv/pipe': 'fifo 644 0:0',
    './srv/disk': 'block 644 0:0 7:42',
    './srv/zero': 'char 666 0:0 1:5',
    './srv/plain': /^file 6755 3000000000:1234/,
    './srv/caf\xe9': 'file 644 0:0 raw',
    './srv/longlink': `symlink 777 0:0 ${'1'.padStart(150, '0')}`,
    [long]: 'directory 755 0:0',
    [`${long}f`]: 'file 644 0:0',
    './etc/motd': 'char 0 0:0 0:0',
    './usr/share/perl5': 'char 0 0:0 0:0',
    './usr/share/doc/tar/x': 'file 644 0:0 new',
    './var/mail': 'char 0 0:0 0:0',
  });
  const links = ['./opt/c', './srv/a', './srv/b'].map((name) => seen[name]?.split(' ')[0]);
  t.equal(links.filter((type) => type === 'hardlink').length, 2, 'one file has three names');
  const first = ['./opt/c', './srv/a', './srv/b'].find((name) => seen[name]?.startsWith('file')) ?? '';
  t.equal(seen[first], 'file 664 0:0 one');
  t.notOk('./srv/sock' in seen, 'sockets are left out');
  t.notOk(Object.keys(seen).some((name) => name.startsWith('./dev/') || name.startsWith('./proc/')));
  t.strictSame(xattrsOf(ran.tar, './usr/share/doc/tar/'), { 'trusted.overlay.opaque': '79' });
  t.strictSame(xattrsOf(ran.tar, './srv/cap'), { 'security.capability': '0100000200200000000000000000000000000000' });
  t.strictSame(Object.keys(xattrsOf(ran.tar, first)), ['system.posix_acl_access', 'user.a=b%', 'user.overlay']);
  t.equal(xattrsOf(ran.tar, first)['user.a=b%'], '00ff62696e');
  const times = Object.fromEntries(
    readTar(ran.tar).map(({ header }) => [header.name.toString('latin1'), [header.mtimeSec, header.mtimeNsec]]),
  );
  t.strictSame(times['./srv/plain'], [-2, 250_000_000]);
  t.strictSame(times['./srv/cap'], [2_524_608_000, 0]);
  t.equal(readTar(ran.tar).find(({ header }) => header.name.equals(Buffer.from('./srv/sparse')))?.body.length, 3 * MIB + 3);
  t.equal(Object.keys(seen)[0], './');
});

t.test('agent sends no result of a script that changed nothing, and one of the root alone', async (t) => {
  const same = await run('touch /dev/shm/x; cat /etc/passwd');
  t.match(same.end, { status: '0', changed: '0' });
  t.equal(same.frames, 'M1XF');
  const other = await run('chmod 700 /');
  t.match(other.end, { status: '0', changed: '1' });
  t.strictSame(listResult(other.tar), { './': 'directory 700 0:0' });
});

t.test('agent stacks layers with deletions, and takes the attributes of the image', async (t) => {
  const above = makeDisk(path.join(dir, 'above'), (tree) => {
    mkdirSync(path.join(tree, 'etc/apt'), { recursive: true });
    mkdirSync(path.join(tree, 'proc'), { mode: 0o511 });
    execFileSync('mknod', [path.join(tree, 'etc/hosts'), 'c', '0', '0']);
    execFileSync('mknod', [path.join(tree, 'sys'), 'c', '0', '0']);
    writeFileSync(path.join(tree, 'etc/apt/only'), '');
    execFileSync('setfattr', ['-n', 'trusted.overlay.opaque', '-v', 'y', path.join(tree, 'etc/apt')]);
    execFileSync('setfattr', ['-n', 'user.of-root', '-v', 'kept', tree]);
    chmodSync(tree, 0o751);
    lutimesSync(tree, 1000, 1_000_000_000.5);
  });
  const script = `ls /etc/apt; ls /etc/hosts || echo deleted; umount -l /sys /proc; stat -c '%a %n' / /proc /sys /dev; stat -c %.1Y /`;
  const ran = await run(script, { lowers: [above, base] });
  t.strictSame(ran.stdout.split('\n'), ['only', 'deleted', '751 /', '511 /proc', '755 /sys', '755 /dev', '1000000000.5', '']);
  t.match(ran.end, { status: '0' });
});

t.test('agent runs a script on no layers', async (t) => {
  const files = makeBusyboxDisk(path.join(dir, 'files'));
  const program: GuestJob['records'] = [
    ['exec', '/bin/bash'],
    ['exec', '/dev/rootlayer/files/busybox'],
    ['arg', 'sh'],
    ['arg', '/dev/rootlayer/script'],
  ];
  const ran = await run('echo here; echo x > /x', { lowers: [], files, program });
  t.equal(ran.stdout, 'here\n');
  t.strictSame(listResult(ran.tar), { './': 'directory 755 0:0', './x': 'file 644 0:0 x' });
});

t.test('agent names the limit that ended a script', async (t) => {
  const memory = await run('tail /dev/zero; perl -e \'$x = "a" x 400_000_000\'');
  t.ok(Number(memory.end['oom']) > 0, 'a process was ended for want of memory');
  t.equal(Math.round(Number(memory.end['memory-peak']) / MIB), 192);
  const pids = await run("perl -e 'for (1..300) { defined(my $p = fork) or die $!; $p or sleep 100 }'", { records: [['pids', 40]] });
  t.not(pids.end['status'], '0');
  t.ok(Number(pids.end['forks-refused']) > 0, 'a process was refused');
  t.equal(pids.end['pids-peak'], '40');
  const disk = await run('head -c 60000000 /dev/zero > /a', { scratchMib: 32 });
  t.match(disk.end, { status: '1', 'bytes-left': '0' });
  t.match(disk.stderr, /No space left/);
});

t.test('agent gives a terminal', async (t) => {
  let shown = '';
  const onFrame: GuestJob['onFrame'] = ({ type, payload }: GuestFrame, guest) => {
    if (type !== '1') return;
    const before = shown;
    shown += payload.toString('latin1');
    const isNew = (text: string): boolean => shown.includes(text) && !before.includes(text);
    if (isNew('name?')) guest.send('I', 'Ada\n');
    if (isNew('hello Ada')) guest.send('W', Buffer.from([40, 0, 120, 0]));
    if (isNew('40 120')) guest.send('I');
  };
  const script = `tty; test -t 0 -a -t 1 -a -t 2; stty size; trap 'stty size' WINCH
    read -r -p 'name?' name; echo "hello $name"; while ! read -r -t 0.2 line; do [ $? -gt 128 ] || break; done; echo ended; tty < /dev/tty`;
  const ran = await run(script, { onFrame, records: [['terminal', '33 101']] });
  t.strictSame(shown.replaceAll('\r', '').split('\n'), [
    '/dev/pts/0',
    '33 101',
    'name?Ada',
    'hello Ada',
    '40 120',
    'ended',
    '/dev/tty',
    '',
  ]);
  t.match(ran.end, { status: '0' });
});

t.test('agent leaves all to root that a machine can do', async (t) => {
  const script = `
    mknod /dev/null2 c 1 3; echo x > /dev/null2; mkdir /mnt/t; mount -t tmpfs none /mnt/t; umount /mnt/t
    truncate -s 8M /tmp/img; mkfs.ext4 -q -F /tmp/img; mount -o loop /tmp/img /mnt/t; echo in > /mnt/t/f; umount /mnt/t; mount -o ro,loop /tmp/img /mnt/t
    cat /mnt/t/f; unshare --user --map-root-user --mount --pid --fork --mount-proc sh -c 'id -u; echo $$; mount -t tmpfs n /mnt; ls /proc | grep -c "^[0-9]"'
    grep Cap /proc/self/status | sort -u -k2 | cut -f2; losetup -f --show /tmp/img; mount -t nosuch none /mnt/t 2>/dev/null || echo none; ip link show lo 2>/dev/null | grep -c UP || true
    rmdir /srv`;
  const ran = await run(script);
  t.equal(ran.stderr, '');
  const lines = ran.stdout.split('\n');
  t.strictSame(lines.slice(0, 4), ['in', '0', '1', '3']);
  t.ok(lines.includes('000001ffffffffff'), 'all capabilities');
  t.match(ran.end, { status: '0', changed: '1' }, 'a loop device and a mount that were left behind do no harm');
});

t.test('agent walks deep trees, and refuses longer paths than a layer can hold', async (t) => {
  const deep = await run(`perl -e 'for (1..1000) { mkdir "d"; chdir "d" or die } open F, ">f"'`);
  t.equal(readTar(deep.tar).at(-1)?.header.name.length, 2 + 2000 + 1);
  const long = await run(`perl -e 'my $n = "n" x 250; for (1..300) { mkdir $n; chdir $n or die } mkdir "x"'`);
  t.equal(long.error, 'path 36');
  t.match(long.frames, /^MXT?E$/);
});

t.test('agent tells the step that failed', async (t) => {
  t.equal((await run('', { program: [['exec', '/nowhere/sh']] })).error, 'exec 2');
  t.equal((await run('', { records: [['memory', '12x']] })).error, 'request 22');
  t.equal((await run('', { records: [['lower', 9]] })).error, 'disk 19');
  t.equal((await run('', { records: [['what', 'ever']] })).error, 'request 22');
  const damaged = makeScratchDisk(path.join(dir, 'damaged'));
  writeFileSync(damaged, Buffer.alloc(4096));
  t.equal((await run('', { lowers: [damaged] })).error, 'erofs 22');
});

t.test('agent passes on much output without keeping it', async (t) => {
  const ran = await run('head -c 40000000 /dev/zero; head -c 300000 /dev/zero >&2');
  t.strictSame([ran.stdout.length, ran.stderr.length], [40_000_000, 300_000]);
});
