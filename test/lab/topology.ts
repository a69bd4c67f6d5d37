/**
 * The lab's network on paper: who has which address and name, and the texts that make it so.
 *
 *     laptop ──┐                ┌─ web.example.net
 *     camera ──┼─ router ── internet ─ cdn-a, cdn-b (one address), video, time
 *     more … ──┘ br-lan  wan        └─ the name server of example.net
 *
 * Pure: options in, plain data and scripts out. network.ts carries them out. Scripts are for `sh -eu`, hold no
 * word from outside (client names are checked by `clientsOf`), and stay readable under /run/lab for whoever
 * wants to know how the network was made.
 */

export interface Client {
  readonly name: string;
  readonly mac: string;
  readonly address4: string;
  readonly address6: string;
  /** The end of its cable in the router, a port of br-lan. */
  readonly port: string;
  /** Whether its DHCP client tells its name; the camera's name is only in the router's `config host`. */
  readonly tellsName: boolean;
}

export interface Server {
  readonly names: readonly string[];
  readonly address4: string;
  readonly address6: string;
}

export type Backend = "auto" | "nft" | "ipset";

export const router = {
  lan4: "10.77.0.1",
  lan6: "fd77::1",
  wan4: "203.0.113.2",
  wan6: "2001:db8:ff::2",
} as const;

/** The other end of the router's wan cable. */
export const provider = { address4: "203.0.113.1", address6: "2001:db8:ff::1" } as const;

export const servers = {
  web: { names: ["web.example.net"], address4: "198.51.100.10", address6: "2001:db8:100::10" },
  video: { names: ["video.example.net"], address4: "198.51.100.20", address6: "2001:db8:100::20" },
  cdn: {
    names: ["cdn-a.example.net", "cdn-b.example.net"],
    address4: "198.51.100.30",
    address6: "2001:db8:100::30",
  },
  time: { names: ["time.example.net"], address4: "198.51.100.40", address6: "2001:db8:100::40" },
  names: { names: ["ns.example.net"], address4: "198.51.100.53", address6: "2001:db8:100::53" },
} as const satisfies Record<string, Server>;

export type ServerName = keyof typeof servers;

/** Where things lie inside the enclosure. */
export const paths = {
  folder: "/run/lab",
  etc: "/run/lab-etc",
  leases: "/run/lab/dhcp.leases",
  peer: "/run/lab/peer.cjs",
  dhcpScript: "/run/lab/dhcp.sh",
  configuration: "/etc/config/gatehouse",
  /** Also OpenWrt's place: /var/run is /run. */
  bus: "/run/ubus/ubus.sock",
  state: "/etc/gatehouse",
  run: "/run/gatehouse",
  rpc: "/run/spin_rpc.sock",
} as const;

/** Laptop, camera and further clients. @throws RangeError for a name that cannot be a host here. */
export function clientsOf(more: readonly string[]): Client[] {
  const names = ["laptop", "camera", ...more];
  if (names.length > 60) throw new RangeError("Cannot plan the lab: more than 60 clients");
  const taken = new Set(["router", "internet"]);
  return names.map((name, index) => {
    if (!/^[a-z][a-z0-9-]{0,14}$/.test(name) || taken.has(name)) {
      throw new RangeError(`Cannot plan the lab: client name ${JSON.stringify(name)} is taken or malformed`);
    }
    taken.add(name);
    const number = index + 10;
    return {
      name,
      mac: `02:77:00:00:00:${number.toString(16).padStart(2, "0")}`,
      address4: `10.77.0.${number}`,
      address6: `fd77::${number}`,
      port: `lan${index + 1}`,
      tellsName: name !== "camera",
    };
  });
}

/** Settings that every host needs first: no waiting for duplicate addresses. */
const settle = [
  "echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad",
  "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad",
  "echo 0 >/proc/sys/net/ipv6/conf/default/router_solicitations",
];

function script(lines: readonly string[], batch: readonly string[]): string {
  return [...lines, "ip -batch - <<'EOT'", ...batch, "EOT", ""].join("\n");
}

