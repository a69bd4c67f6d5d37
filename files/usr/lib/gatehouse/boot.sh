#!/bin/sh
# Puts the blocks of the last run in force again, without the agent: boot.sh STATE_DIRECTORY
# Loading them twice, or over rules that stand, changes nothing. A file that is refused does not keep others out.

state=${1:?usage: boot.sh STATE_DIRECTORY}
status=0

for file in "$state"/*.nft; do
	[ -f "$file" ] || continue
	nft -f "$file" || status=1
done

for file in "$state"/*.ipset; do
	[ -f "$file" ] || continue
	ipset restore -exist <"$file" || status=1
done

# Jumps (-I) are in these files for who loads them by hand; here those that stand are left out. All is asked before
# the restore begins, for that locks the tables.
for tool in iptables ip6tables; do
	for file in "$state"/*."$tool"; do
		[ -f "$file" ] || continue
		text=$(while read -r line; do
			case $line in
			# shellcheck disable=SC2086
			"-I "*) $tool -w -C ${line#-I } </dev/null 2>/dev/null && continue ;;
			esac
			printf '%s\n' "$line"
		done <"$file")
		printf '%s\n' "$text" | $tool-restore --noflush --wait=10 || status=1
	done
done

exit $status
