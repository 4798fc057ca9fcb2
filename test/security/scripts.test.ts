import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { hostname } from 'node:os';
import t from 'tap';
import { closeTestEngine, openTestEngine, ROOT } from '../helpers/engine.ts';

/** Hostile scripts of the threat model, table S: each is run for real and must find its door shut. */
const env = await openTestEngine(t);

/** A script that prints OPEN for a door that is open; nothing else of its output counts. */
type Attack = { id: string; what: string; script: string; over?: Record<string, unknown> };

/** perl's syscall() with the numbers of x86-64; prints OPEN when the call is not refused. */
function denied(number: number, args = '0,0,0,0,0,0'): string {
  return `perl -e '$r = syscall(${number}, ${args}); print "OPEN ${number}\\n" if $r >= 0 || ($! != 1 && $! != 38);'`;
}

const ATTACKS: Attack[] = [
  {
    id: 'S01',
    what: 'no descriptor but 0, 1 and 2',
    script: 'perl -e \'for (3..65535) { print "OPEN $_\\n" if -l "/proc/self/fd/$_" }\'',
  },
  {
    id: 'S02',
    what: 'the working directory is the root',
    script: '[ "$(pwd -P)" = / ] || echo OPEN; [ "$(readlink /proc/self/cwd)" = / ] || echo OPEN',
  },
  {
    id: 'S03',
    what: "the program behind /proc/1/exe is the image's",
    script:
      'readlink /proc/1/exe | grep -Eq "^/usr/bin/(ba)?sh$|^/bin/(ba)?sh$" || echo OPEN; (echo x > /proc/1/exe) 2>/dev/null && echo OPEN',
  },
  {
    id: 'S04',
    what: 'no process of outside is seen',
    script:
      'for p in /proc/[0-9]*; do [ ${p#/proc/} -lt 1000 ] || echo OPEN $p; done; tr "\\0" " " < /proc/1/cmdline | grep -q "^/[a-z/]*bash -e /dev/rootlayer/script" || echo OPEN',
  },
  { id: 'S05', what: 'ptrace and process_vm calls are refused', script: [101, 310, 311].map((n) => denied(n)).join('\n') },
  {
    id: 'S06',
    what: 'kernel settings are out of reach',
    script: `for f in core_pattern modprobe hotplug hostname domainname randomize_va_space sysrq panic printk kptr_restrict; do
      p=/proc/sys/kernel/$f; [ -e $p ] && (echo x > $p) 2>/dev/null && echo OPEN $p; done
      for p in /proc/sysrq-trigger /sys/kernel/uevent_helper /proc/sys/vm/drop_caches /proc/sys/fs/binfmt_misc/register; do [ -e $p ] && (echo x > $p) 2>/dev/null && [ ! -c $p ] && echo OPEN $p; done; true`,
  },
  {
    id: 'S07',
    what: 'no control group filesystem can be written',
    script:
      'find /sys/fs/cgroup -mindepth 1 2>/dev/null | head -1 | sed s/^/OPEN/; mkdir /tmp/c; mount -t cgroup2 x /tmp/c 2>/dev/null && echo OPEN; true',
  },
  {
    id: 'S08',
    what: 'mount calls of both kinds are refused',
    script: [165, 166, 155, 428, 429, 430, 431, 432, 433, 442].map((n) => denied(n)).join('\n'),
  },
  {
    id: 'S09',
    what: 'no namespace can be made or entered',
    script: `for ns in -U -m -p -n -i -u -C; do unshare $ns true 2>/dev/null && echo OPEN $ns; done; ${denied(272, '0x10000000')}; ${denied(308, '0,0')}; true`,
  },
  {
    id: 'S10',
    what: 'no device node can be made',
    script:
      'for d in "b 8 0" "b 254 0" "c 1 1" "c 1 3" "c 0 0" "c 5 1" "c 10 200"; do mknod /tmp/n $d 2>/dev/null && echo OPEN $d; done; true',
  },
  { id: 'S11', what: 'files cannot be opened by handle', script: [303, 304].map((n) => denied(n)).join('\n') },
  { id: 'S12', what: 'keyrings are refused', script: [248, 249, 250].map((n) => denied(n)).join('\n') },
  { id: 'S13', what: 'io_uring is refused', script: [425, 426, 427].map((n) => denied(n)).join('\n') },
  {
    id: 'S14',
    what: 'bpf, perf, modules, kexec, reboot, swap and their like are refused',
    script: [321, 298, 323, 175, 313, 246, 320, 169, 167, 163, 179, 103, 300, 172, 173, 438, 312].map((n) => denied(n)).join('\n'),
  },
  {
    id: 'S15',
    what: 'only UNIX, INET, INET6 and route NETLINK sockets',
    script:
      'perl -e \'for $f (1..45) { $ok = socket($s, $f, 3, 0) || socket($s, $f, 1, 0) || socket($s, $f, 2, 0); print "OPEN $f\\n" if $ok && $f != 1 && $f != 2 && $f != 10 && $f != 16; } print "OPEN audit\\n" if socket($s, 16, 3, 9);\'',
  },
  {
    id: 'S17',
    what: 'TIOCSTI is refused whatever the upper half of the argument',
    script: [0, 1, 2].map((fd) => `perl -e '$r = syscall(16, ${fd}, 0x100005412, my $b = "x"); print "OPEN\\n" if $r >= 0'`).join('\n'),
  },
  { id: 'S18', what: 'there is no controlling terminal', script: '(: < /dev/tty) 2>/dev/null && echo OPEN; true' },
  {
    id: 'S27',
    what: 'no real-time priority, no negative nice',
    script: `chrt -f 1 true 2>/dev/null && echo OPEN rt; nice -n -5 sh -c '[ $(nice) -lt 0 ] && echo OPEN nice' || true`,
  },
  { id: 'S29', what: 'killing everything ends only the job', script: '(sleep 0.2; kill -9 -1) & wait' },
  { id: 'S30', what: 'the clock cannot be set', script: `date -s 2001-01-01 >/dev/null 2>&1 && echo OPEN; ${denied(227, '0,0')}; true` },
  {
    id: 'S34',
    what: 'the network is a loopback of its own',
    script:
      'ls /sys/class/net | grep -v "^lo$" | sed s/^/OPEN/; perl -MIO::Socket::INET -e \'print "OPEN\\n" if IO::Socket::INET->new(PeerAddr=>"169.254.169.254", PeerPort=>80, Timeout=>1)\'; true',
  },
  {
    id: 'S36',
    what: '/sys is read-only',
    script:
      'find /sys -maxdepth 3 -type f -writable 2>/dev/null | while read f; do (: > $f) 2>/dev/null && echo OPEN $f; done; (mkdir /sys/x) 2>/dev/null && echo OPEN; true',
  },
  {
    id: 'S37',
    what: 'no kernel log, symbols or keys are shown',
    script:
      'for f in /proc/kallsyms /proc/keys /proc/timer_list /proc/kcore /proc/kmsg; do [ -e $f ] && [ -s $f ] && [ "$(head -c 1 $f 2>/dev/null | wc -c)" != 0 ] && echo OPEN $f; done; dmesg >/dev/null 2>&1 && echo OPEN; true',
  },
  { id: 'S38', what: 'the host name cannot be changed for others', script: 'hostname evil 2>/dev/null || true' },
  {
    id: 'S42',
    what: 'the script file cannot be changed',
    script:
      '(echo x >> /dev/rootlayer/script) 2>/dev/null && echo OPEN; rm -f /dev/rootlayer/script 2>/dev/null && echo OPEN; [ -z "$(cat)" ] || echo OPEN stdin; true',
  },
  {
    id: 'S53',
    what: 'fuse and overlay cannot be mounted',
    script: 'mkdir /tmp/m; for f in fuse overlay tmpfs proc; do mount -t $f x /tmp/m 2>/dev/null && echo OPEN $f; done; true',
  },
  { id: 'S56', what: 'files cannot be made immutable', script: 'touch /tmp/i; chattr +i /tmp/i 2>/dev/null && echo OPEN; true' },
  { id: 'S57', what: 'no core file is written', script: '[ "$(ulimit -c)" = 0 ] && [ "$(ulimit -Hc)" = 0 ] || echo OPEN' },
];

