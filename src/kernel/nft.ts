/**
 * The nft back end: tables `inet gatehouse_<owner>`, `bridge gatehouse_<owner>` for frames that a bridge passes on
 * or sends, and `netdev gatehouse_<owner>` for LAN devices that are no bridge. Every change is one transaction of
 * `nft -f -`.
 *
 * Keeps the tables of each owner as last sent or read; the kernel tells of every change to a table, so what was
 * not announced has not happened. Messages about our tables whose port is not one of our own nft processes make
 * the front door verify. A LAN device that comes or goes does, too: older kernels drop a device's hook with it.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import { isObject } from "../lib/json.ts";
import type { Cancel, RunResult, System } from "../system/system.ts";
import { Announcements } from "./announced.ts";
import { Attributes } from "./attribute.ts";
import { Drops } from "./drops.ts";
import { egressTable } from "./egress.ts";
import { complaint, type Enforcer, type Order, type Place, type WatchHandlers } from "./enforcer.ts";
import { isolationTable, withoutRoutes } from "./isolationnft.ts";
import { Netlink, newCounters, routeProtocol } from "./netlink.ts";
import { type NftTable, nftTable, type TableFamily } from "./nftrules.ts";
import {
  differences,
  parseDropped,
  parseTable,
  renderChange,
  renderRemoval,
  renderTable,
} from "./nfttext.ts";
import { type Met, nftPlaces } from "./places.ts";
import type { Owner } from "./plan.ts";
import { decodeLink, type Link } from "./rtnetlink.ts";
import { Subscription } from "./subscription.ts";
import { Trial } from "./trial.ts";

const maxListBytes = 256 * 1024 * 1024;
/** So many that the kernel takes some tenths of a second for them. */
const manyElements = 5_000;
const tablePrefix = "gatehouse_";
/** RTNLGRP_LINK; RTM_NEWLINK, RTM_DELLINK and RTM_GETLINK; IFLA_IFNAME after struct ifinfomsg. */
const link = { group: 1, come: 16, gone: 17, get: 18, nameAttribute: 3, headerBytes: 16 } as const;

/** A table that makes an answer wait; the kernel refuses it if it lacks the expression. */
const holdProbe = `table inet gatehouse_probe { chain x { type filter hook forward priority filter - 4
udp sport 53 queue num 0 bypass
}
}
`;

/** "strange": something is there, but not made the way our tables are. */
type Present = NftTable | "strange" | undefined;
type Tables<Table> = ReadonlyMap<TableFamily, Table>;

export interface NftSettings {
  readonly lanDevices: readonly string[];
  /** Whether the kernel has tables of family bridge. */
  readonly bridge: boolean;
  /** Whether a device may have a hook for packets that leave by it. */
  readonly egress: boolean;
}

export class Nft implements Enforcer {
  readonly name = "nft";
  readonly limits: string[] = [];
  readonly seesDestinationMac: boolean;
  /** Changes are announced; this is for what we did not think of. */
  readonly periodMs = 300_000;
  readonly #system: System;
  readonly #settings: NftSettings;
  readonly #families: readonly TableFamily[];
  readonly #known = new Map<Owner, Tables<Present>>();
  readonly #announcements = new Announcements();
  readonly #attributes = new Attributes(link.nameAttribute);
  readonly #drops = new Drops();
  /** LAN devices that are there, and of them those that need a hook of their own. */
  #devices: ReadonlySet<string> = new Set();
  #hooked: readonly string[] = [];
  /** A device has come or gone since. */
  #stale = true;
  readonly #trial: Trial;
  /** Isolation's tables depend on nothing but the order. */
  readonly #rendered = new WeakMap<Order, Tables<NftTable | undefined>>();

