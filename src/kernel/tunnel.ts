/**
 * The interface of a tunnel made ready: an address of our own, a network that leads into it, its MTU, and up.
 *
 * The interface is there already (whoever opened the TUN made it) and everything set here goes with it, so nothing is
 * ever taken back: but for a refusal, if one is asked for, that stays and takes the net's packets while there is no
 * interface. Each step is acknowledged by the kernel and may be done again. Two settings come first: the kernel
 * takes packets from the interface that bear its own address, because errors that the tunnel makes do; and it says
 * nothing by itself into it (router solicitations).
 *
 *     RTM_NEWLINK    | family 0 | 0 | type (16) | ifindex (32) | flags (32) | change (32) |  IFLA_…
 *     RTM_NEWADDR    | family   | prefix | flags | scope | ifindex (32) |                     IFA_…
 *
 * Source: rtnetlink(7), linux/if_link.h, linux/if_addr.h, Documentation/networking/ip-sysctl.rst.
 */

import { type Address, encodeAddress, familyOf, type Prefix, prefixOf } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Disk } from "../system/system.ts";
import { type AttributeList, Attributes, concat, encodeAttributes, host } from "./attribute.ts";
import { encodeFibQuestion, encodeRoute, fibMessage } from "./fib.ts";
import { type Message, Netlink, type NetlinkSystem, routeProtocol } from "./netlink.ts";
import { decodeLink, type Link } from "./rtnetlink.ts";

export interface TunnelPlan {
  /** The interface's name. */
  readonly device: string;
  /** Of our own, alone (/32 or /128): source of what the router itself sends into the tunnel. */
  readonly address: Address;
  /** What leads into the tunnel, of the address's family. */
  readonly net: Prefix;
  /** Largest packet that is ever sent into it. */
  readonly mtuBytes: number;
  /** Packets that may wait for the tunnel's program. Default 2000. */
  readonly queuePackets?: number;
  /** RTA_PROTOCOL of the routes: who made them. */
  readonly protocol: number;
  /**
   * Whether packets for the net are refused, instead of taking the default route, when the interface is gone: by an
   * unreachable route, the last that counts. Those for other nets that bear the protocol's number go. Default false.
   */
  readonly refuses?: boolean;
}

const message = { newLink: 16, getLink: 18, newAddress: 20 } as const;
/** IFLA_MTU, IFLA_TXQLEN; IFLA_IFNAME. */
const linkAttribute = { name: 3, mtu: 4, queue: 13 } as const;
const addressAttribute = { address: 1, local: 2 } as const;
/** RTA_DST, RTA_PRIORITY. */
const routeAttribute = { to: 1, metric: 6 } as const;
const routeHeaderBytes = 12;
/** RTN_UNREACHABLE: who sends is told so at once. */
const unreachable = 7;
const lastMetric = 0xffff_ffff;
const attributes = new Attributes(30);
/** NLM_F_REPLACE and NLM_F_CREATE. */
const put = 0x100 | 0x400;
const isUp = 1;
/** IFA_F_NODAD: nobody else is on a tunnel. */
const noDuplicates = 0x02;
const mainTable = 254;
/** A burst of a TCP connection at full speed while our thread waits for its turn. */
const defaultQueuePackets = 2_000;
const [inet, inet6] = [2, 10];

/**
 * Makes the interface ready.
 *
 * @throws Fault "not-found" if there is none of that name, "denied", "kernel" as the kernel refuses.
 */
export async function raiseTunnel(
  system: NetlinkSystem & Pick<Disk, "set">,
  plan: TunnelPlan,
): Promise<Link> {
  const family = familyOf(plan.address);
  const netlink = new Netlink(system, { protocol: routeProtocol });
  try {
    const link = await linkNamed(netlink, plan.device);
    if (plan.refuses) await refuse(netlink, plan);
    await prepare(system, plan.device, family);
    await netlink.request({
      type: message.newLink,
      payload: encodeLink(link.ifindex, [
        [linkAttribute.mtu, host.bytes32(plan.mtuBytes)],
        [linkAttribute.queue, host.bytes32(plan.queuePackets ?? defaultQueuePackets)],
      ]),
      verb: `raise ${plan.device}`,
    });
    await netlink.request({
      type: message.newAddress,
      flags: put,
      payload: encodeInterfaceAddress(link.ifindex, plan.address),
      verb: `give ${plan.device} the address ${plan.address}`,
    });
    const route = {
      ...{ family, table: mainTable, to: plan.net, ifindex: link.ifindex },
      source: plan.address,
    };
    await netlink.request({
      type: fibMessage.newRoute,
      flags: put,
      payload: encodeRoute(route, plan.protocol),
      verb: `route ${plan.net} into ${plan.device}`,
    });
    return await linkNamed(netlink, plan.device);
  } finally {
    netlink.close();
  }
}

