#!/bin/sh
# The guest's /init where there was no compiler for vm/agent.c: the same words (vm/protocol.md), spoken by busybox and GNU tar.
#
# It is slower, by the seconds that the kernel takes to use fresh entropy above all, and it lacks: terminals, the nanoseconds of the clock,
# modules on demand but for loop devices, attributes of the image's root directory other than mode, owner and time, a status of its own for scripts
# that a signal ended (128 and the signal's number stand for it).
# With "job" as its argument it is the process that becomes the script, in its own namespaces.

# shellcheck shell=dash # the family that the shell of busybox is of
PATH=/bin:/sbin
export PATH

# ---- talking to the host ----

# fail STEP ERRNO: instead of all that would follow.
fail() {
  printf '%s\000%s' "$1" "$2" >/run/failure
  send E /run/failure
  while :; do sleep 1000; done
}

# send TYPE FILE: the file as one frame. Whoever has made the directory /run/lock has the port.
send() {
  until mkdir /run/lock 2>/dev/null; do usleep 1000; done
  size=$(stat -c %s "$2")
  # shellcheck disable=SC2059 # the format is the frame's header
  printf "$1$(printf '\\%03o\\%03o\\%03o\\%03o' $((size & 255)) $((size >> 8 & 255)) $((size >> 16 & 255)) $((size >> 24)))" >&3
  cat "$2" >&3
  rmdir /run/lock
}

mark() {
  printf '%s' "$1" >/run/mark
  send M /run/mark
}

# read_frame FILE: sets `type` to the byte's number, and puts the payload into the file.
read_frame() {
  # shellcheck disable=SC2046 # five numbers
  set -- "$1" $(dd bs=5 count=1 iflag=fullblock <&3 2>/dev/null | od -An -tu1)
  type=$2
  size=$(($3 + ($4 << 8) + ($5 << 16) + ($6 << 24)))
  : >"$1"
  if [ "$size" -gt 0 ]; then dd bs="$size" count=1 iflag=fullblock of="$1" <&3 2>/dev/null; fi
}

# relay TYPE: standard input as frames, as it comes.
relay() {
  while dd bs=32768 count=1 of="/run/relay$1" 2>/dev/null && [ -s "/run/relay$1" ]; do send "$1" "/run/relay$1"; done
}

# relay_result: standard input as frames of the result.
relay_result() {
  while dd bs=65536 count=1 iflag=fullblock of=/run/result 2>/dev/null && [ -s /run/result ]; do send T /run/result; done
}

# ---- boot ----

boot() {
  mkdir -p /proc /sys /c /i /d /s /r /run
  mount -t devtmpfs dev /dev
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mount -t cgroup2 cgroup /c
  echo '+memory +pids' >/c/cgroup.subtree_control
  mkdir /c/job
  echo 1 >/sys/kernel/rcu_expedited
  while read -r when name; do
    if [ "$when" != boot ]; then continue; fi
    # Only the agent says which disk is used when.
    if [ "$name" = virtio_blk ]; then echo 0 >/sys/bus/virtio/drivers_autoprobe; fi
    insmod "/modules/$name.ko"
  done </modules/index
  # Nothing loads a module later: loop devices are asked for most.
  insmod /modules/loop.ko
  learn_disks
  make_devices
  open_port
}

drive() { echo "$1" >"/sys/bus/virtio/drivers/virtio_blk/$2" 2>/dev/null; }

block_name() { ls "/sys/bus/virtio/devices/$1/block"; }

# Writes the numbers of the disks and their devices to /run/disks.
learn_disks() {
  for path in /sys/bus/virtio/devices/*; do
    device=${path##*/}
    if [ "$(cat "$path/device")" != 0x0002 ]; then continue; fi
    if [ ! -d "$path/block" ]; then drive "$device" bind; fi
    serial=$(cat "/sys/block/$(block_name "$device")/serial")
    echo "${serial#d} $device" >>/run/disks
    drive "$device" unbind
  done
}

make_devices() {
  mount -t tmpfs -o mode=0755,nosuid,noexec dev /d
  while read -r name mode kind major minor; do mknod -m "$mode" "/d/$name" "$kind" "$major" "$minor"; done <<'NODES'
null 666 c 1 3
zero 666 c 1 5
full 666 c 1 7
random 666 c 1 8
urandom 666 c 1 9
tty 666 c 5 0
loop-control 660 c 10 237
NODES
  for number in 0 1 2 3 4 5 6 7; do mknod -m 660 /d/loop$number b 7 $number; done
  ln -s /proc/self/fd /d/fd
  ln -s /proc/self/fd/0 /d/stdin
  ln -s /proc/self/fd/1 /d/stdout
  ln -s /proc/self/fd/2 /d/stderr
  ln -s pts/ptmx /d/ptmx
  mkdir /d/pts /d/shm /d/rootlayer
  mount -t devpts -o nosuid,noexec,ptmxmode=0666,mode=0620,gid=5 pts /d/pts
  mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=64m shm /d/shm
  mount -t tmpfs -o nosuid,nodev,mode=0755 files /d/rootlayer
  mkdir /d/rootlayer/files
}