if (env !== null) {
  for (const attack of ATTACKS) {
    t.test(`${attack.id} ${attack.what}`, async (t) => {
      const { stdout, stderr, job } = await env.run({ script: `${attack.script}\ntrue`, ...attack.over });
      t.notMatch(stdout, /OPEN/, `${stdout}\n${stderr}`);
      t.ok(['done', 'failed'].includes(job.state), job.state);
      if (attack.id !== 'S29') t.equal(job.state, 'done', `the script must run to its end: ${JSON.stringify(job.error)} ${stderr}`);
    });
  }

  t.test('control: the same probes find their doors open outside of a sandbox', (t) => {
    const probe = (script: string): string =>
      execFileSync('bash', ['-c', script], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    t.match(probe('f=$(mktemp -d)/n; mknod $f c 1 3 && echo OPEN; rm -rf $(dirname $f)'), /OPEN/, 'S10');
    t.match(probe('unshare -m true && echo OPEN'), /OPEN/, 'S09');
    t.match(probe(denied(101)), /OPEN/, 'S05');
    t.match(probe('for p in /proc/[0-9]*; do [ ${p#/proc/} -lt 1000 ] || echo OPEN; done'), /OPEN/, 'S04');
    t.end();
  });

  t.test('S06 S38 the host is as it was', (t) => {
    t.equal(hostname(), readFileSync('/proc/sys/kernel/hostname', 'utf8').trim());
    t.not(hostname(), 'evil');
    t.end();
  });

  t.test('S31 abstract sockets of the host are out of reach', async (t) => {
    const name = `rootlayer-canary-${process.pid}`;
    const server = spawn('perl', [
      '-MSocket',
      '-e',
      `socket(S,1,1,0); bind(S, pack_sockaddr_un("\\0${name}")) or die; listen(S,1); print "up\\n"; $|=1; STDOUT->flush(); sleep 30`,
    ]);
    t.teardown(() => server.kill('SIGKILL'));
    await new Promise((resolve) => server.stdout.once('data', resolve));
    const connect = `perl -MSocket -e 'socket(S,1,1,0); print "OPEN\\n" if connect(S, pack_sockaddr_un("\\0${name}"))'`;
    t.match(execFileSync('bash', ['-c', connect], { encoding: 'utf8' }), /OPEN/, 'control: reachable on the host');
    t.notMatch((await env.run({ script: connect })).stdout, /OPEN/);
  });

  t.test('S37 nothing in /proc names the state directory', async (t) => {
    const { stdout } = await env.run({
      script: 'cat /proc/self/mountinfo /proc/self/mounts /proc/self/cgroup /proc/1/cmdline /proc/1/environ /proc/self/maps',
    });
    t.ok(stdout.length > 100);
    t.notMatch(stdout, new RegExp(env.label));
  });

  t.test('S39 A42 a setuid program left by a script is nowhere for a host user', async (t) => {
    const { job } = await env.run({ script: 'cp /bin/bash /usr/bin/rootme; chmod 4755 /usr/bin/rootme' });
    t.equal(job.state, 'done');
    const found = execFileSync('find', [env.stateDir, '-perm', '-4000', '-uid', '0'], { encoding: 'utf8' });
    t.equal(found, '');
    const stored = execFileSync('find', [env.stateDir, '-perm', '-4000'], { encoding: 'utf8' });
    t.not(stored, '', 'control: the image has setuid programs, under ids of no user');
    t.equal(statSync(env.stateDir).mode & 0o77, 0);
    const asUser = (command: string): string =>
      execFileSync('setpriv', ['--reuid', '1000', '--regid', '1000', '--clear-groups', 'sh', '-c', `${command} 2>&1 || true`], {
        encoding: 'utf8',
      });
    t.match(asUser(`ls ${env.stateDir}/layers`), /Permission denied/);
  });

  t.test('S41 C18 a secret in the environment is on no command line and in no log of ours', async (t) => {
    const secret = `canary-${process.pid}-secret`;
    const record = env.submit({ script: 'sleep 0.5; test -n "$TOKEN"', env: { TOKEN: secret } });
    for await (const event of env.engine.events(ROOT, record.id, 1, true, AbortSignal.timeout(20_000))) {
      if (event.type !== 'state' || event.state !== 'running') continue;
      const lines = execFileSync('bash', ['-c', `cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '`], { encoding: 'utf8' });
      t.notMatch(lines.replaceAll(/bash -c cat.*/g, ''), new RegExp(secret));
    }
    t.match((await env.finish(record)).job, { state: 'done' });
    t.equal(execFileSync('bash', ['-c', `grep -rl ${secret} ${env.stateDir} || true`], { encoding: 'utf8' }), '');
  });

  t.test('S49 the nodes of /dev keep owner and mode', async (t) => {
    const before = ['null', 'zero', 'tty', 'urandom'].map((name) => statSync(`/dev/${name}`));
    await env.run({
      script: 'chown 1:1 /dev/null /dev/zero 2>/dev/null; chmod 600 /dev/null 2>/dev/null; touch -d 2001-01-01 /dev/null 2>/dev/null; true',
    });
    const after = ['null', 'zero', 'tty', 'urandom'].map((name) => statSync(`/dev/${name}`));
    t.same(
      after.map(({ mode, uid, gid, mtimeMs }) => [mode, uid, gid, mtimeMs]),
      before.map(({ mode, uid, gid, mtimeMs }) => [mode, uid, gid, mtimeMs]),
    );
    const { stdout } = await env.run({ script: 'echo x > /dev/null && stat -c %a /dev/null' });
    t.equal(stdout.trim(), '666', 'and the next job has a good one');
    t.ok(existsSync('/dev/null'));
  });

  for (const records of ['userns=0', 'caps=1ffffffffff', 'seccomp=-1', 'nnp=0', 'network=host', 'root=5', 'end=', 'arg=x']) {
    t.test(`S42 a NUL byte in the first line cannot bring in the launcher record ${records}`, (t) => {
      for (const line of [`#!/bin/dash\0${records}\0`, `#!/usr/bin/perl -w\0${records}\0`, `#! \0${records}\0/bin/sh`]) {
        t.throws(() => env.submit({ caller: { uid: 1000 }, script: `${line}\ntrue` }), { code: 'E_USAGE', message: /NUL/ });
      }
      t.end();
    });
  }

  t.test("S42 NUL bytes further down are the shell's to judge, and change nothing of the sandbox", async (t) => {
    const { job, stdout } = await env.run({
      script: 'cat /proc/self/uid_map; grep Seccomp: /proc/self/status\nexit 0\n\0userns=0\0caps=1ffffffffff\0',
    });
    t.equal(job.state, 'done', JSON.stringify(job.error));
    t.notMatch(stdout, /^\s+0\s+0\s/m);
    t.match(stdout, /Seccomp:\t2/);
  });

  t.test('S41 an environment that is too large is refused by name, not taken for a missing shell', (t) => {
    const submit = (variables: Record<string, string>) => () => env.submit({ script: 'true', env: variables });
    t.throws(submit({ BIG: 'x'.repeat(131_072) }));
    t.throws(submit(Object.fromEntries(Array.from({ length: 1001 }, (_value, index) => [`V${index}`, '']))));
    t.throws(submit({ NUL: 'a\0userns=0' }));
    t.end();
  });

  closeTestEngine(t, env);
}
