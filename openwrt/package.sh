#!/bin/sh
# Makes dist/gatehouse_VERSION_ARCH.ipk (opkg, OpenWrt up to 24.10) out of the bundle, the addon and files/.
#
# An .ipk is a gzipped tar of debian-binary, data.tar.gz and control.tar.gz. Names are sorted, owners and times
# fixed, so that the same input gives the same bytes. ARCH is OpenWrt's name of the CPU the addon was built for.

set -eu
cd "$(dirname "$0")/.."

version="$(node -p 'require("./package.json").version')-r1"
arch="${ARCH:-$(uname -m)}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/data/usr/sbin" "$work/data/usr/lib/gatehouse" "$work/control"
cp -R files/. "$work/data/"
cp dist/gatehouse "$work/data/usr/lib/gatehouse/gatehouse"
cp dist/netio.node "$work/data/usr/lib/gatehouse/netio.node"
ln -s ../lib/gatehouse/gatehouse "$work/data/usr/sbin/gatehouse"
chmod 600 "$work/data/etc/config/gatehouse"
chmod 755 "$work/data/etc/init.d/gatehouse" "$work/data/usr/lib/gatehouse/gatehouse"

# What busybox, fw4 and the feeds call the programs that gatehouse runs.
cat > "$work/control/control" <<CONTROL
Package: gatehouse
Version: $version
Depends: libc, node, nftables, ip-full, kmod-nft-core, kmod-nf-conntrack-netlink, kmod-nfnetlink-log
Section: net
License: GPL-2.0-or-later
Architecture: $arch
Installed-Size: $(du -sb "$work/data" | cut -f1)
Description:  Keeps every address mapping of the router: devices, blocked flows, retained MQTT info.
CONTROL
echo /etc/config/gatehouse > "$work/control/conffiles"
for script in postinst prerm; do
  printf '#!/bin/sh\n[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0\n[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0\n. ${IPKG_INSTROOT}/lib/functions.sh\ndefault_%s $0 $@\n' "$script" > "$work/control/$script"
  chmod 755 "$work/control/$script"
done

pack() { # pack FOLDER NAMES… : a reproducible gzipped tar on stdout
  folder="$1"; shift
  tar --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$folder" -cf - "$@" | gzip -9n
}
pack "$work/data" . > "$work/data.tar.gz"
pack "$work/control" . > "$work/control.tar.gz"
echo 2.0 > "$work/debian-binary"
file="dist/gatehouse_${version}_${arch}.ipk"
pack "$work" ./debian-binary ./data.tar.gz ./control.tar.gz > "$file.part"
mv "$file.part" "$file"
echo "$file  $(wc -c < "$file") bytes"