open_port() {
  while :; do
    for path in /sys/class/virtio-ports/*; do
      if [ "$(cat "$path/name" 2>/dev/null)" = rootlayer ]; then
        exec 3<>"/dev/${path##*/}"
        return
      fi
    done
    usleep 1000
  done
}

# ---- the request ----

set_clock_and_entropy() {
  read_frame /run/seed
  if [ "$type" -ne 83 ]; then fail seed 71; fi
  # shellcheck disable=SC2046 # two numbers
  set -- $(od -An -tu4 -N8 /run/seed)
  date -s "@$(($1 + ($2 << 32)))" >/dev/null
  tail -c 64 /run/seed >/dev/urandom
  mark seeded
  # The kernel takes it with its next seed, which is due when the time since the start has grown by half, and a second.
  read -r uptime _ </proc/uptime
  sleep $((${uptime%.*} / 2 + 2))
  head -c 1 /dev/urandom >/dev/null
}

# Records become lines: what is a line feed in a value is a byte 1 from here on.
read_request() {
  : >/run/records
  : >/d/rootlayer/script
  while :; do
    read_frame /run/part
    case $type in
      74) cat /run/part >>/run/records ;;
      80) cat /run/part >>/d/rootlayer/script ;;
      71) break ;;
      *) fail frame 71 ;;
    esac
  done
  chmod 555 /d/rootlayer/script
  tr '\000\n' '\n\001' </run/records >/run/lines
}

# parse_request: sets what the host asks for; `lowers` are devices, topmost first.
parse_request() {
  lowers='' files='' scratch='' memory='' pids='' fsize='' hostname=''
  while IFS= read -r line; do
    value=${line#*=}
    case $line in
      lower=*) lowers="$lowers $(device_of "$value")" ;;
      files=*) files=$(device_of "$value") ;;
      scratch=*) scratch=$(device_of "$value") ;;
      memory=*) memory=$value ;;
      pids=*) pids=$value ;;
      fsize=*) fsize=$value ;;
      hostname=*) hostname=$value ;;
      terminal=*) fail terminal 95 ;;
      end=) return ;;
      *) fail request 22 ;;
    esac
  done </run/lines
  fail request 22
}

device_of() {
  while read -r number device; do
    if [ "$number" = "$1" ]; then echo "$device"; fi
  done </run/disks
}

# ---- the root of the job, mounted at /r ----

bind_disks() {
  for device in $lowers $files $scratch; do drive "$device" bind || fail bind 19; done
  mark bound
}

# mount_disk DEVICE TYPE PLACE OPTIONS
mount_disk() { mount -t "$2" -o "$4" "/dev/$(block_name "$1")" "$3" || fail "$2" 22; }

# copy_attributes FROM TO: without a FROM, those of a new directory.
copy_attributes() {
  if [ -n "$1" ]; then
    chown "$(stat -c %u:%g "$1")" "$2"
    chmod "$(stat -c %a "$1")" "$2"
    touch -r "$1" "$2"
  else
    touch -d @0 "$2"
  fi
}

# What the topmost layer that has the name has there, if it is a directory.
merged_directory() {
  for index in $indexes; do
    if [ -L "/l$index/$1" ] || [ -e "/l$index/$1" ]; then
      if [ -d "/l$index/$1" ] && [ ! -L "/l$index/$1" ]; then echo "/l$index/$1"; fi
      return
    fi
  done
}

mount_root() {
  indexes='' lowerdir=/i index=0
  mount -t tmpfs -o mode=0755 init /i
  for device in $lowers; do
    mkdir "/l$index"
    mount_disk "$device" erofs "/l$index" ro,noatime
    indexes="$indexes $index" lowerdir=$lowerdir:/l$index index=$((index + 1))
  done
  for name in dev proc sys; do
    mkdir "/i/$name"
    copy_attributes "$(merged_directory $name)" "/i/$name"
  done
  mount_disk "$scratch" ext4 /s noatime,noinit_itable,nobarrier
  mkdir -p /s/up /s/work
  if [ -n "$lowers" ]; then copy_attributes /l0 /s/up; else copy_attributes '' /s/up; fi
  mount -t overlay -o "lowerdir=$lowerdir,upperdir=/s/up,workdir=/s/work,redirect_dir=nofollow,metacopy=off,index=off,xino=off,volatile" root /r || fail overlay 22
  if [ -n "$files" ]; then mount_disk "$files" erofs /d/rootlayer/files ro,nosuid,nodev; fi
  mount -o remount,bind,ro,nosuid,nodev /d/rootlayer
  if [ -n "$memory" ]; then echo "$memory" >/c/job/memory.max; fi
  if [ -n "$pids" ]; then echo "$pids" >/c/job/pids.max; fi
  mark mounted
}

