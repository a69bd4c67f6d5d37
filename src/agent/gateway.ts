/**
 * The IPREF gateway, joined to the machine: mappings on disk, the thread that moves packets, its interface, the hosts
 * file, the broker's socket, the resolver for the configured zones and imported zones.
 *
 * Kept: the router's own addresses, to which no mapping may lead, which gateways may reach us first, and what the
 * forwarders have learned of gateways. Mappings are restored before a packet moves. What cannot be opened besides is
 * said, and the rest runs. While there is no interface, the kernel refuses packets to encoded addresses: they are
 * nobody's on the outside, and what is in them is not for others. `leaveEncodeNet` ends that.
 */

import type { Config } from "../config/config.ts";
import { DnsClient, type DnsServer, openDnsServer, Rcode } from "../dns/dns.ts";
import {
  type Broker,
  describeReport,
  deviceMtuBytes,
  type Forwarding,
  type ForwardSettings,
  gatewaysMemory,
  HostsFile,
  Imports,
  iprefMethods,
  type Mappings,
  openBroker,
  openForwarding,
  openMappings,
  parseSource,
  Resolver,
  sweepMs,
} from "../ipref/ipref.ts";
import { type InterfaceAddress, openSteering, raiseTunnel } from "../kernel/kernel.ts";
import {
  type Address,
  broadcastOf,
  decodeAddress,
  encodeAddress,
  type Family,
  familyOf,
  parseAddress,
  scopeOf,
} from "../lib/address.ts";
import { parseName, TYPE_A, TYPE_AAAA } from "../lib/dns.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import { encodeReference, formatReference, parseReference } from "../lib/reference.ts";
import type { Cancel, Endpoint, System } from "../system/system.ts";
import type { Method, Methods } from "../ubus/methods.ts";
import { bootOf } from "./boot.ts";
import { attempt } from "./effects.ts";
import { tunnelProtocol } from "./protocol.ts";

export const iprefObject = "gatehouse.ipref";

/** Where OpenWrt keeps the servers that DHCP told; the router's own resolver would lead our questions back to us. */
const serversFile = "/tmp/resolv.conf.d/resolv.conf.auto";
/** The router's own resolver knows the names of local hosts. */
const localResolver: Endpoint = { address: parseAddress("127.0.0.1")!, port: 53 };
const dnsPort = 53;
const maxServers = 8;
/** How often it is looked which gateways may not reach us first any more. */
const peersMs = 1_000;
/** The longest packet of the LAN. */
const lanMtuBytes = 1_500;
/** Own addresses come and go in company. */
const settleMs = 1_000;

/** This router is no gateway any more: encoded addresses are addresses like others. @throws Fault "kernel", "denied" */
export async function leaveEncodeNet(system: System): Promise<void> {
  const steering = openSteering(system, { protocol: tunnelProtocol });
  try {
    await steering.apply({ rules: [], routes: [] });
  } finally {
    steering.close();
  }
}

export class Gateway {
  readonly #system: System;
  readonly #config: Config["ipref"];
  readonly #mappings: Mappings;
  readonly #damages: readonly string[];
  readonly #families: { readonly lan: Family; readonly tunnel: Family };
  readonly #cancels: Cancel[] = [];
  /** The router's own addresses, by interface and address. */
  readonly #own = new Map<string, InterfaceAddress>();
  #forbidden = "";
  /** Asked for the configured zones; the list is the client's, and follows the file. */
  readonly #upstreams: Endpoint[] = [];
  readonly #upstream: DnsClient;
  readonly #local: DnsClient;
  readonly #resolver: Resolver;
  /** Outlives each of the next. */
  readonly #gateways: ReturnType<typeof gatewaysMemory>;
  #forwarding: Forwarding | undefined;
  #opening: Promise<void> = Promise.resolve();
  #cancelReopen: Cancel | undefined;
  #broker: Broker | undefined;
  #hosts: HostsFile | undefined;
  #imports: Imports | undefined;
  #server: DnsServer | undefined;
  #mistakes: string[] = [];
  /** Whom the forwarders were told of. */
  #allowed: readonly Address[] | "all" | undefined;
  #begun = false;
  /** The tunnel could not be opened. */
  #failed = false;
  #closed = false;

