/** A script that gives the same layer whenever and wherever it runs, under one `sourceDateEpoch`. */
export type DeterministicScript = { name: string; script: string; from?: string };

/** Each must give the same diffID in every isolation. They need the Debian base. */
export const deterministicScripts: readonly DeterministicScript[] = [
  {
    name: 'files, owners, modes and times',
    script: 'umask 027; mkdir -p /srv/a/b; echo x > /srv/a/b/f; chown 7:9 /srv/a/b/f; chmod 4711 /srv/a/b/f; touch -d @5.25 /srv/a',
  },
  { name: 'deletions', script: 'rm /etc/issue; rm -r /usr/share/doc; rmdir /mnt /media' },
  { name: 'a directory made again is opaque', script: 'rm -r /usr/share/man; mkdir /usr/share/man; echo x > /usr/share/man/new' },
  { name: 'a renamed directory', script: 'mv /usr/share/perl5 /usr/share/perl' },
  {
    name: 'links',
    script: 'echo 1 > /srv/1; ln /srv/1 /srv/2; ln -s 1 /srv/3; ln /etc/hostname /srv/h 2>/dev/null || ln /etc/passwd /srv/h',
  },
  { name: 'fifos and sparse files', script: 'mkfifo /srv/pipe; truncate -s 70000000 /srv/hole; printf end >> /srv/hole' },
  {
    name: 'attributes and capabilities',
    script:
      'cp /bin/true /srv/t; setcap cap_net_raw,cap_chown+ep /srv/t; perl -e \'my ($p, $n, $v) = ("/srv/t", "user.k", "v\\0w"); syscall(188, $p, $n, $v, 3, 0) == 0 or die\'',
  },
  {
    name: 'names of any bytes',
    script: `cd /srv; : > $'\\xff\\xfe'; : > $'new\nline'; : > ' '; : > -rf; mkdir "$(printf '%0255d' 0)"; cd 0*; : > deep`,
  },
  { name: 'times before 1970 and after 2038', script: 'touch -d @-5 /srv/old; touch -d @4102444800 /srv/new' },
  {
    name: 'copied up and put back as it was',
    script: 'cp -p /etc/passwd /run/p; echo x >> /etc/passwd; cat /run/p > /etc/passwd; touch -r /run/p /etc/passwd; rm /run/p',
  },
  { name: 'users', script: 'useradd -m -u 1234 alice; usermod -aG users alice' },
  { name: 'the root directory itself', script: 'chmod 711 /' },
];