/** In the enclosure itself: hosts, and cables that hang loose at the router's end. */
export function renderCables(clients: readonly Client[]): string {
  const hosts = ["internet", ...clients.map((each) => each.name)];
  return script(
    [
      "ip -batch - <<'EOT'",
      ...hosts.map((name) => `netns add ${name}`),
      "EOT",
      ...hosts.map(
        (name) => `ip netns exec ${name} sh -eu <<'EOT'\n${[...settle, "ip link set lo up"].join("\n")}\nEOT`,
      ),
    ],
    // Index numbers of their own at this end: where both ends of a cable had the same, the kernel would take
    // it for a plain device, whose carrier IPv6 gets to know up to a second late.
    [
      "link add wan index 100 type veth peer name uplink netns internet",
      ...clients.map(
        (each, index) =>
          `link add ${each.port} index ${101 + index} type veth peer name eth0 address ${each.mac} netns ${each.name}`,
      ),
    ],
  );
}

/** In `internet`: the provider's side of the cable, and a handful of servers. */
export function renderInternet(nat: boolean): string {
  return script(
    [],
    [
      `address add ${provider.address4}/24 dev uplink`,
      `address add ${provider.address6}/64 dev uplink`,
      ...Object.values(servers).flatMap((each) => [
        `address add ${each.address4}/32 dev lo`,
        `address add ${each.address6}/128 dev lo`,
      ]),
      "link set uplink up",
      `route add fd77::/64 via ${router.wan6}`,
      // Only without masquerade: with it, an address of the LAN that gets out must not be answered.
      ...(nat ? [] : [`route add 10.77.0.0/24 via ${router.wan4}`]),
    ],
  );
}

/** In a client: IPv6 by hand; IPv4 comes by DHCP. */
export function renderClient(client: Client): string {
  return script(
    [],
    [
      `address add ${client.address6}/64 dev eth0`,
      "link set eth0 up",
      `route add default via ${router.lan6} dev eth0`,
    ],
  );
}

/** What udhcpc runs when it has a lease. resolv.conf is the client's own. */
export const dhcpScript = `#!/bin/sh -eu
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
ip route replace default via "\${router%% *}" dev "$interface"
{ for each in $dns; do echo "nameserver $each"; done; echo "search \${domain:-lan}"; } >/etc/resolv.conf
`;

/** In the enclosure: plugs the cables into a router that is there, and pulls them out of one. */
export function renderPlug(clients: readonly Client[], how: "in" | "out"): string {
  const cables = ["wan", ...clients.map((each) => each.port)];
  // "1" is the enclosure's first process, in the network namespace where nobody lives.
  return how === "in"
    ? script(
        [],
        cables.map((name) => `link set ${name} netns router`),
      )
    : ["ip -n router -batch - <<'EOT'", ...cables.map((name) => `link set ${name} netns 1`), "EOT", ""].join(
        "\n",
      );
}

/** In `router`, before its cables are in, since interfaces take these settings when they appear. */
export const routerSettings = [
  ...settle,
  "echo 1 >/proc/sys/net/ipv4/ip_forward",
  "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
  "ip link set lo up",
  "",
].join("\n");

/** In `router`, with its cables: bridge, addresses, routes. */
export function renderRouter(clients: readonly Client[]): string {
  return script(
    [],
    [
      "link add br-lan address 02:77:00:00:00:01 type bridge forward_delay 0 mcast_snooping 0",
      ...clients.flatMap((each) => [`link set ${each.port} master br-lan`, `link set ${each.port} up`]),
      `address add ${router.lan4}/24 dev br-lan`,
      `address add ${router.lan6}/64 dev br-lan`,
      "link set br-lan up",
      `address add ${router.wan4}/24 dev wan`,
      `address add ${router.wan6}/64 dev wan`,
      "link set wan up",
      `route add default via ${provider.address4}`,
      `route add default via ${provider.address6}`,
    ],
  );
}

/** The router's own firewall the way fw4 lays it out: one table, a chain per zone. For `nft -f`. */
export function renderFw4(nat: boolean): string {
  return `table inet fw4 {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state vmap { established : accept, related : accept }
		iifname "br-lan" jump input_lan
		iifname "wan" jump input_wan
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept }
		iifname "br-lan" jump forward_lan
		iifname "wan" jump forward_wan
	}
	chain output {
		type filter hook output priority filter; policy accept;
		oifname "lo" accept
		ct state vmap { established : accept, related : accept }
	}
	chain input_lan {
		accept
	}
	chain forward_lan {
		oifname "wan" accept
		oifname "br-lan" accept
	}
	chain input_wan {
		icmp type echo-request accept
		meta l4proto ipv6-icmp accept
		drop
	}
	chain forward_wan {
		drop
	}
	chain srcnat {
		type nat hook postrouting priority srcnat; policy accept;
${nat ? '\t\toifname "wan" jump srcnat_wan\n' : ""}	}
	chain srcnat_wan {
		meta nfproto ipv4 masquerade
	}
}
`;
}