  private constructor(
    system: System,
    config: Config["ipref"],
    parts: {
      readonly mappings: Mappings;
      readonly damages: readonly string[];
      readonly families: { readonly lan: Family; readonly tunnel: Family };
    },
  ) {
    this.#system = system;
    this.#config = config;
    this.#mappings = parts.mappings;
    this.#damages = parts.damages;
    this.#families = parts.families;
    this.#gateways = gatewaysMemory(
      parts.families.tunnel,
      new DataView(system.random(4).buffer).getUint32(0),
    );
    this.#upstream = new DnsClient(system, { upstreams: this.#upstreams });
    this.#local = new DnsClient(system, { upstreams: [localResolver] });
    const { zone: zones } = config;
    this.#resolver = new Resolver(
      system,
      { client: this.#upstream, door: parts.mappings },
      { zones, families: parts.families },
    );
  }

  /** Reads the mappings; nothing moves before `begin`. @throws Fault "invalid" for an encode net that is none. */
  static async open(system: System, config: Config): Promise<Gateway> {
    const { encodeNet, gatewayRef, maxMappings, maxPeerMappings } = config.ipref;
    const context = contextOf(config.ipref);
    const families = {
      lan: familyOf(encodeNet.split("/")[0] as Address),
      tunnel: familyOf(context ?? config.ipref.gatewayBind!),
    };
    let gateway: Gateway | undefined;
    const { mappings, damages } = await openMappings(system, {
      ...{ directory: config.main.stateDir, encodeNet, context, maxMappings },
      boot: await bootOf(system),
      tunnel: families.tunnel,
      gatewayReference: parseReference(gatewayRef),
      maxPerPeer: maxPeerMappings,
      // Who was asked for may send as soon as who asked does.
      onNamed: (context) => {
        if (gateway !== undefined) gateway.#admit(context);
      },
      onFault: (fault) => {
        if (fault) system.log("error", fault.message);
      },
    });
    for (const line of damages) system.log("error", line);
    gateway = new Gateway(system, config.ipref, { mappings, damages, families });
    return gateway;
  }

  get methods(): Methods {
    let passed: ReadonlyMap<Address, JsonObject> = new Map();
    const methods = iprefMethods({
      mappings: this.#mappings,
      clock: this.#system,
      status: () => this.status,
      drops: () => this.#drops(),
      peerCounters: (context) => passed.get(context),
      resolve: (name) => this.#resolve(name),
    });
    const { peers } = methods;
    const call: Method["call"] = async (args, caller) => {
      // The forwarding thread knows: it is asked first.
      passed = await this.#passed();
      return peers!.call(args, caller);
    };
    return { ...methods, peers: { ...peers!, call } };
  }

  get status(): JsonObject {
    const { gatewayBind, gatewayPort } = this.#config;
    const forwarding = this.#forwarding;
    return {
      ...{ bind: gatewayBind!, port: gatewayPort, context: contextOf(this.#config) ?? null },
      device: forwarding?.device ?? null,
      forwarding: forwarding?.running ?? false,
      restarts: forwarding?.restarts ?? 0,
      packets: { ...forwarding?.counts.all().counts },
      broker: this.#broker
        ? { clients: this.#broker.clients, drops: Object.fromEntries(this.#broker.drops) }
        : null,
      resolver: this.#server
        ? { zones: [...this.#config.zone], answered: this.#server.answered, known: this.#resolver.known }
        : null,
      imports: (this.#imports?.status ?? []).map(({ owner, trouble }) => ({
        source: owner,
        trouble: trouble ?? null,
      })),
      hosts_mistakes: [...this.#mistakes],
      damaged: [...this.#damages],
    };
  }

  /** The remote host behind an encoded address; undefined: nobody. */
  explain(address: Address): JsonObject | undefined {
    const remote = this.#mappings.remoteOf(address);
    if (!remote) return undefined;
    const remainingMs = this.#mappings.remainingMs(address);
    return {
      ...{ address, context: remote.context, reference: formatReference(remote.reference) },
      ...(Number.isFinite(remainingMs) && { expires_in: Math.floor(remainingMs / 1_000) }),
    };
  }

  /** The router's own addresses are known: packets may move, and everybody may ask. */
  async begin(): Promise<void> {
    const { hosts, mapperSocket } = this.#config;
    if (hosts !== "") {
      this.#hosts = new HostsFile(this.#system, {
        path: hosts,
        tunnel: this.#families.tunnel,
        take: (owner, records) => this.#mappings.setSource(owner, records),
        onContent: ({ reports }) => {
          this.#mistakes = reports.map((each) => describeReport(hosts, each));
          for (const line of this.#mistakes) this.#system.log("warning", line);
        },
        onFault: (line) => this.#system.log("warning", line),
      });
      await this.#hosts.open();
    }
    this.#begun = true;
    await attempt(this.#system, () => this.#reopen());
    const onTrouble = (line: string) => this.#system.log("warning", line);
    if (mapperSocket !== "") {
      await attempt(this.#system, async () => {
        this.#broker = await openBroker(this.#system, this.#mappings, {
          path: mapperSocket,
          families: this.#families,
          onTrouble,
        });
      });
    }
    await attempt(this.#system, () => this.#serveNames(onTrouble));
    await attempt(this.#system, async () => this.#import(onTrouble));
    this.#cancels.push(
      this.#system.every(sweepMs, () => this.#mappings.sweep(this.#system.now())),
      this.#system.every(peersMs, () => this.#listPeers()),
    );
  }

  /** An address of the router's own came or went: no mapping leads there. */
  address(address: InterfaceAddress, isThere: boolean): void {
    // The tunnel's own comes and goes with it.
    if (address.address === this.#mappings.net.gatewayAddress) return;
    const key = `${address.ifindex} ${address.address}`;
    if (isThere) this.#own.set(key, address);
    else this.#own.delete(key);
    if (!this.#begun || this.#closed) return;
    // What could not be opened may have waited for this address.
    if (!this.#failed && String(this.#forbiddenNow()) === this.#forbidden) return;
    this.#cancelReopen?.();
    this.#cancelReopen = this.#system.after(settleMs, () => void attempt(this.#system, () => this.#reopen()));
  }

  /** The interface goes; mappings stay on disk. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelReopen?.();
    for (const cancel of this.#cancels.splice(0)) cancel();
    this.#broker?.close();
    this.#imports?.close();
    this.#upstream.close();
    this.#local.close();
    await Promise.all([this.#server?.close(), this.#hosts?.close(), this.#opening.catch(() => {})]);
    await this.#forwarding?.close();
    this.#mappings.sweep(this.#system.now());
    await attempt(this.#system, () => this.#mappings.close());
  }

  /** Forwarders know their settings for life: others take their place. */
  #reopen(): Promise<void> {
    this.#opening = this.#opening
      .catch(() => {})
      .then(async () => {
        await this.#forwarding?.close();
        this.#forwarding = undefined;
        this.#failed = false;
        if (this.#closed) return;
        const { device, gatewayBind, gatewayPort, remoteGatewayPort } = this.#config;
        const settings = this.#settings();
        this.#forbidden = String(this.#forbiddenNow());
        this.#forwarding = await openForwarding(this.#system, {
          ...{ settings, device, bind: gatewayBind!, port: gatewayPort, peerPort: remoteGatewayPort },
          mappings: this.#mappings,
          peers: this.#peers(),
          gateways: this.#gateways,
          onDevice: async (name) => {
            await raiseTunnel(this.#system, {
              ...{ device: name, protocol: tunnelProtocol, mtuBytes: deviceMtuBytes(settings) },
              address: this.#mappings.net.gatewayAddress,
              net: this.#mappings.net.prefix,
              refuses: true,
            });
          },
          onFault: (fault) => this.#system.log("warning", fault.message),
        });
        // What was listed while it opened, nobody heard.
        this.#allowed = undefined;
      });
    this.#opening.catch(() => {
      this.#failed = true;
    });
    return this.#opening;
  }

  #settings(): ForwardSettings {
    const { lan, tunnel } = this.#families;
    const { prefix, gatewayAddress } = this.#mappings.net;
    const [base, length] = prefix.split("/") as [Address, string];
    const context = contextOf(this.#config);
    const { decTtl, clampMss, admitRouter, gatewayMtu, gatewayRef } = this.#config;
    return {
      ...{ lanFamily: lan, tunnelFamily: tunnel, clampMss, admitRouter, lanMtuBytes },
      encodeNet: { bytes: encodeAddress(base), length: Number(length) },
      ownEncoded: encodeAddress(gatewayAddress),
      ownContext: context ? encodeAddress(context) : new Uint8Array(tunnel === 4 ? 4 : 16),
      ownReference: encodeReference(parseReference(gatewayRef)),
      decrementTtl: decTtl,
      tunnelMtuBytes: gatewayMtu,
      forbidden: this.#forbiddenNow().map((each) => encodeAddress(each)),
      firstId: new DataView(this.#system.random(4).buffer).getUint32(0),
    };
  }

  /** The router's own addresses in the LAN's family, and the broadcast addresses of its networks. */
  #forbiddenNow(): Address[] {
    const found = [...this.#own.values()].flatMap(({ address, prefixLength }) => {
      if (familyOf(address) !== this.#families.lan) return [];
      // Others are nobody's mapping anyway.
      if (!["private", "global"].includes(scopeOf(address))) return [];
      const broadcast = broadcastOf(address, prefixLength);
      return broadcast === undefined ? [address] : [address, broadcast];
    });
    return [...new Set(found)].sort();
  }

  /** Who is listed, written down, or was asked for by name. */
  #peers(): readonly Address[] | "all" {
    if (this.#config.anyPeer) return "all";
    const known = this.#mappings.peers().filter(({ byName, written }) => byName + written > 0);
    return [...new Set([...this.#config.peer, ...known.map(({ context }) => context)])].sort();
  }

  #listPeers(): void {
    const peers = this.#peers();
    if (this.#allowed !== undefined && String(peers) === String(this.#allowed)) return;
    this.#allowed = peers;
    this.#forwarding?.list(peers);
  }

  #admit(peer: Address): void {
    if (this.#allowed !== "all" && !this.#allowed?.includes(peer)) this.#listPeers();
  }

  async #passed(): Promise<ReadonlyMap<Address, JsonObject>> {
    const gateways = (await this.#forwarding?.passed()) ?? [];
    return new Map(
      gateways.map(({ context, port, packetsIn, bytesIn, packetsOut, bytesOut }) => [
        decodeAddress(context, 0, this.#families.tunnel),
        {
          ...{ port, packets_in: packetsIn, bytes_in: bytesIn },
          ...{ packets_out: packetsOut, bytes_out: bytesOut },
        },
      ]),
    );
  }

  #drops(): Readonly<Record<string, number>> {
    const { dropsOut = {}, dropsIn = {} } = this.#forwarding?.counts.all() ?? {};
    const named = (direction: string, drops: Readonly<Record<string, number>>) =>
      Object.entries(drops).map(([reason, count]) => [`${direction} ${reason}`, count] as const);
    return Object.fromEntries([...named("out", dropsOut), ...named("in", dropsIn)]);
  }

  // Names.

  async #serveNames(onTrouble: (line: string) => void): Promise<void> {
    const { zone, dnsPort: port, upstream } = this.#config;
    if (zone.length === 0) return;
    if (upstream.length > 0) this.#askOf(upstream);
    else await this.#followServers();
    const places = ["127.0.0.1", "::1"].map((address) => ({ address: parseAddress(address)!, port }));
    this.#server = await openDnsServer(this.#system, {
      places,
      onTrouble,
      answer: (query) => this.#resolver.answer(query),
      // All of the router's clients ask through one resolver.
      perSecond: 5_000,
    });
  }

  #askOf(servers: readonly Address[]): void {
    this.#upstreams.splice(
      0,
      this.#upstreams.length,
      ...servers.map((address) => ({ address, port: dnsPort })),
    );
  }

  /** The servers that the provider told, as they are now. */
  async #followServers(): Promise<void> {
    const read = async () => {
      const bytes = await this.#system.read(serversFile, 64 * 1024).catch(() => undefined);
      const lines = bytes ? new TextDecoder().decode(bytes).split("\n") : [];
      const named = lines.flatMap((line) => parseAddress(/^nameserver\s+(\S+)/.exec(line)?.[1] ?? "") ?? []);
      // The router's own would lead our questions back to us.
      this.#askOf(named.filter((address) => scopeOf(address) !== "loopback").slice(0, maxServers));
    };
    this.#cancels.push(this.#system.watch(serversFile, () => void read()));
    await read();
  }

  /** Encoded addresses of a name. @throws Fault "invalid" for what is no name, "not-found", or why nobody answered */
  async #resolve(name: string): Promise<readonly Address[]> {
    const type = this.#families.lan === 4 ? TYPE_A : TYPE_AAAA;
    const spelled = name.endsWith(".") ? name : `${name}.`;
    try {
      parseName(spelled);
    } catch (thrown) {
      throw new Fault("invalid", messageOf(thrown));
    }
    const question = { name: spelled, type, class: 1 };
    const outcome = await this.#resolver.answer({
      ...{ id: 0, question, recursionDesired: true, checkingDisabled: false, authenticData: false },
    });
    if ("relayed" in outcome) throw new Fault("not-found", `Cannot resolve ${name}: it has no IPREF address`);
    if (outcome.rcode === Rcode.refused)
      throw new Fault("not-found", `Cannot resolve ${name}: it is in none of the zones`);
    if (outcome.rcode !== Rcode.noError) throw new Fault("closed", `Cannot resolve ${name}: nobody knows`);
    return outcome.records.flatMap(({ address }) => address ?? []);
  }

  #import(onTrouble: (line: string) => void): void {
    const sources = this.#config.transfer.flatMap((text) => {
      try {
        return [parseSource(text)];
      } catch (thrown) {
        onTrouble(messageOf(thrown));
        return [];
      }
    });
    this.#imports = new Imports(
      this.#system,
      {
        client: this.#upstream,
        door: this.#mappings,
        resolve: (name, family) => this.#localAddress(name, family),
        onTrouble,
      },
      { sources, families: this.#families, intervalMs: this.#config.transferInterval * 60_000 },
    );
  }

  /** @throws Fault if the router's own resolver doesn't say; SyntaxError for what is no name */
  async #localAddress(name: string, family: Family): Promise<Address | undefined> {
    const type = family === 4 ? TYPE_A : TYPE_AAAA;
    const { message } = await this.#local.ask({ name, type });
    const { rcode } = message.flags;
    if (rcode !== Rcode.noError && rcode !== Rcode.noSuchName) {
      throw new Fault(
        "closed",
        `Cannot find the address of ${name}: the resolver answers with rcode ${rcode}`,
      );
    }
    return message.answers.find((record) => record.type === type)?.address;
  }
}

/** Our context address; undefined: only peers know it. */
function contextOf({ gatewayPub, gatewayBind }: Config["ipref"]): Address | undefined {
  const own = gatewayPub === "" ? gatewayBind : parseAddress(gatewayPub);
  return own === undefined || own === "0.0.0.0" || own === "::" ? undefined : own;
}
