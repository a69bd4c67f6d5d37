#!/bin/sh
# Tells dnsmasq which domains the IPREF gateway answers: `zones.sh put`, as the configuration says, `zones.sh clear`.
# dnsmasq reads such lines only when it starts, so it is started again, if they are others now.

# What is configured is no pattern of file names.
set -f
init=/etc/init.d/dnsmasq
name=gatehouse-ipref.conf

# wanted: the lines; none where the gateway is off, or has no domains
wanted() {
	case "$(uci -q get gatehouse.ipref.enabled)" in
	1 | on | true | yes | enabled) ;;
	*) return 0 ;;
	esac
	port="$(uci -q get gatehouse.ipref.dns_port)" || port=5364
	for zone in $(uci -q get gatehouse.ipref.zone); do
		# Nothing that could be another line, or another server.
		case "$zone" in *[!A-Za-z0-9._-]*) continue ;; esac
		case "$port" in *[!0-9]*) continue ;; esac
		# Its answers are private addresses, which dnsmasq else takes for an attack.
		printf 'server=/%s/127.0.0.1#%s\nrebind-domain-ok=/%s/\n' "${zone%.}" "$port" "${zone%.}"
	done
}

# folders: where each dnsmasq looks for more lines; before OpenWrt 24.10 all had one folder
folders() {
	for section in $(uci -q -X show dhcp | sed -n 's/^dhcp\.\([A-Za-z0-9_]*\)=dnsmasq$/\1/p'); do
		# shellcheck disable=SC2016  # The text of the script is meant.
		folder="$(uci -q get "dhcp.$section.confdir")" ||
			if grep -q 'dnsmasq${cfg' "$init"; then folder="/tmp/dnsmasq.$section.d"; else folder=/tmp/dnsmasq.d; fi
		# What of the folder is read may follow.
		echo "${folder%%,*}"
	done
}

case "$1" in
put) lines="$(wanted)" ;;
clear) lines= ;;
*)
	echo "usage: zones.sh put|clear" >&2
	exit 2
	;;
esac
[ -x "$init" ] || exit 0
changed=
for folder in $(folders | sort -u); do
	file="$folder/$name"
	[ "$(cat "$file" 2>/dev/null)" = "$lines" ] && continue
	changed=1
	if [ -z "$lines" ]; then
		rm -f "$file"
	else
		# dnsmasq leaves out what begins with a dot.
		mkdir -p "$folder" && printf '%s\n' "$lines" >"$folder/.$name" && mv "$folder/.$name" "$file"
	fi
done
[ -z "$changed" ] || ! "$init" running || "$init" restart
