# Builds OpenZFS for a User-Mode Linux from Debian's packages in the current folder, and leaves openzfs.tar.
#
#	build.sh KERNEL MODULES VERSION RELEASE MIRROR
#
# The folder has Module.symvers of the kernel and uml.patch. Each step is told by a line of standard output;
# what the tools say goes to standard error.
set -eu
kernel=$1 modules=$2 version=$3 release=$4 mirror=$5
kernel_version=${modules##*/}
work=$PWD

fail() {
	echo "$*" >&2
	exit 1
}

# OpenZFS is in a part of the archive that this machine need not have among its sources.
mkdir -p apt/lists/partial apt/cache/archives/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release-backports main contrib" >apt/sources.list
backports() {
	program=$1
	shift
	"$program" -q -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}

echo "fetching the packages"
package=linux-source-${kernel_version%.*}
source=$(apt-cache madison "$package" | awk -v start="$kernel_version-" 'index($3, start) == 1 { print $3; exit }')
[ -n "$source" ] || fail "apt has no $package $kernel_version, of which the installed user-mode-linux was built. It has:
$(apt-cache madison "$package")
After apt-get update, either it is there, or there is a newer user-mode-linux to install."
apt-get -q -o APT::Sandbox::User=root download "$package=$source" >&2
backports apt-get update >&2
for part in zfs-dkms zfsutils-linux libzfs6linux libzpool6linux libnvpair3linux libuutil3linux; do
	backports apt-get download "$part=$version" >&2 || fail "there is no $part $version in $mirror $release-backports. There is:
$(backports apt-cache madison "$part")
If that is a newer one, change Version in test/vm/openzfs/openzfs.go."
done

# Headers, and what builds modules; the kernel's own parts are in the installed one.
echo "unpacking the sources"
mkdir linux
dpkg-deb --fsys-tarfile "$package"_*.deb | tar -xOf - "./usr/src/$package.tar.xz" | tar -C linux --strip-components 1 --wildcards \
	--anchored --exclude "$package/arch/[!uxK]*.[chS]" --exclude "$package/arch/*.dts*" --exclude "$package/drivers/*.[chS]" --exclude "$package/sound/*.[chS]" \
	--exclude "$package/net/*.[chS]" --exclude "$package/fs/*.[chS]" --exclude "$package/Documentation/[a-z]*" -xJf -
dpkg-deb -x zfs-dkms_*.deb dkms
mv dkms/usr/src/zfs-* zfs
patch -d zfs -p1 <uml.patch >&2

echo "preparing the kernel's headers"
export ARCH=um ARCH_UM=ARCH=um
"$kernel" --showconfig >linux/.config
make -C linux olddefconfig >&2
make -C linux -j "$(nproc)" modules_prepare >&2
mv Module.symvers linux/

echo "asking the kernel what it has"
cd zfs
./configure --disable-dependency-tracking --prefix=/usr --with-config=kernel --with-linux="$work/linux" --with-linux-obj="$work/linux" >&2

echo "compiling the modules"
make -j "$(nproc)" >&2
cd ..

echo "packing"
lib=root/lib/modules
mkdir -p "$lib"
cp -a "$modules" "$lib/"
mkdir "$lib/$kernel_version/extra"
for module in spl zfs; do
	strip --strip-debug -o "$lib/$kernel_version/extra/$module.ko" zfs/module/$module.ko
done
depmod -b root "$kernel_version"
rm -r "$lib/$kernel_version/kernel" # the guest has it
for file in zfsutils-linux_*.deb lib*linux_*.deb; do
	dpkg-deb --fsys-tarfile "$file" | tar -C root --exclude './usr/share/doc*' --exclude './usr/share/man*' --exclude './usr/share/locale*' -xf -
done
# A guest has little memory, and most of it is for the test.
mkdir -p root/etc/modprobe.d
echo "options zfs zfs_arc_max=$((128 << 20))" >root/etc/modprobe.d/zfs.conf
tar -C root -cf openzfs.tar .
