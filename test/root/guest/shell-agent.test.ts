import t from 'tap';
import { makeBusyboxDisk } from '../../helpers/guest-disks.ts';
import { listResult, openTestGuest, xattrsOf } from '../../helpers/guest-job.ts';

t.setTimeout(300_000);
const { dir, run } = await openTestGuest(t, '/nowhere');

t.test('the shell agent runs a script as the request says', async (t) => {
  const files = makeBusyboxDisk(`${dir}/files`);
  const script = `echo "$HOME $(hostname) $(umask) $(pwd) $(id -u) $$"; cat; printf '%s|' "$B" "$C"; ls /dev/rootlayer/files; ulimit -f; date +%s
    mkdir /mnt/t; mount -t tmpfs none /mnt/t; echo direct > /dev/stdout; echo trouble >&2; exit 7`;
  const ran = await run(script, { files, env: ['B=two words', 'C=a\n\nb\n'], records: [['hostname', 'some-job']] });
  const lines = ran.stdout.split('\n');
  const clock = Number(lines.splice(6, 1)[0]);
  t.strictSame(lines, ['/root some-job 0022 / 0 1', 'two words|a', '', 'b', '|busybox', '65536', 'direct', '']);
  t.ok(Math.abs(clock - Date.now() / 1000) < 30, 'its clock is set');
  t.equal(ran.stderr, 'trouble\n');
  t.match(ran.end, { status: '7', oom: '0', changed: '0' });
  t.match(ran.frames, /^M[12]+XF$/);
});

t.test('the shell agent sends what a script changed', async (t) => {
  const script = String.raw`cd /srv; echo one > a; ln a b; mknod disk b 7 42; mkfifo pipe; touch -d '1969-12-31 23:59:58.25 UTC' pipe; printf raw > "$(printf 'caf\351')"
    chown 3000000000:1234 pipe; cp /bin/true cap; setcap cap_net_raw+ep cap
    rm /etc/motd; rm -r /usr/share/doc/tar; mkdir /usr/share/doc/tar; : > "$(printf '%0250d' 7)"; truncate -s 4096 image; losetup -f --show image`;
  const ran = await run(script);
  t.match(ran.end, { status: '0', changed: '1' });
  t.match(ran.frames, /^M1XTF$/);
  const seen = listResult(ran.tar);
  t.match(seen, {
    './': 'directory 755 0:0',
    './srv/disk': 'block 644 0:0 7:42',
    './srv/pipe': 'fifo 644 3000000000:1234',
    './srv/caf\xe9': 'file 644 0:0 raw',
    './etc/motd': 'char 0 0:0 0:0',
    [`./srv/${'7'.padStart(250, '0')}`]: 'file 644 0:0',
  });
  t.strictSame(['./srv/a', './srv/b'].map((name) => seen[name]?.startsWith('hardlink')).filter(Boolean), [true], 'one file has two names');
  t.strictSame(xattrsOf(ran.tar, './usr/share/doc/tar/'), { 'trusted.overlay.opaque': '79' });
  t.strictSame(xattrsOf(ran.tar, './srv/cap'), { 'security.capability': '0100000200200000000000000000000000000000' });
});

t.test('the shell agent sends no result of a script that changed nothing, and tells what it cannot do', async (t) => {
  const same = await run('cat /etc/passwd > /dev/null');
  t.match(same.end, { status: '0', changed: '0' });
  t.equal(same.frames, 'MXF');
  t.equal((await run('', { records: [['terminal', '24 80']] })).error, 'terminal 95');
  t.equal((await run('', { program: [['exec', '/nowhere/sh']] })).error, 'exec 2');
});