/** The same as fw3 lays it out, for iptables-restore (4) and ip6tables-restore (6). */
export function renderFw3(family: 4 | 6, nat: boolean): string {
  const icmp = family === 4 ? "-p icmp --icmp-type echo-request" : "-p ipv6-icmp";
  return [
    "*filter",
    ":INPUT DROP [0:0]",
    ":FORWARD DROP [0:0]",
    ":OUTPUT ACCEPT [0:0]",
    ...["zone_lan_input", "zone_lan_forward", "zone_wan_input", "zone_wan_forward"].map(
      (chain) => `:${chain} - [0:0]`,
    ),
    "-A INPUT -i lo -j ACCEPT",
    "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A INPUT -i br-lan -j zone_lan_input",
    "-A INPUT -i wan -j zone_wan_input",
    "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A FORWARD -i br-lan -j zone_lan_forward",
    "-A FORWARD -i wan -j zone_wan_forward",
    "-A zone_lan_input -j ACCEPT",
    "-A zone_lan_forward -o wan -j ACCEPT",
    "-A zone_lan_forward -o br-lan -j ACCEPT",
    `-A zone_wan_input ${icmp} -j ACCEPT`,
    "-A zone_wan_input -j DROP",
    "-A zone_wan_forward -j DROP",
    "COMMIT",
    ...(family === 4 && nat ? ["*nat", "-A POSTROUTING -o wan -j MASQUERADE", "COMMIT"] : []),
    "",
  ].join("\n");
}

const dnsmasqBasics = ["keep-in-foreground", "user=root", "pid-file=", "log-facility=-", "no-hosts"];

/** dnsmasq in the router: DHCP for the LAN, names of the LAN, everything else asked of the provider. */
export function renderRouterDnsmasq(clients: readonly Client[]): string {
  return [
    ...dnsmasqBasics,
    "interface=br-lan",
    "interface=lo",
    "no-resolv",
    `server=${servers.names.address4}`,
    "domain=lan",
    "local=/lan/",
    "expand-hosts",
    `host-record=router.lan,${router.lan4},${router.lan6}`,
    "dhcp-authoritative",
    "no-ping",
    "dhcp-range=10.77.0.100,10.77.0.199,12h",
    `dhcp-leasefile=${paths.leases}`,
    ...clients.map((each) => `dhcp-host=${each.mac},${each.address4}`),
    "",
  ].join("\n");
}

/** dnsmasq in `internet`: the name server of example.net. */
export function renderInternetDnsmasq(): string {
  return [
    ...dnsmasqBasics,
    "bind-interfaces",
    "interface=lo",
    "no-resolv",
    "local=/example.net/",
    "local-ttl=60",
    ...Object.values(servers).flatMap((each: Server) =>
      each.names.map((name) => `host-record=${name},${each.address4},${each.address6}`),
    ),
    "cname=www.example.net,web.example.net",
    "",
  ].join("\n");
}

export const mosquittoConfiguration = [
  "listener 1883",
  "allow_anonymous true",
  "persistence false",
  "user root",
  "log_dest stderr",
  "",
].join("\n");

/** The router's /etc/config/dhcp: the owner has named the camera, which does not tell its name. */
export function renderHosts(clients: readonly Client[]): string {
  return clients
    .filter((each) => !each.tellsName)
    .map(
      (each) =>
        `config host\n\toption name '${each.name}'\n\toption mac '${each.mac}'\n\toption ip '${each.address4}'\n`,
    )
    .join("\n");
}

/** The agent's configuration in the lab; `more` is UCI text that follows it. */
export function renderConfiguration(backend: Backend, more: string): string {
  return `config gatehouse 'main'
	option state_dir '${paths.state}'
	option run_dir '${paths.run}'
	option backend '${backend}'
	list lan_device 'br-lan'
	list wan_device 'wan'
	option lease_file '${paths.leases}'

config mqtt 'mqtt'
	option enabled '1'
	option host '127.0.0.1'
	option port '1883'
	option prefix 'SPIN'

${more}`;
}
