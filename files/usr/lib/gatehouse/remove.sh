#!/bin/sh
# Takes back what we set in kernel and firewall, for when the package goes. What is on disk stays: who installs it
# again has its blocks again.
#
# Blocks outlive the agent, so this is what ends them. Nobody else's is touched: tables, chains and sets are ours by
# their names, rules, routes and neighbours by our numbers among those who write them, ports by the list that we keep.

here="${0%/*}"
state="$(uci -q get gatehouse.main.state_dir || echo /etc/gatehouse)"
run="$(uci -q get gatehouse.main.run_dir || echo /var/run/gatehouse)"
status=0

# The agent would put everything back: it has to be gone, which takes it seconds, or procd's patience.
if [ -x /etc/init.d/gatehouse ]; then
	/etc/init.d/gatehouse stop
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
		/etc/init.d/gatehouse alive || break
		sleep 1
	done
fi

sh "$here/segments.sh" clear || status=1
sh "$here/zones.sh" clear || status=1
uci -q batch <<-EOT
	delete firewall.gatehouse
	commit firewall
EOT

# nft: whatever their family.
if command -v nft >/dev/null; then
	nft list tables | sed -n 's/^table \([a-z0-9]*\) \(gatehouse_[A-Za-z0-9_]*\)$/delete table \1 \2/p' | nft -f - || status=1
fi

# Jumps into our chains, then these, empty; only of tables that are there.
for tool in iptables ip6tables; do
	command -v "$tool-save" >/dev/null || continue
	lines="$("$tool-save" 2>/dev/null | awk '
		/^\*/ { table = $0 }
		/^:gatehouse-/ {
			chain = substr($1, 2)
			emptied[table] = emptied[table] "-F " chain "\n"
			gone[table] = gone[table] "-X " chain "\n"
		}
		/^-A / && $2 !~ /^gatehouse-/ && / -[jg] gatehouse-[^ "]*$/ { jumps[table] = jumps[table] "-D" substr($0, 3) "\n" }
		END { for (table in gone) printf "%s\n%s%s%sCOMMIT\n", table, jumps[table], emptied[table], gone[table] }
	')"
	[ -z "$lines" ] || printf '%s\n' "$lines" | "$tool-restore" --noflush --wait=10 || status=1
done
if command -v ipset >/dev/null; then
	for set in $(ipset list -n 2>/dev/null); do
		case "$set" in gh-nodes-* | gh-flows-* | gh-isolation-* | gh-ipref-*) ipset destroy "$set" || status=1 ;; esac
	done
fi

# 71 is what we lease and resolve, 72 the way into IPREF's tunnel.
for family in -4 -6; do
	for number in 71 72; do
		ip "$family" rule flush protocol "$number" 2>/dev/null
		ip "$family" route flush table all proto "$number" 2>/dev/null
		ip "$family" neigh flush nud permanent proto "$number" 2>/dev/null
	done
done

# is_isolated PORT: whether the network's own configuration wants it so
is_isolated() {
	for section in $(uci -q show network | sed -n "s/^network\.\([A-Za-z0-9_]*\)\.name='\(.*\)'\$/\1=\2/p"); do
		[ "${section#*=}" = "$1" ] && [ "$(uci -q get "network.${section%%=*}.isolate")" = 1 ] && return 0
	done
	return 1
}

for file in "$state"/*.guards; do
	[ -f "$file" ] || continue
	while read -r what name; do
		case "$name" in */* | .* | *[!A-Za-z0-9_.@-]*) continue ;; esac
		case "$what" in
		port) setting="/sys/class/net/$name/brport/isolated" ;;
		bridge) setting="/proc/sys/net/ipv4/conf/$name/proxy_arp_pvlan" ;;
		*) continue ;;
		esac
		[ -e "$setting" ] || continue
		[ "$what" = port ] && is_isolated "$name" || echo 0 >"$setting" || status=1
	done <"$file"
done

# Links to sockets that went with the agent.
for file in /var/run/*; do
	case "$(readlink "$file")" in "$run"/*) rm -f "$file" ;; esac
done

exit "$status"
