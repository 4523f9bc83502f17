#!/bin/sh
# Installs the Debian packages that the tests and the quickstart need. Silent and fast when nothing is missing.
set -eu

packages="nfs-ganesha nfs-ganesha-vfs dbus rpcbind nfs-common libnfs-utils btrfs-progs e2fsprogs xfsprogs
user-mode-linux debootstrap iproute2 kmod buildah runc systemd zfs-fuse openssh-server openssh-client sudo
gcc libc6-dev make flex bison bc patch xz-utils"
programs="ganesha.nfsd dbus-daemon rpcbind rpc.statd nfs-cat mkfs.btrfs mkfs.ext4 mkfs.xfs linux.uml debootstrap ip depmod buildah runc
systemd-analyze zfs-fuse sshd ssh-keygen sudo cc make flex bison bc patch xz"
PATH=$PATH:/usr/sbin:/sbin # not in everyone's PATH, even root's

fail() {
	echo "setup: $*" >&2
	exit 1
}

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=""

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
	for program in $programs; do
		command -v "$program" >/dev/null || missing="$missing $program"
	done
	[ -z "$missing" ] || fail "this is not Debian and these programs are missing:$missing
In Debian they are in the packages $packages. Install what your system calls them."
	exit 0
fi

for package in $packages; do
	installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || fail "these packages are missing:$missing
Install them as root: sudo make setup"

# The tests start servers of their own. The packages' services must not start now (policy-rc.d), nor at the
# next boot (disable), on a machine where nobody asked for an NFS server. What was there before stays as it is.
services=""
installed rpcbind || services="rpcbind.service rpcbind.socket"
installed nfs-common || services="$services nfs-client.target"
installed zfs-fuse || services="$services zfs-fuse.service"
installed openssh-server || services="$services ssh.service ssh.socket"
installed nfs-ganesha || services="$services nfs-ganesha.service nfs-ganesha-lock.service"

policy=/usr/sbin/policy-rc.d
log=$(mktemp)
cleanup="rm -f $log"
if [ ! -e "$policy" ]; then
	cleanup="$cleanup $policy"
fi
# shellcheck disable=SC2064 # expanded now on purpose
trap "$cleanup" EXIT
trap 'exit 1' HUP INT TERM # a signal alone would not run the EXIT trap
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1
}

echo "setup: installing$missing"
# A failed update alone is no reason to stop: the lists that are there may do.
apt update || true
# shellcheck disable=SC2086 # a list of words
# Nothing that is here may go for it: zfs-fuse does not get on with another ZFS.
if ! apt install --no-install-recommends --no-remove $missing; then
	tail -n 10 "$log" >&2
	fail "apt-get could not install$missing (the end of its output is above).
If this machine is offline, install them by other means and run make setup again."
fi

if command -v systemctl >/dev/null; then
	# shellcheck disable=SC2086 # a list of words
	for service in $services; do
		systemctl --quiet disable "$service" 2>/dev/null || true # a unit that this version does not have
	done
fi
