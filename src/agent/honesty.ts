/**
 * What the agent cannot see or count, said in words: numbers are worth what is known of their gaps.
 *
 * Kept: what `nft` said of flowtables, which is asked at the first look, and again when connections turn up that
 * one forwards, at most once a minute. All else is read at each look. Nobody is told; `status` shows it.
 */

import type { System } from "../system/system.ts";

/** Something that is not seen. */
export interface BlindSpot {
  /** What is the case: "the connection table is full". */
  readonly what: string;
  /** What of the agent's numbers and decisions suffers from it. */
  readonly effect: string;
  readonly advice: string;
}

/** What the watchers say of themselves; undefined for one that is not open. */
export interface Observed {
  readonly route: { readonly overruns: number; readonly dropped: number } | undefined;
  readonly conntrack:
    | {
        readonly counting: boolean;
        readonly overruns: number;
        readonly vanished: number;
        readonly dropped: number;
        readonly offloaded: number;
        readonly hardwareOffloaded: number;
      }
    | undefined;
  readonly dns: { readonly lost: number; readonly overruns: number } | undefined;
  /** Bridges on the LAN side. */
  readonly bridges: readonly { readonly name: string; readonly ports: number }[];
}

/** A flowtable, as far as it matters here. */
export interface Flowtable {
  readonly hardware: boolean;
  /** Whether what it forwards is counted as the connection's. */
  readonly counting: boolean;
}

const askAgainMs = 60_000;
const nftTimeoutMs = 5_000;
/** From this share on, the table is about to be full. */
const nearlyFull = 0.9;
const settings = "/proc/sys/net/netfilter";
const bridgeSettings = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"].map(
  (name) => `/proc/sys/net/bridge/${name}`,
);
const statistics = "/proc/net/stat/nf_conntrack";

export class Honesty {
  readonly #system: Pick<System, "run" | "read" | "now">;
  #flowtables: readonly Flowtable[] = [];
  #askedAt = Number.NEGATIVE_INFINITY;
  #offloaded = false;

  constructor(system: Pick<System, "run" | "read" | "now">) {
    this.#system = system;
  }

  /** All blind spots there are now. Never rejects: what cannot be found out is left out. */
  async look(observed: Observed): Promise<BlindSpot[]> {
    await this.#askFlowtables((observed.conntrack?.offloaded ?? 0) > 0);
    return [
      ...closed(observed),
      ...lost(observed),
      ...this.#offload(observed),
      ...(await this.#table()),
      ...(await this.#bridged(observed.bridges)),
    ];
  }

  async #askFlowtables(offloaded: boolean): Promise<void> {
    const now = this.#system.now();
    const first = this.#askedAt === Number.NEGATIVE_INFINITY;
    const news = offloaded !== this.#offloaded && now - this.#askedAt >= askAgainMs;
    if (!first && !news) return;
    this.#askedAt = now;
    this.#offloaded = offloaded;
    const argv = ["nft", "list", "flowtables"];
    const answer = await this.#system.run(argv, { timeoutMs: nftTimeoutMs }).catch(() => undefined);
    if (answer?.status === 0) this.#flowtables = parseFlowtables(answer.stdout);
  }

  #offload({ conntrack }: Observed): BlindSpot[] {
    const hardware =
      (conntrack?.hardwareOffloaded ?? 0) > 0 || this.#flowtables.some((each) => each.hardware);
    const any = hardware || (conntrack?.offloaded ?? 0) > 0 || this.#flowtables.length > 0;
    if (!any) return [];
    const counted = this.#flowtables.length > 0 && this.#flowtables.every((each) => each.counting);
    const count = conntrack ? `, ${conntrack.offloaded} connections at present` : "";
    return [
      {
        what: `${hardware ? "the hardware" : "a flowtable"} forwards established connections past the rules${count}`,
        effect: counted
          ? "captures and dropped-packet reports miss their packets; traffic is counted, with some delay"
          : "their traffic is not counted while it lasts, and captures and dropped-packet reports miss its packets",
        advice: counted
          ? "blocks still cut these connections; switch flow offloading off to see every packet"
          : "give the flowtable `counter`, or switch flow offloading off (flow_offloading, flow_offloading_hw in /etc/config/firewall)",
      },
    ];
  }

  async #table(): Promise<BlindSpot[]> {
    const [count, max] = await Promise.all([
      this.#number(`${settings}/nf_conntrack_count`),
      this.#number(`${settings}/nf_conntrack_max`),
    ]);
    const { drop = 0, early_drop = 0 } = columnsOf(await this.#text(statistics));
    const spots: BlindSpot[] = [];
    if (count !== undefined && max !== undefined && max > 0 && count >= max * nearlyFull) {
      spots.push({
        what: `the connection table is ${count >= max ? "full" : "nearly full"}: ${count} of ${max}`,
        effect: "the kernel drops new connections, or ends old ones early to make room",
        advice: "find who opens so many (gatehouse flows), or raise net.netfilter.nf_conntrack_max",
      });
    }
    if (drop + early_drop > 0) {
      spots.push({
        what: `the connection table was full: ${drop} packets were dropped, ${early_drop} connections ended early`,
        effect: "connections failed; a flow that ended early counts as several",
        advice: "raise net.netfilter.nf_conntrack_max if this goes on",
      });
    }
    return spots;
  }

