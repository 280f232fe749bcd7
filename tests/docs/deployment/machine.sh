#!/bin/sh
# Set up the machine of machine.py. This runs in new namespaces, and becomes process 1 of the machine.
# Usage: machine.sh DIRECTORY COMMAND...; what is mounted on DIRECTORY is not visible to the host.
# MACHINE_KEEPS lists directories of other file systems that the machine needs, MACHINE_MASKS units of systemd.
set -eu
directory=$1
shift
root=$directory/root

mount -t tmpfs -o mode=755 tmpfs "$directory"
mkdir "$directory/upper" "$directory/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" overlay "$root"
for path in $MACHINE_KEEPS; do
    mkdir -p "$root$path"
    mount --rbind "$path" "$root$path"
done

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net" # belongs to the machine's network
mount -o remount,bind,ro "$root/proc/sys"              # most other settings of the kernel are also the host's
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
while IFS=: read -r number names _; do
    [ -n "$names" ] || continue
    mkdir "$root/sys/fs/cgroup/${names#name=}"
    case $names in
    name=*) mount -t cgroup -o "none,$names" cgroup "$root/sys/fs/cgroup/${names#name=}" ;;
    *) mount -t cgroup -o "$names" cgroup "$root/sys/fs/cgroup/$names" ;;
    esac
done </proc/self/cgroup

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/lock" "$root/var/lib/docker"
mount -t tmpfs -o mode=711 tmpfs "$root/var/lib/docker" # its overlays cannot be on an overlay
rm -rf "$root/etc/systemd/system" # the machine's systemd starts nothing but what a test starts
mkdir -p "$root/etc/systemd/system" "$root/run/systemd/system"
printf '[Unit]\nDescription=A machine of a test\nDefaultDependencies=no\n' >"$root/etc/systemd/system/machine.target"
for unit in $MACHINE_MASKS; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done

cd "$root"
mkdir .host
pivot_root . .host
umount -l /.host
rmdir /.host
unset MACHINE_KEEPS MACHINE_MASKS
exec "$@"