  constructor(system: System, settings: NftSettings) {
    this.#system = system;
    this.#settings = settings;
    this.#trial = new Trial(system, { limits: this.limits, attempt: () => this.#probeHold() });
    const { bridge, egress, lanDevices } = settings;
    this.#families = ["inet", ...(bridge ? ["bridge" as const] : []), ...(egress ? ["netdev" as const] : [])];
    this.seesDestinationMac = bridge || (egress && lanDevices.length > 0);
    if (!bridge) {
      this.limits.push(
        "Frames between two ports of one bridge are not blocked: the kernel lacks nft's bridge tables",
      );
    }
    const gap = "packets to an address that a blocked device has just taken pass until it is known";
    if (!this.seesDestinationMac) this.limits.push(`Without bridge tables and egress hooks ${gap}`);
    else if (!egress)
      this.limits.push(`On LAN devices that are no bridge ${gap}: the kernel lacks egress hooks`);
    else if (lanDevices.length === 0)
      this.limits.push(`On devices that are no bridge ${gap}: no LAN device is named`);
  }

  /** Finds out which LAN devices are there. @throws Fault as `Netlink.dump` does. */
  async look(): Promise<void> {
    const { egress, bridge, lanDevices } = this.#settings;
    if (!egress || lanDevices.length === 0) return;
    this.#stale = false;
    const there = new Map<string, Link>();
    const netlink = new Netlink(this.#system, { protocol: routeProtocol });
    try {
      await netlink.dump(
        { type: link.get, payload: new Uint8Array(link.headerBytes), verb: "list devices" },
        {
          onMessage: (message) => {
            const found = decodeLink(message);
            if (typeof found === "object" && lanDevices.includes(found.name)) there.set(found.name, found);
          },
          onRestart: () => there.clear(),
        },
      );
    } catch (thrown) {
      this.#stale = true;
      throw thrown;
    } finally {
      netlink.close();
    }
    this.#devices = new Set(there.keys());
    this.#hooked = lanDevices.filter(
      (name) => there.has(name) && !(bridge && there.get(name)!.kind === "bridge"),
    );
  }

  async enforce(owner: Owner, given: Order): Promise<boolean> {
    const order = await this.#trial.possible(given);
    if (this.#stale) await this.look();
    const wanted = this.#render(order);
    const known = this.#known.get(owner) ?? (await this.#read(owner));
    this.#known.set(owner, known);
    const first = changeOf(owner, known, wanted);
    if (first === "") return false;
    if ((await this.#change(owner, first)) === undefined) {
      this.#known.set(owner, wanted);
      return true;
    }
    // Refused: perhaps because what is there, or which devices, is not what we believed.
    this.#known.delete(owner);
    const present = await this.#read(owner);
    this.#known.set(owner, present);
    await this.look();
    const anew = this.#render(order);
    const second = changeOf(owner, present, anew);
    if (second === "") return true;
    const reason = await this.#change(owner, second);
    if (reason === undefined) {
      this.#known.set(owner, anew);
      return true;
    }
    throw new Fault("kernel", `Cannot change rules of ${owner}: ${reason}`);
  }

  async verify(owner: Owner, given: Order): Promise<readonly string[]> {
    const order = await this.#trial.possible(given);
    await this.look();
    const wanted = this.#render(order);
    this.#known.delete(owner);
    const present = await this.#read(owner);
    this.#known.set(owner, present);
    const found = this.#families.flatMap((family) => {
      const [here, there] = [present.get(family), wanted.get(family)];
      const words = here === "strange" ? ["the table was not ours"] : differences(here, there);
      return words.map((word) => `${family}: ${word}`);
    });
    if (found.length > 0) {
      await this.#shut(owner, order);
      await this.enforce(owner, order);
    }
    return found;
  }

  async remove(owner: Owner): Promise<void> {
    this.#known.delete(owner);
    const lines = this.#families.flatMap((family) => renderRemoval(nameOf(family, owner)));
    const reason = await this.#change(owner, `${lines.join("\n")}\n`);
    if (reason !== undefined) throw new Fault("kernel", `Cannot remove rules of ${owner}: ${reason}`);
  }

