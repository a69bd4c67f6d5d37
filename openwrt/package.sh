#!/bin/sh
# Makes the packages out of the bundle, the addon, files/ and the translations:
#
#     dist/gatehouse_VERSION_ARCH.ipk, dist/luci-app-gatehouse_VERSION_all.ipk    opkg, OpenWrt up to 24.10
#     dist/gatehouse-VERSION.apk, dist/luci-app-gatehouse-VERSION.apk             apk v3, OpenWrt 25.12 and later
#
# An .apk is made by `apk mkpkg`, as the OpenWrt SDK has it (staging_dir/host/bin/apk). Where there is none, its tree
# and scripts are left in dist/apk, with the command in dist/apk/make.sh.
#
# An .ipk is a gzipped tar of debian-binary, data.tar.gz and control.tar.gz. Names are sorted, owners and times
# fixed, so that the same input gives the same bytes. ARCH is OpenWrt's name of the CPU that the addon, NETIO, was
# built for.

# Texts of scripts are not to be expanded here.
# shellcheck disable=SC2016
set -eu
cd "$(dirname "$0")/.."

version="$(node -p 'require("./package.json").version')-r1"
netio="${NETIO:-dist/netio.node}"
arch="${ARCH:-}"
if [ -z "$arch" ]; then
	case "$(uname -m)" in
	aarch64) arch=aarch64_generic ;;
	armv7l) arch=arm_cortex-a7_neon-vfpv4 ;;
	*) arch="$(uname -m)" ;;
	esac
fi
licence=GPL-2.0-or-later
maintainer="$(sed -n 's/^PKG_MAINTAINER:=//p' openwrt/gatehouse/Makefile)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
umask 022

# A package must not promise a processor that its addon is not for: the machine in the ELF header, little-endian.
machine="$(od -An -tu2 --endian=little -j18 -N2 "$netio" | tr -d ' ')"
case "$arch:$machine" in
aarch64_*:183 | arm_*:40 | x86_64:62 | i386_*:3) ;;
*)
	echo "Cannot pack for $arch: $netio is for another processor (ELF machine $machine)" >&2
	exit 1
	;;
esac

# What of files/ is LuCI's, and who says so to the user.
luci_parts="www usr/share/luci usr/share/rpcd"

gatehouse_depends="libc, node (>= 20), nftables, ip-full, kmod-nft-core, kmod-nft-bridge, kmod-nft-nat, kmod-nft-netdev, kmod-nft-queue, kmod-nf-conntrack-netlink, kmod-nfnetlink-log, kmod-nfnetlink-queue, kmod-tun"
gatehouse_section=net
gatehouse_text="Keeps every address mapping of the router: devices, blocked flows, retained MQTT info."
luci_depends="libc, luci-base, gatehouse"
luci_section=luci
luci_text="Pages of gatehouse: devices, flows and lists, each with its blocks."

gatehouse_tree() { # gatehouse_tree FOLDER
	mkdir -p "$1/usr/sbin" "$1/usr/lib/gatehouse"
	cp -R files/. "$1/"
	for part in $luci_parts; do rm -rf "${1:?}/$part"; done
	cp dist/gatehouse "$netio" "$1/usr/lib/gatehouse/"
	ln -s ../lib/gatehouse/gatehouse "$1/usr/sbin/gatehouse"
}

