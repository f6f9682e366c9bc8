#!/usr/bin/env bash
# Builds the virtual machine's image: Debian 12 with a kernel that has Yama and AppArmor, and Docker, gdb and strace.
#
#   tests/vm/image.sh name    prints where the image belongs: .cache/vm/ and a hash of this recipe
#   tests/vm/image.sh build   builds it there, unless it is there; needs root, debootstrap, e2fsprogs and a mirror
#
# In it: vmlinuz, initrd, root.ext4. Nothing of safedlv is in the image: what is tested goes in with every start
# (tests/vm/machine.py), so the image is built anew only when the recipe changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cache=$(cd ../.. && pwd)/.cache/vm
PATH=$PATH:/usr/sbin:/sbin
image=$cache/$(cat image.sh boot.sh | sha256sum | cut -c 1-16)
SUITE=bookworm
KERNEL=linux-image-cloud-amd64 # boots in 2 s without acceleration, and knows virtio
# libboost-regex: debootstrap does not see that gdb needs it
PACKAGES=docker.io,apparmor,python3,strace,gdb,libboost-regex1.74.0,kmod,iproute2,procps,util-linux,libcap2-bin,busybox-static,tini
DRIVERS=(virtio_pci virtio_blk virtio_console ext4)

kernel() { # ROOT DIRECTORY: unpacked and not installed, for installing it would make an initramfs of its own
    local package
    package=$(chroot "$1" apt-cache depends --important $KERNEL | sed -nE 's/^ +Depends: (linux-image-.*)/\1/p')
    mkdir -p "$1/kernel" && chown _apt "$1/kernel" 2>/dev/null || true
    chroot "$1" sh -c "cd /kernel && apt-get -qq download $package && dpkg-deb -x ./*.deb ."
    mv "$1"/kernel/boot/vmlinuz-* "$2/vmlinuz"
    mkdir -p "$1/usr/lib/modules" && mv "$1"/kernel/lib/modules/* "$1/usr/lib/modules/"
    rm -rf "$1/kernel"
}

first_steps() { # ROOT DIRECTORY: an initramfs that loads the drivers and goes over to the root file system
    local version early=$2/early module
    version=$(ls "$1/usr/lib/modules")
    chroot "$1" depmod "$version"
    mkdir -p "$early"/{bin,dev,proc,root,modules}
    cp "$1/bin/busybox" "$early/bin/"
    {
        echo '#!/bin/busybox sh'
        echo '/bin/busybox mount -t devtmpfs dev /dev'
        for module in $(chroot "$1" modprobe --all --show-depends --set-version "$version" "${DRIVERS[@]}" |
            sed -nE 's/^insmod ([^ ]+).*/\1/p' | awk '!seen[$0]++'); do
            cp "$1$module" "$early/modules/"
            echo "/bin/busybox insmod /modules/${module##*/}"
        done
        echo '/bin/busybox mount -t ext4 /dev/vda /root'
        echo '/bin/busybox mount --move /dev /root/dev'
        echo 'exec /bin/busybox switch_root /root /usr/bin/tini -g -- /usr/local/sbin/boot'
    } >"$early/init"
    chmod +x "$early/init"
    (cd "$early" && find . | "$1/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$2/initrd"
    rm -r "$early"
}

build() {
    local root
    [ "$(id -u)" = 0 ] || { echo "only root can make the image of the virtual machine" >&2; return 1; }
    mkdir -p "$cache"
    into=$(mktemp -d "$cache/new.XXXXXX")
    root=$into/root
    trap 'rm -rf "$into"' EXIT
    debootstrap --variant=minbase --include=$PACKAGES $SUITE "$root"
    kernel "$root" "$into"
    first_steps "$root" "$into"
    install -m 755 boot.sh "$root/usr/local/sbin/boot"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,locale,man}
    truncate -s 3G "$into/root.ext4"
    mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 -d "$root" "$into/root.ext4"
    rm -rf "$root"
    chmod 755 "$into" && chown -R --reference=.. "$into"
    find "$cache" -mindepth 1 -maxdepth 1 ! -path "$into" -exec rm -rf {} + # those of other recipes
    mv "$into" "$image"
    trap - EXIT
}

case ${1:-} in
name) echo "$image" ;;
build) [ -e "$image/root.ext4" ] || build ;;
*) sed -n '2,8s/^# \{0,1\}//p' image.sh && exit 2 ;;
esac