  bootTexts(owner: Owner, order: Order): ReadonlyMap<string, string> {
    const texts = new Map<string, string>();
    for (const [family, table] of this.#render(order)) {
      const name = nameOf(family, owner);
      // A file each: a kernel that one day lacks such tables, or a device, must not refuse the rest along with them.
      texts.set(
        family === "inet" ? `${owner}.nft` : `${owner}.${family}.nft`,
        table ? renderTable(name, table) : `${renderRemoval(name).join("\n")}\n`,
      );
    }
    return texts;
  }

  watch(handlers: WatchHandlers): Cancel {
    const subscription = this.#announcements.watch(this.#system, {
      concerns: ({ table }) => table.startsWith(tablePrefix),
      onChange: () => handlers.onChange(),
      onFault: (fault) => handlers.onFault(fault),
    });
    const links = this.#settings.egress ? this.#watchLinks(handlers) : undefined;
    return () => {
      subscription.close();
      links?.close();
    };
  }

  async dropped(owner: Owner): Promise<bigint> {
    const { status, stdout, stderr } = await this.#nft(["-j", "list", "counters"]);
    if (status !== 0) throw new Fault("kernel", `Cannot read counters: ${complaint(stderr, status)}`);
    let tables: ReadonlyMap<string, bigint>;
    try {
      tables = parseDropped(stdout);
    } catch (cause) {
      throw new Fault("kernel", "Cannot read counters: nft prints no JSON", { cause });
    }
    for (const family of this.#families) {
      const packets = tables.get(nameOf(family, owner));
      if (packets !== undefined) this.#drops.note(owner, family, packets);
    }
    return this.#drops.total(owner);
  }

  places(owner: Owner, order: Order, met: Met): readonly Place[] {
    const tables: [TableFamily, string, NftTable][] = [];
    if (order.kind !== "blocks") return [];
    for (const [family, table] of this.#render(order))
      if (table) tables.push([family, nameOf(family, owner), table]);
    return nftPlaces(tables, order.dispatch, met);
  }

  #render(order: Order): Tables<NftTable | undefined> {
    const present = this.#rendered.get(order);
    if (present) return present;
    const tables = new Map(this.#families.map((family) => [family, this.#renderTable(family, order)]));
    if (order.kind === "isolation") this.#rendered.set(order, tables);
    return tables;
  }

  #renderTable(family: TableFamily, order: Order): NftTable | undefined {
    if (order.kind === "isolation") return family === "inet" ? isolationTable(order.isolated) : undefined;
    const { dispatch, tap, reportGroup } = order;
    if (family === "netdev") return egressTable(dispatch, this.#hooked);
    const { lanDevices } = this.#settings;
    return nftTable(family, dispatch, { lanDevices, tap, reportGroup });
  }

  /** Makes what somebody removed deny first, where all of it would take its time. */
  async #shut(owner: Owner, order: Order): Promise<void> {
    const present = this.#known.get(owner);
    const table = this.#render(order).get("inet");
    if (order.kind !== "isolation" || !present || !table) return;
    const here = present.get("inet");
    if (here !== undefined && here !== "strange") return;
    let size = 0;
    for (const { elements } of table.sets.values()) size += elements.size;
    if (size < manyElements) return;
    const shut = withoutRoutes(table);
    if ((await this.#change(owner, renderTable(nameOf("inet", owner), shut))) === undefined)
      this.#known.set(owner, new Map(present).set("inet", shut));
  }

  async #probeHold(): Promise<string | undefined> {
    const { status, stderr } = await this.#nft(["-c", "-f", "-"], holdProbe);
    return status === 0 ? undefined : complaint(stderr, status);
  }

  #watchLinks(handlers: WatchHandlers): Subscription {
    const { lanDevices } = this.#settings;
    return new Subscription(
      this.#system,
      { protocol: routeProtocol, groups: [link.group], counters: newCounters() },
      {
        onEvent: ({ type, bytes, start, end }) => {
          if (type !== link.come && type !== link.gone) return;
          this.#attributes.read(bytes, start + link.headerBytes, end);
          const name = this.#attributes.text(link.nameAttribute);
          // Most news of a device that is there is of its carrier. One that is renamed comes under its new name.
          if (name === undefined || !lanDevices.includes(name)) return;
          if (type === link.come && this.#devices.has(name)) return;
          this.#stale = true;
          handlers.onChange();
        },
        onGap: () => {
          this.#stale = true;
          handlers.onChange();
        },
        onFault: (fault) => handlers.onFault(fault),
      },
    );
  }

  async #read(owner: Owner): Promise<Tables<Present>> {
    const list = await this.#nft(["-j", "list", "tables"]);
    if (list.status !== 0) {
      throw new Fault("kernel", `Cannot list tables: ${complaint(list.stderr, list.status)}`);
    }
    const there = tableNames(list.stdout);
    const present = new Map<TableFamily, Present>();
    for (const family of this.#families) {
      const name = nameOf(family, owner);
      present.set(family, there.has(name) ? await this.#readTable(name) : undefined);
    }
    return present;
  }

  async #readTable(name: string): Promise<Present> {
    const { status, stdout } = await this.#nft(["-j", "list", "table", ...name.split(" ")]);
    // It went between the two lists, or holds what this nft cannot print: to be replaced either way.
    if (status !== 0) return "strange";
    try {
      return parseTable(stdout) ?? "strange";
    } catch {
      return "strange";
    }
  }

  /** One transaction. What a table's counter says is kept before the table goes. @returns why it was refused. */
  async #change(owner: Owner, script: string): Promise<string | undefined> {
    const ends = /^delete table /m.test(script);
    // A number that cannot be read is no reason to leave a block undone.
    if (ends) await this.dropped(owner).catch(() => undefined);
    const reason = await this.#send(script);
    if (ends && reason === undefined) this.#drops.restart(owner);
    return reason;
  }

  async #send(script: string): Promise<string | undefined> {
    const { status, stderr } = await this.#nft(["-f", "-"], script);
    return status === 0 ? undefined : complaint(stderr, status);
  }

  async #nft(args: readonly string[], input?: string): Promise<RunResult> {
    const run = () =>
      this.#system.run(["nft", ...args], {
        maxOutputBytes: maxListBytes,
        ...(input === undefined ? {} : { input }),
      });
    try {
      return await (input === undefined || args.includes("-c") ? run() : this.#announcements.ours(run));
    } catch (thrown) {
      // Killed or never started: what the kernel holds now is to be read.
      this.#known.clear();
      throw new Fault("kernel", `Cannot run nft: ${messageOf(thrown)}`, { cause: thrown });
    }
  }
}

function nameOf(family: TableFamily, owner: Owner): string {
  return `${family} ${tablePrefix}${owner}`;
}

function changeOf(owner: Owner, present: Tables<Present>, wanted: Tables<NftTable | undefined>): string {
  let script = "";
  for (const [family, table] of wanted) {
    const name = nameOf(family, owner);
    const here = present.get(family);
    if (here !== "strange") script += renderChange(name, here, table);
    else script += table ? renderTable(name, table) : `${renderRemoval(name).join("\n")}\n`;
  }
  return script;
}

/** `family name` of each table in what `nft -j list tables` printed. */
function tableNames(text: string): ReadonlySet<string> {
  const names = new Set<string>();
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    throw new Fault("kernel", "Cannot list tables: nft prints no JSON", { cause });
  }
  for (const item of isObject(root) && Array.isArray(root.nftables) ? (root.nftables as unknown[]) : []) {
    if (isObject(item) && isObject(item.table)) {
      names.add(`${String(item.table.family)} ${String(item.table.name)}`);
    }
  }
  return names;
}