  async #bridged(bridges: Observed["bridges"]): Promise<BlindSpot[]> {
    const several = bridges.filter(({ ports }) => ports >= 2).map(({ name }) => name);
    if (several.length === 0) return [];
    const switches = await Promise.all(bridgeSettings.map((path) => this.#number(path)));
    if (switches.every((value) => value === 1)) return [];
    return [
      {
        what: `devices on ${several.join(", ")} reach each other without passing the router`,
        effect: "traffic within the LAN is neither seen, counted nor blocked",
        advice: "put devices that must not meet on networks of their own, or isolate the ports of the bridge",
      },
    ];
  }

  async #text(path: string): Promise<string> {
    const bytes = await this.#system.read(path, 1024 * 1024).catch(() => undefined);
    return bytes ? new TextDecoder().decode(bytes) : "";
  }

  async #number(path: string): Promise<number | undefined> {
    const text = (await this.#text(path)).trim();
    return /^\d+$/.test(text) ? Number(text) : undefined;
  }
}

function closed({ route, conntrack, dns }: Observed): BlindSpot[] {
  const spots: BlindSpot[] = [];
  const advice = "see the log for the reason; it is tried again when the agent starts";
  if (!route)
    spots.push({
      what: "interfaces and neighbours are not watched",
      effect: "devices are not found",
      advice,
    });
  if (!conntrack)
    spots.push({
      what: "connections are not watched",
      effect: "traffic is neither seen nor counted",
      advice,
    });
  else if (!conntrack.counting) {
    spots.push({
      what: "the kernel does not count what passes on connections",
      effect: "flows are missing and traffic reads 0",
      advice: "set net.netfilter.nf_conntrack_acct and nf_conntrack_events to 1",
    });
  }
  if (!dns) spots.push({ what: "DNS answers are not watched", effect: "far nodes have no names", advice });
  return spots;
}

function lost({ route, conntrack, dns }: Observed): BlindSpot[] {
  const spots: BlindSpot[] = [];
  const slow = "give the agent more processor time if the number grows";
  if (route && route.overruns + route.dropped > 0) {
    spots.push({
      what: `${route.overruns} times messages on neighbours and interfaces were lost, and ${route.dropped} entries had no room`,
      effect: "what came and went within a moment was missed; the rest was read again at once",
      advice: slow,
    });
  }
  if (conntrack && conntrack.overruns + conntrack.vanished > 0) {
    spots.push({
      what: `${conntrack.overruns} times messages on ended connections were lost, and ${conntrack.vanished} connections ended unheard`,
      effect: "what these connections moved in their last second is not counted",
      advice: slow,
    });
  }
  if (conntrack && conntrack.dropped > 0) {
    spots.push({
      what: `${conntrack.dropped} times a connection was one too many to be followed`,
      effect: "it is counted when it ends, not while it runs",
      advice: "find who opens so many (gatehouse flows)",
    });
  }
  if (dns && dns.lost + dns.overruns > 0) {
    spots.push({
      what: `${dns.lost} copies of DNS packets were lost, in ${dns.overruns} bursts or more`,
      effect: "names and their new addresses are missing until they are asked for again",
      advice: slow,
    });
  }
  return spots;
}

/** Reads what `nft list flowtables` prints; whatever it does not know is passed over. */
export function parseFlowtables(text: string): Flowtable[] {
  const tables: { hardware: boolean; counting: boolean }[] = [];
  for (const line of text.split("\n")) {
    const words = line.trim().replace(/;$/, "").split(/\s+/);
    const last = tables.at(-1);
    if (words[0] === "flowtable" && words.at(-1) === "{") tables.push({ hardware: false, counting: false });
    else if (last && words[0] === "flags" && words.includes("offload")) last.hardware = true;
    else if (last && words[0] === "counter" && words.length === 1) last.counting = true;
  }
  return tables;
}

/** Sums up the columns of a file of /proc/net/stat: names, then one line of hexadecimal numbers for each processor. */
function columnsOf(text: string): Partial<Record<string, number>> {
  const [head = "", ...lines] = text.split("\n");
  const sums: Record<string, number> = Object.create(null);
  for (const line of lines) {
    const values = line.trim().split(/\s+/);
    for (const [index, name] of head.trim().split(/\s+/).entries()) {
      const value = Number.parseInt(values[index] ?? "", 16);
      if (Number.isSafeInteger(value)) sums[name] = (sums[name] ?? 0) + value;
    }
  }
  return sums;
}
