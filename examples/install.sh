#!/bin/bash
# Turns a small Debian image into one with tools, a service account and its files. Runs as root in the image, by
#   rootlayer run --from debian.tar --script examples/install.sh --copy debs/ -o layer.tar
# The same image and packages give the same layer with --source-date-epoch: what would tell the time is removed at the end.
set -eu
# shadow(5) notes the day of a password change; useradd takes it from here.
export SOURCE_DATE_EPOCH=1700000000
export DEBIAN_FRONTEND=noninteractive

echo '== packages (those of --copy, when there are any)'
shopt -s nullglob
debs=(/*.deb)
if [ ${#debs[@]} -gt 0 ]; then
  dpkg --install "${debs[@]}"
  rm -- "${debs[@]}"
fi

echo '== an account with a home'
useradd --system --create-home --home-dir /srv/app --shell /usr/sbin/nologin app
printf 'hello from the root layer\n' >/srv/app/greeting
chown app:app /srv/app/greeting
chmod 640 /srv/app/greeting

echo '== a program with a capability, a hard link and a symbolic link'
cp /usr/bin/cat /usr/local/bin/app-server
setcap cap_net_bind_service=+ep /usr/local/bin/app-server
getcap /usr/local/bin/app-server
ln /srv/app/greeting /srv/app/greeting.again
ln -s ../../../srv/app/greeting /usr/local/share/greeting

echo '== a directory of the image under another name'
mv /usr/share/common-licenses /usr/share/licenses
ln -s licenses /usr/share/common-licenses

echo '== a directory of the image made anew: nothing of the old one shows'
rm -r /etc/update-motd.d
mkdir /etc/update-motd.d
printf '#!/bin/sh\ncat /usr/local/share/greeting\n' >/etc/update-motd.d/10-greeting
chmod 755 /etc/update-motd.d/10-greeting

echo '== no logs, no caches, no backups'
rm -f /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache \
  /var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-

ls -lR /srv/app