/** The refusal of a net comes before those of others go. */
async function refuse(netlink: Netlink, { net, protocol }: TunnelPlan): Promise<void> {
  await netlink.request({
    type: fibMessage.newRoute,
    flags: put,
    payload: encodeRefusal(net, protocol),
    verb: `refuse ${net}`,
  });
  for (const family of [4, 6] as const) {
    const others: Uint8Array[] = [];
    await netlink.dump(
      { type: fibMessage.getRoute, payload: encodeFibQuestion(family), verb: "read routes" },
      {
        onMessage: (answer) => {
          const found = refusalIn(answer);
          if (found?.protocol === protocol && found.net !== net) others.push(found.message);
        },
        onRestart: () => void others.splice(0),
      },
    );
    // One that somebody else removed meanwhile is gone all the same.
    const questions = others.map((payload) => {
      return { type: fibMessage.deleteRoute, payload, verb: "remove a refusal" };
    });
    await netlink.requestAll(questions);
  }
}

function encodeRefusal(net: Prefix, protocol: number): Uint8Array {
  const [base, length] = net.split("/") as [Address, string];
  const family = familyOf(base) === 6 ? inet6 : inet;
  return concat([
    Uint8Array.of(family, Number(length), 0, 0, mainTable, protocol, 0, unreachable),
    host.bytes32(0),
    encodeAttributes([
      [routeAttribute.to, encodeAddress(base)],
      [routeAttribute.metric, host.bytes32(lastMetric)],
    ]),
  ]);
}

/** The unreachable route that a message tells of. */
function refusalIn(answer: Message): { net: Prefix; protocol: number; message: Uint8Array } | undefined {
  const { bytes, start, end } = answer;
  const from = start + routeHeaderBytes;
  if (from > end || bytes[start + 7] !== unreachable || !attributes.read(bytes, from, end)) return undefined;
  const to = attributes.address(routeAttribute.to);
  if (to === undefined || attributes.number32(routeAttribute.metric, host) !== lastMetric) return undefined;
  const net = prefixOf(to, bytes[start + 1]!);
  return { net, protocol: bytes[start + 5]!, message: bytes.slice(start, end) };
}

async function linkNamed(netlink: Netlink, name: string): Promise<Link> {
  let found: Link | undefined;
  const question = {
    type: message.getLink,
    payload: concat([
      new Uint8Array(16),
      encodeAttributes([[linkAttribute.name, new TextEncoder().encode(`${name}\0`)]]),
    ]),
    verb: `find ${name}`,
  };
  await netlink.request(question, (answer) => {
    const link = decodeLink(answer);
    if (typeof link !== "string") found = link;
  });
  if (found === undefined) throw new Fault("not-found", `Cannot find ${name}: no such interface`);
  return found;
}

async function prepare(system: Pick<Disk, "set">, device: string, family: 4 | 6): Promise<void> {
  const settings: [string, string][] =
    family === 4
      ? [
          [`ipv4/conf/${device}/accept_local`, "1"],
          [`ipv6/conf/${device}/disable_ipv6`, "1"],
        ]
      : [
          [`ipv6/conf/${device}/addr_gen_mode`, "1"],
          [`ipv6/conf/${device}/accept_ra`, "0"],
        ];
  for (const [name, value] of settings) {
    try {
      await system.set(`/proc/sys/net/${name}`, value);
    } catch (thrown) {
      // A kernel without IPv6 has nothing to be kept quiet.
      if (!(thrown instanceof Fault && thrown.code === "not-found")) throw thrown;
    }
  }
}

function encodeLink(ifindex: number, list: AttributeList): Uint8Array {
  const header = [new Uint8Array(4), host.bytes32(ifindex), host.bytes32(isUp), host.bytes32(isUp)];
  return concat([...header, encodeAttributes(list)]);
}

function encodeInterfaceAddress(ifindex: number, address: Address): Uint8Array {
  const six = familyOf(address) === 6;
  const bytes = encodeAddress(address);
  const header = Uint8Array.of(six ? inet6 : inet, bytes.length * 8, six ? noDuplicates : 0, 0);
  return concat([
    header,
    host.bytes32(ifindex),
    encodeAttributes([
      [addressAttribute.local, bytes],
      [addressAttribute.address, bytes],
    ]),
  ]);
}
