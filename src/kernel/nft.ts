/**
 * The nft back end: tables `inet gatehouse_<owner>` and, for frames that a bridge passes on,
 * `bridge gatehouse_<owner>`. Every change is one transaction of `nft -f -`.
 *
 * Keeps the tables of each owner as last sent or read; the kernel tells of every change to a table, so what was
 * not announced has not happened. Messages about our tables whose port is not one of our own nft processes make
 * the front door verify.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import { isObject } from "../lib/json.ts";
import type { Cancel, System } from "../system/system.ts";
import { Attributes } from "./attribute.ts";
import { complaint, type Enforcer, type Order, type WatchHandlers } from "./enforcer.ts";
import { type Message, netfilterProtocol, newCounters } from "./netlink.ts";
import { type NftTable, nftTable, type TableFamily } from "./nftrules.ts";
import { differences, parseTable, renderChange, renderRemoval, renderTable } from "./nfttext.ts";
import type { Owner } from "./plan.ts";
import { Subscription } from "./subscription.ts";

/** NFNLGRP_NFTABLES, and NFNL_SUBSYS_NFTABLES in the upper byte of a message's type. */
const changesGroup = 7;
const subsystem = 10;
/** NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …: the table's name is 1 in all of them. */
const tableAttribute = 1;
const nfgenmsgBytes = 4;
const rememberedChildren = 32;
const maxListBytes = 256 * 1024 * 1024;
const tablePrefix = "gatehouse_";

/** "strange": something is there, but not made the way our tables are. */
type Present = NftTable | "strange" | undefined;
type Tables<Table> = ReadonlyMap<TableFamily, Table>;

export interface NftSettings {
  readonly lanDevices: readonly string[];
  /** Whether the kernel has tables of family bridge. */
  readonly bridge: boolean;
}

export class Nft implements Enforcer {
  readonly name = "nft";
  readonly limits: readonly string[];
  /** Changes are announced; this is for what we did not think of. */
  readonly periodMs = 300_000;
  readonly #system: System;
  readonly #settings: NftSettings;
  readonly #families: readonly TableFamily[];
  readonly #known = new Map<Owner, Tables<Present>>();
  /** Netlink ports, which are process ids, of nft processes of ours. */
  readonly #children: number[] = [];
  #running = 0;
  /** Ports that changed our tables while a child ran whose process id we did not know yet. */
  readonly #unknownPorts = new Set<number>();
  #watcher: WatchHandlers | undefined;
  readonly #attributes = new Attributes(tableAttribute);

  constructor(system: System, settings: NftSettings) {
    this.#system = system;
    this.#settings = settings;
    this.#families = settings.bridge ? ["inet", "bridge"] : ["inet"];
    this.limits = settings.bridge
      ? []
      : ["Frames between two ports of one bridge are not blocked: the kernel lacks nft's bridge tables"];
  }

  async enforce(owner: Owner, order: Order): Promise<boolean> {
    const wanted = this.#render(order);
    const known = this.#known.get(owner) ?? (await this.#read(owner));
    this.#known.set(owner, known);
    const first = changeOf(owner, known, wanted);
    if (first === "") return false;
    if ((await this.#send(first)) === undefined) {
      this.#known.set(owner, wanted);
      return true;
    }
    // Refused: perhaps because what is there is not what we believed.
    this.#known.delete(owner);
    const present = await this.#read(owner);
    this.#known.set(owner, present);
    const second = changeOf(owner, present, wanted);
    if (second === "") return true;
    const reason = await this.#send(second);
    if (reason === undefined) {
      this.#known.set(owner, wanted);
      return true;
    }
    throw new Fault("kernel", `Cannot change rules of ${owner}: ${reason}`);
  }

  async verify(owner: Owner, order: Order): Promise<readonly string[]> {
    const wanted = this.#render(order);
    this.#known.delete(owner);
    const present = await this.#read(owner);
    this.#known.set(owner, present);
    const found = this.#families.flatMap((family) => {
      const [here, there] = [present.get(family), wanted.get(family)];
      const words = here === "strange" ? ["the table was not ours"] : differences(here, there);
      return words.map((word) => `${family}: ${word}`);
    });
    if (found.length > 0) await this.enforce(owner, order);
    return found;
  }

  async remove(owner: Owner): Promise<void> {
    this.#known.delete(owner);
    const lines = this.#families.flatMap((family) => renderRemoval(nameOf(family, owner)));
    const reason = await this.#send(`${lines.join("\n")}\n`);
    if (reason !== undefined) throw new Fault("kernel", `Cannot remove rules of ${owner}: ${reason}`);
  }

  bootTexts(owner: Owner, order: Order): ReadonlyMap<string, string> {
    const texts = new Map<string, string>();
    for (const [family, table] of this.#render(order)) {
      const name = nameOf(family, owner);
      // A file each: a kernel that one day lacks bridge tables must not refuse the rest along with them.
      texts.set(
        family === "inet" ? `${owner}.nft` : `${owner}.bridge.nft`,
        table ? renderTable(name, table) : `${renderRemoval(name).join("\n")}\n`,
      );
    }
    return texts;
  }

  watch(handlers: WatchHandlers): Cancel {
    this.#watcher = handlers;
    const subscription = new Subscription(
      this.#system,
      { protocol: netfilterProtocol, groups: [changesGroup], counters: newCounters() },
      {
        onEvent: (message) => this.#heard(message),
        onGap: () => handlers.onChange(),
        onFault: (fault) => handlers.onFault(fault),
      },
    );
    return () => {
      this.#watcher = undefined;
      subscription.close();
    };
  }

  #render({ dispatch, tapGroup }: Order): Tables<NftTable | undefined> {
    const { lanDevices } = this.#settings;
    const options = { lanDevices, ...(tapGroup === undefined ? {} : { tapGroup }) };
    return new Map(this.#families.map((family) => [family, nftTable(family, dispatch, options)]));
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

  /** One transaction. @returns why it was refused. */
  async #send(script: string): Promise<string | undefined> {
    const { status, stderr } = await this.#nft(["-f", "-"], script);
    return status === 0 ? undefined : complaint(stderr, status);
  }

  async #nft(args: readonly string[], input?: string) {
    this.#running++;
    try {
      const result = await this.#system.run(["nft", ...args], {
        maxOutputBytes: maxListBytes,
        ...(input === undefined ? {} : { input }),
      });
      if (input !== undefined) {
        this.#children.push(result.pid);
        if (this.#children.length > rememberedChildren) this.#children.shift();
      }
      return result;
    } catch (thrown) {
      // Killed or never started: what the kernel holds now is to be read.
      this.#known.clear();
      throw new Fault("kernel", `Cannot run nft: ${messageOf(thrown)}`, { cause: thrown });
    } finally {
      this.#running--;
      if (this.#running === 0) this.#settlePorts();
    }
  }

  #heard({ type, port, bytes, start, end }: Message): void {
    if (type >> 8 !== subsystem || this.#children.includes(port)) return;
    if (this.#running > 0 && this.#unknownPorts.has(port)) return;
    this.#attributes.read(bytes, start + nfgenmsgBytes, end);
    if (!this.#attributes.text(tableAttribute)?.startsWith(tablePrefix)) return;
    if (this.#running > 0) this.#unknownPorts.add(port);
    else this.#watcher?.onChange();
  }

  #settlePorts(): void {
    const foreign = [...this.#unknownPorts].some((port) => !this.#children.includes(port));
    this.#unknownPorts.clear();
    if (foreign) this.#watcher?.onChange();
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
