#!/bin/sh
# shellcheck disable=SC2086,SC2317  # Words are split on purpose, and functions called by name.
# Puts the blocks and the isolation of the last run in force again, without the agent: boot.sh STATE_DIRECTORY [guards]
# With the word guards: only what bridges and their ports need, which are there later than rules can be.
# Loading them twice, or over rules that stand, changes nothing. A file that is cut off or refused is replaced by
# its copy, and does not keep others out.
#
# The directory may be a user's of its own, whose files root loads here: of what is in them, nothing may name a program.

state=${1:?usage: boot.sh STATE_DIRECTORY [guards]}
status=0

# Ports that exchange nothing with each other, bridges that answer for them: those that are there.
load_guards() {
	while read -r what name; do
		case "$name" in
		*/* | .*) continue ;;
		esac
		case "$what" in
		port) setting="/sys/class/net/${name}/brport/isolated" ;;
		bridge) setting="/proc/sys/net/ipv4/conf/${name}/proxy_arp_pvlan" ;;
		*) continue ;;
		esac
		[ ! -e "$setting" ] || echo 1 >"$setting"
	done <"$1"
}

load_nft() {
	nft -f "$1"
}

load_ipset() {
	ipset restore -exist <"$1"
}

# Jumps (-I) are in these files for who loads them by hand; here those that stand are left out. All are looked up
# before the first line is loaded: the older iptables lets only one of its kind at the tables.
load_xtables() {
	# The option --modprobe (-M) runs what it names; we write neither it nor quotes, which could hide it, but for comments.
	! sed 's/ --comment "[^"\\]*"/ /g' "$1" | grep -Eq "[\\\"']|(^|[[:space:]])(-[^-[:space:]]*M|--mo)" || return 1
	text=$(while read -r line; do
		case $line in
		"*"*) table=${line#?} ;;
		"-I "*) $tool -t "$table" -C ${line#-I } 2>/dev/null && continue ;;
		esac
		printf '%s\n' "$line"
	done <"$1")
	printf '%s\n' "$text" | $tool-restore --noflush --wait=10
}

# load_all ENDING LOADER: every file with that ending, or its copy
load_all() {
	for file in "$state"/*."$1"; do
		[ -f "$file" ] || continue
		for each in "$file" "$file.copy"; do
			[ "$(tail -n 1 "$each" 2>/dev/null)" = "# complete" ] && "$2" "$each" && continue 2
		done
		status=1
	done
}

load_all guards load_guards
[ "${2:-}" != guards ] || exit "$status"
load_all nft load_nft
load_all ipset load_ipset
for tool in iptables ip6tables; do
	load_all "$tool" load_xtables
done

exit "$status"
