#!/bin/sh
# Lets the firewall pass what isolation decides: `segments.sh put`, as the configuration says, `segments.sh clear`.
#
# A firewall that forwards nothing from a segment by itself, as it should, would drop what our rules before it accept.
# These are put into its chains: forward and input of table `inet fw4`, forwarding_rule and input_rule of fw3. From a
# segment they let pass only packets that were translated, which our rules alone do; without our rules nothing is open.
# Of a firewall that is not there, nothing is asked. What stands is replaced in one step, so twice is once.

# What is configured is no pattern of file names.
set -f
mark=gatehouse

option() {
	uci -q get "gatehouse.$1" || echo "$2"
}

is_on() {
	case "$1" in 1 | on | true | yes | enabled) return 0 ;; esac
	return 1
}

# segments: the names of those that have one
segments() {
	uci -q show gatehouse | sed -n 's/^gatehouse\.\([A-Za-z0-9_]*\)=segment$/\1/p'
}

# networks SEGMENT: the devices of its networks, a line each, as far as netifd has them now
networks() {
	for network in $(option "$1.network"); do
		case "$network" in *[!A-Za-z0-9_.-]*) continue ;; esac
		ubus -S call "network.interface.$network" status 2>/dev/null |
			jsonfilter -q -e "@.l3_device" -e "@.device" | head -n 1
	done
}

# devices SEGMENT: a line each; nothing that could be more than a name
devices() {
	for device in $(option "$1.device") $(networks "$1"); do
		case "$device" in '' | *[!A-Za-z0-9_.@-]* | ????????????????*) continue ;; esac
		echo "$device"
	done
}

# door: where the HTTP interface is, as "tcp/PORT/ADDRESS"; nothing where it is off, or for the router alone
door() {
	http="$(option isolation.http)"
	port="${http##*:}"
	address="${http%:*}"
	address="${address#[}"
	address="${address%]}"
	case "$port" in '' | *[!0-9]*) return 0 ;; esac
	case "$address" in '' | *[!0-9a-fA-F.:]* | 127.* | ::1) return 0 ;; esac
	echo "tcp/$port/$address"
}

# managed: "DEVICE [PROTOCOL/PORT[/ADDRESS]…]" for each device: what of the router its services need. Who may reach the
# door is in our rules.
managed() {
	is_on "$(option isolation.enabled)" || return 0
	port="$(option isolation.dns_port 5365)"
	case "$port" in '' | *[!0-9]*) port=5365 ;; esac
	door="$(door)"
	for segment in $(segments); do
		mdns=
		is_on "$(option "$segment.mdns" 1)" && mdns=udp/5353
		for device in $(devices "$segment" | sort -u); do
			echo "$device tcp/$port udp/$port $mdns $door"
		done
	done
}

# split PROTOCOL/PORT[/ADDRESS]: into variables of these names
split() {
	protocol="${1%%/*}"
	port="${1#*/}"
	address=
	case "$port" in */*) address="${port#*/}" port="${port%%/*}" ;; esac
}

# In nft a rule is known by its comment, and is taken away by its handle.
put_nft() {
	for chain in forward input; do
		nft -a list chain inet fw4 "$chain" |
			sed -n "s/^.* comment \"$mark\" # handle \([0-9]*\)\$/delete rule inet fw4 $chain handle \1/p"
	done
	nd="nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert"
	listeners="mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report"
	echo "$1" | while read -r device ports; do
		[ -n "$device" ] || continue
		echo "insert rule inet fw4 forward iifname \"$device\" ct status dnat accept comment \"$mark\""
		echo "insert rule inet fw4 input iifname \"$device\" udp dport { 67, 547 } accept comment \"$mark\""
		echo "insert rule inet fw4 input iifname \"$device\" icmpv6 type { $nd, $listeners } accept comment \"$mark\""
		for each in $ports; do
			split "$each"
			case "$address" in
			'') to= ;;
			*:*) to="ip6 daddr $address " ;;
			*) to="ip daddr $address " ;;
			esac
			echo "insert rule inet fw4 input iifname \"$device\" $to$protocol dport $port accept comment \"$mark\""
		done
	done
}

# put_xtables TOOL MANAGED: lines for TOOL-restore
put_xtables() {
	comment="-m comment --comment $mark"
	echo "*filter"
	for chain in forwarding_rule input_rule; do
		"$1" -w -S "$chain" | sed -n "/ --comment \"*$mark\"* /s/^-A /-D /p"
	done
	echo "$2" | while read -r device ports; do
		[ -n "$device" ] || continue
		echo "-I forwarding_rule -i $device -m conntrack --ctstate DNAT $comment -j ACCEPT"
		if [ "$1" = iptables ]; then
			ports="$ports udp/67"
		else
			ports="$ports udp/547"
			for type in 130 131 132 133 134 135 136 143; do
				echo "-I input_rule -i $device -p icmpv6 --icmpv6-type $type $comment -j ACCEPT"
			done
		fi
		for each in $ports; do
			split "$each"
			case "$1 $address" in
			*" ") to= ;;
			"iptables "*:* | "ip6tables "*.*) continue ;;
			*) to="-d $address " ;;
			esac
			echo "-I input_rule -i $device $to-p $protocol --dport $port $comment -j ACCEPT"
		done
	done
	echo COMMIT
}

case "$1" in
put) managed="$(managed)" ;;
clear) managed= ;;
*)
	echo "usage: segments.sh put|clear" >&2
	exit 2
	;;
esac
status=0
if nft list chain inet fw4 forward >/dev/null 2>&1; then
	put_nft "$managed" | nft -f - || status=1
fi
for tool in iptables ip6tables; do
	"$tool" -w -S forwarding_rule >/dev/null 2>&1 || continue
	put_xtables "$tool" "$managed" | "$tool-restore" --noflush --wait=10 || status=1
done
exit $status
