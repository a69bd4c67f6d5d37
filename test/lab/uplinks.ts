/**
 * A second uplink for the lab's router, by another provider, and what a DHCP hook does about each of the two.
 *
 *     router ─┬─ wan   203.0.113.2, 2001:db8:ff::2 ── uplink  ─┐
 *             └─ wan2  192.0.2.2,   2001:db8:fe::2 ── uplink2 ─┴─ internet
 *
 * Each provider lets only packets from its own addresses through, as providers do: what leaves by the wrong uplink
 * gets no answer (unless the lab masquerades: then it gets one under a false name). In the router's main table the first one is preferred; the other has a default route with a
 * larger metric, as netifd gives it with `option metric`. A reboot of the router does not bring the second one back.
 */

import { must } from "./children.ts";
import type { Lab } from "./network.ts";
import { provider, router, servers } from "./topology.ts";

export interface Uplink {
  readonly device: string;
  readonly address4: string;
  readonly address6: string;
  readonly gateway4: string;
  readonly gateway6: string;
}

export const uplinks: readonly [Uplink, Uplink] = [
  {
    ...{ device: "wan", address4: router.wan4, address6: router.wan6 },
    ...{ gateway4: provider.address4, gateway6: provider.address6 },
  },
  {
    ...{ device: "wan2", address4: "192.0.2.2", address6: "2001:db8:fe::2" },
    ...{ gateway4: "192.0.2.1", gateway6: "2001:db8:fe::1" },
  },
];

/** What the providers let through. For `nft -f` in `internet`. */
const providers = `table inet providers {
	chain ingress {
		type filter hook prerouting priority raw; policy accept;
		iifname "uplink" ip saddr 192.0.2.0/24 drop
		iifname "uplink" ip6 saddr 2001:db8:fe::/64 ip6 daddr != { fe80::/10, ff00::/8 } drop
		iifname "uplink2" ip saddr 203.0.113.0/24 drop
		iifname "uplink2" ip6 saddr 2001:db8:ff::/64 ip6 daddr != { fe80::/10, ff00::/8 } drop
	}
}
`;

/** The router's firewall treats the second one as it does the first. */
const zones = `if nft list table inet fw4 >/dev/null 2>&1; then
	nft add rule inet fw4 input iifname wan2 jump input_wan
	nft add rule inet fw4 forward iifname wan2 jump forward_wan
	nft insert rule inet fw4 forward_lan oifname wan2 accept
	if nft list chain inet fw4 srcnat | grep -q srcnat_wan; then
		nft add rule inet fw4 srcnat oifname wan2 jump srcnat_wan
	fi
else
	for each in iptables ip6tables; do
		$each -A INPUT -i wan2 -j zone_wan_input
		$each -A FORWARD -i wan2 -j zone_wan_forward
		$each -I zone_lan_forward -o wan2 -j ACCEPT
	done
	if iptables -t nat -C POSTROUTING -o wan -j MASQUERADE 2>/dev/null; then
		iptables -t nat -A POSTROUTING -o wan2 -j MASQUERADE
	fi
fi
`;

/** Plugs the second uplink in. */
export async function addUplink(lab: Lab): Promise<void> {
  const [, second] = uplinks;
  const batch = (host: string, lines: readonly string[]) =>
    lab.must(host, ["ip", "-batch", "-"], { input: lines.join("\n") });
  await must("ip link add wan2 index 90 netns router type veth peer name uplink2 netns internet".split(" "));
  await batch("internet", [
    `address add ${second.gateway4}/24 dev uplink2`,
    `address add ${second.gateway6}/64 dev uplink2 nodad`,
    "link set uplink2 up",
  ]);
  await lab.must("internet", ["nft", "-f", "-"], { input: providers });
  await lab.must("router", ["sh", "-eu", "-c", zones]);
  await batch("router", [
    `address add ${second.address4}/24 dev wan2`,
    `address add ${second.address6}/64 dev wan2 nodad`,
    "link set wan2 up",
    `route add default via ${second.gateway4} dev wan2 metric 2048`,
    `route add default via ${second.gateway6} dev wan2 metric 2048`,
  ]);
}

/** What a hook script of a DHCP client does when it has an address. Prints the table. */
export function hookOf(uplink: Uplink, family: 4 | 6): string {
  const [address, gateway, length] =
    family === 4 ? [uplink.address4, uplink.gateway4, 24] : [uplink.address6, uplink.gateway6, 64];
  const network = `${gateway.replace(family === 4 ? /\d+$/ : /1$/, family === 4 ? "0" : "")}/${length}`;
  return [
    `T=$(gatehouse lease -${family} -a ${address} -n ${length} -i ${uplink.device} -d tas_socket)`,
    '[ "$T" != 0 ] || exit 1',
    // What is sent to the uplink's own network looks into the table too: the gateway has to be found there.
    `ip -${family} route replace ${network} dev ${uplink.device} table $T`,
    `ip -${family} route replace default via ${gateway} dev ${uplink.device} table $T`,
    "echo $T",
  ].join("\n");
}

/** Runs the hook of each uplink in each family. @returns the tables: of the first uplink, then of the second. */
export async function leaseUplinks(lab: Lab): Promise<Record<4 | 6, readonly number[]>> {
  const tables: Record<4 | 6, number[]> = { 4: [], 6: [] };
  for (const family of [4, 6] as const) {
    for (const uplink of uplinks) {
      tables[family].push(Number(await lab.must("router", ["sh", "-eu", "-c", hookOf(uplink, family)])));
    }
  }
  return tables;
}

/** Whether the internet answers to a program on the router that is bound to an address. */
export async function answers(lab: Lab, from: string): Promise<boolean> {
  const target = from.includes(":") ? servers.web.address6 : servers.web.address4;
  const { status } = await lab.exec("router", ["ping", "-c", "1", "-W", "1", "-I", from, target]);
  return status === 0;
}