luci_tree() { # luci_tree FOLDER
	for part in $luci_parts; do
		mkdir -p "$(dirname "$1/$part")"
		cp -R "files/$part" "$1/$part"
	done
	mkdir -p "$1/usr/lib/lua/luci/i18n"
	for catalogue in openwrt/luci-app-gatehouse/po/*/gatehouse.po; do
		language="$(basename "$(dirname "$catalogue")")"
		# LuCI's own name of the language.
		[ "$language" = zh_Hans ] && language=zh-cn
		node openwrt/lmo.mjs "$catalogue" "$1/usr/lib/lua/luci/i18n/gatehouse.$language.lmo"
	done
}

# settle FOLDER: what may be run, read and written, whatever the umask of who cloned
settle() {
	find "$1" -type d -exec chmod 755 {} +
	find "$1" -type f -exec chmod 644 {} +
	for path in etc/init.d/gatehouse usr/lib/gatehouse/gatehouse usr/lib/gatehouse/boot.sh usr/lib/gatehouse/firewall.sh usr/lib/gatehouse/zones.sh usr/lib/gatehouse/segments.sh usr/lib/gatehouse/remove.sh; do
		[ ! -e "$1/$path" ] || chmod 755 "$1/$path"
	done
	[ ! -e "$1/etc/config/gatehouse" ] || chmod 600 "$1/etc/config/gatehouse"
}

# Own parts of the scripts: after installing, and before removing.
gatehouse_after='[ -n "${IPKG_INSTROOT}" ] || {
	killall -HUP ubusd 2>/dev/null || true
	# apk replaces files while the service runs: starting what runs changes nothing.
	[ "${PKG_UPGRADE}" != 1 ] || ! /etc/init.d/gatehouse running || /etc/init.d/gatehouse restart
}'
gatehouse_before='[ -n "${IPKG_INSTROOT}" ] || [ "${PKG_UPGRADE}" = 1 ] || sh /usr/lib/gatehouse/remove.sh || true'
luci_after='[ -n "${IPKG_INSTROOT}" ] || {
	rm -f /tmp/luci-indexcache.*
	rm -rf /tmp/luci-modulecache/
	/etc/init.d/rpcd reload 2>/dev/null || true
}'
luci_before=

# script FILE LINE…: one line after the other
script() {
	path="$1"
	shift
	printf '%s\n' '#!/bin/sh' "$@" > "$path"
	chmod 755 "$path"
}

guard='[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0'
functions='[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh'

pack() { # pack FOLDER NAMES… : a reproducible gzipped tar on stdout
	folder="$1"
	shift
	tar --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$folder" -cf - "$@" | gzip -9n
}

sizes() { find "$1" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }'; }

# ipk NAME ARCH DEPENDS SECTION TEXT AFTER BEFORE USER: out of $work/NAME
ipk() {
	control="$work/$1.control"
	mkdir -p "$control"
	{
		printf 'Package: %s\nVersion: %s\nDepends: %s\nSource: feeds/gatehouse/%s\nSourceName: %s\n' "$1" "$version" "$3" "$1" "$1"
		printf 'License: %s\nSection: %s\n' "$licence" "$4"
		[ -z "$8" ] || printf 'Require-User: %s\n' "$8"
		printf 'Maintainer: %s\n' "$maintainer"
		printf 'Architecture: %s\nInstalled-Size: %s\nDescription:  %s\n' "$2" "$(sizes "$work/$1")" "$5"
	} > "$control/control"
	[ ! -e "$work/$1/etc/config/gatehouse" ] || echo /etc/config/gatehouse > "$control/conffiles"
	script "$control/postinst" "$guard" "$functions" 'default_postinst $0 $@'
	script "$control/prerm" "$functions" 'default_prerm $0 $@'
	script "$control/postinst-pkg" "$6"
	[ -z "$7" ] || script "$control/prerm-pkg" "$7"
	mkdir "$work/$1.ipk"
	pack "$work/$1" . > "$work/$1.ipk/data.tar.gz"
	pack "$control" . > "$work/$1.ipk/control.tar.gz"
	echo 2.0 > "$work/$1.ipk/debian-binary"
	file="dist/$1_${version}_$2.ipk"
	pack "$work/$1.ipk" ./debian-binary ./data.tar.gz ./control.tar.gz > "$file.part"
	mv "$file.part" "$file"
	echo "$file  $(wc -c < "$file") bytes"
}

# apk_tree NAME ARCH DEPENDS TEXT AFTER BEFORE USER: $work/NAME, with what apk's packages hold beside, and scripts
apk_tree() {
	tree="dist/apk/$1/root"
	mkdir -p "$tree/lib/apk/packages"
	cp -a "$work/$1/." "$tree/"
	if [ -e "$tree/etc/config/gatehouse" ]; then
		echo /etc/config/gatehouse > "$tree/lib/apk/packages/$1.conffiles"
		echo "/etc/config/gatehouse $(sha256sum < "$tree/etc/config/gatehouse" | cut -d' ' -f1)" \
			> "$tree/lib/apk/packages/$1.conffiles_static"
	fi
	[ -z "$7" ] || echo "$7" > "$tree/lib/apk/packages/$1.rusers"
	(cd "$tree" && find . \( -type f -o -type l \) | sed 's/^\.//' | LC_ALL=C sort) > "$work/list"
	mv "$work/list" "$tree/lib/apk/packages/$1.list"
	chmod 644 "$tree/lib/apk/packages/"*
	find "$tree" -exec touch -h -d @0 {} +
	install="$functions
export root=\"\${IPKG_INSTROOT}\"
export pkgname=\"$1\"
add_group_and_user
default_postinst
$5"
	script "dist/apk/$1/post-install" "$guard" "$install"
	script "dist/apk/$1/post-upgrade" 'export PKG_UPGRADE=1' "$guard" "$install"
	script "dist/apk/$1/pre-deinstall" "$functions" 'export root="${IPKG_INSTROOT}"' "export pkgname=\"$1\"" 'default_prerm' "$6"
	cat >> dist/apk/make.sh <<-MAKE

		"\$apk" mkpkg --info name:$1 --info version:$version --info "description:$4" --info arch:$2 \\
			--info license:$licence --info "maintainer:$maintainer" --info origin:feeds/gatehouse/$1 --info "depends:$(echo "$3" | sed 's/ (\(>=\) \([^)]*\))/\1\2/g; s/,//g')" \\
			--script post-install:$1/post-install --script post-upgrade:$1/post-upgrade \\
			--script pre-deinstall:$1/pre-deinstall --files $1/root --output ../$1-$version.apk
	MAKE
}

gatehouse_tree "$work/gatehouse"
luci_tree "$work/luci-app-gatehouse"
settle "$work/gatehouse"
settle "$work/luci-app-gatehouse"

ipk gatehouse "$arch" "$gatehouse_depends" "$gatehouse_section" "$gatehouse_text" \
	"$gatehouse_after" "$gatehouse_before" gatehouse:gatehouse
ipk luci-app-gatehouse all "$luci_depends" "$luci_section" "$luci_text" "$luci_after" "$luci_before" ""

rm -rf dist/apk
mkdir -p dist/apk
cat > dist/apk/make.sh <<'MAKE'
#!/bin/sh
# Makes the .apk files out of these trees, as root or under fakeroot (owners are taken as they are): make.sh [APK]
# APK is apk-tools 3 or later with mkpkg, such as staging_dir/host/bin/apk of the OpenWrt SDK.
set -eu
cd "$(dirname "$0")"
apk="${1:-apk}"
MAKE
chmod 755 dist/apk/make.sh
apk_tree gatehouse "$arch" "$gatehouse_depends" "$gatehouse_text" "$gatehouse_after" "$gatehouse_before" gatehouse:gatehouse
apk_tree luci-app-gatehouse noarch "$luci_depends" "$luci_text" "$luci_after" "$luci_before" ""

if apk mkpkg --help >/dev/null 2>&1; then
	sh dist/apk/make.sh
else
	echo "dist/apk: no apk with mkpkg here; for the .apk files run: sh dist/apk/make.sh PATH/TO/apk"
fi