# ---- the process of the job ----

# Becomes the script: sees the agent's mounts, in namespaces of its own.
become_script() {
  parse_request
  echo 0 >/c/job/cgroup.procs
  ip link set lo up
  mount -t proc -o nosuid,nodev,noexec proc /r/proc
  mount -t sysfs -o nosuid,nodev,noexec sys /r/sys
  mount --move /d /r/dev
  hostname "$hostname"
  cd /r || fail root 2
  mount --move . /
  umask 022
  ulimit -c 0
  ulimit -n 4096
  if [ -n "$fsize" ]; then ulimit -f $((fsize / 512)); fi
  chosen='' sealed=''
  set --
  while IFS= read -r line; do
    # A mark behind the value keeps line feeds at its end.
    value=$(printf '%s' "${line#*=}" | tr '\001' '\n' && echo .)
    value=${value%.}
    case $sealed$line in
      end=) sealed=+ ;;
      +env=*) set -- "$@" "$value" ;;
      +exec=*)
        if [ -n "$chosen" ]; then break; fi
        if [ -e "./$value" ] || [ -L "./$value" ]; then chosen=$value && set -- "$@" /bin/busybox chroot . "$value"; fi
        ;;
      +arg=*) if [ -n "$chosen" ]; then set -- "$@" "$value"; fi ;;
    esac
  done </run/lines
  exec 3>&-
  exec env -i "$@"
}

# True when one of the programs that the host names is there.
has_program() {
  while IFS= read -r line; do
    case $line in exec=*) if [ -e "/r/${line#exec=}" ] || [ -L "/r/${line#exec=}" ]; then return 0; fi ;; esac
  done </run/lines
  return 1
}

run_script() {
  has_program || fail exec 2
  mkfifo /run/out /run/err
  relay 1 </run/out &
  out=$!
  relay 2 </run/err &
  err=$!
  exec 4>/run/out 5>/run/err
  mark started
  unshare -m -u -i -n -p -f /bin/sh /init job </dev/null >&4 2>&5 4>&- 5>&- &
  script=$!
  exec 4>&- 5>&-
  wait "$script"
  status=$?
  wait "$out" "$err"
}

# ---- the end ----

freeze() {
  losetup -D 2>/dev/null || for device in /dev/loop[0-9]*; do losetup -d "$device" 2>/dev/null; done
  tries=0
  until umount /r 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 1000 ]; then fail unmount 16; fi
    usleep 10000
  done
  sync
  until mount -o remount,ro /s 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 1000 ]; then fail freeze 16; fi
    usleep 10000
  done
}

fingerprint() { stat -c '%a %u %g %Y' /s/up; }

# counter FILE [KEY]
counter() { awk -v key="${2-}" 'key == "" { print $1 } $1 == key { print $2 }' "/c/job/$1"; }

send_end() {
  # shellcheck disable=SC2046 # six numbers
  set -- "$1" $(stat -f -c '%S %b %f %a %d' /s)
  {
    printf 'status=%d\000oom=%d\000' "$status" "$(counter memory.events oom_kill)"
    printf 'forks-refused=%d\000memory-peak=%d\000' "$(counter pids.events max)" "$(counter memory.peak)"
    printf 'disk-bytes=%d\000bytes-left=%d\000' $(($2 * ($3 - $4))) $(($2 * $5))
    printf 'inodes-left=%d\000changed=%d\000' "$6" "$1"
  } >/run/end
  send X /run/end
}

# Of overlayfs' marks only that of an opaque directory has a meaning outside.
send_result() {
  gnu-tar --create --directory=/s/up --format=pax --pax-option=delete=atime,delete=ctime --numeric-owner --xattrs --xattrs-include='*' \
    --xattrs-exclude='trusted.overlay.[!o]*' --xattrs-exclude=trusted.overlay.origin --warning=no-file-ignored . 2>/run/complaint | relay_result
}

if [ "${1-}" = job ]; then become_script; fi
boot
printf '\001\000\000\000' >/run/version
send R /run/version
set_clock_and_entropy
read_request
parse_request
bind_disks
mount_root
before=$(fingerprint)
run_script
changed=0
if [ "$status" -eq 0 ]; then
  freeze
  if [ -n "$(ls -A /s/up)" ] || [ "$(fingerprint)" != "$before" ]; then changed=1; fi
fi
send_end "$changed"
if [ "$changed" -eq 1 ]; then send_result; fi
: >/run/nothing
send F /run/nothing
while :; do sleep 1000; done
