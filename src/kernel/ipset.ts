/**
 * The ipset back end, for machines whose firewall is iptables (fw3): chains `gatehouse-<owner>…` in the filter
 * table of either family, sets `gh-<owner>-…`.
 *
 * ipset has no transactions, so a change goes in an order in which what is blocked before and after is blocked
 * throughout: entries are added, then each family's rules change in one transaction, then entries go that no
 * longer count. Keeps sets and chains of each owner as last sent or read. Nobody announces changes here: a cheap
 * look at the numbers of entries and at the rules follows every change and comes every two seconds.
 */

import type { Family } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, RunResult, System } from "../system/system.ts";
import { Drops } from "./drops.ts";
import { complaint, type Enforcer, type Order, type Place } from "./enforcer.ts";
import {
  chainPrefix,
  holdRule,
  setPrefix,
  tableOf,
  type XtRule,
  type XtRules,
  type XtSet,
  xtRules,
} from "./ipsetrules.ts";
import {
  nothing,
  parseCounts,
  parseDropped,
  parseRules,
  parseSets,
  placedJumps,
  renderAdditions,
  renderBoot,
  renderDeletions,
  renderDestruction,
  renderRules,
  resetsDropped,
  ruleDifferences,
  setDifferences,
  type XtPresent,
} from "./ipsettext.ts";
import { isolationRules } from "./isolationipset.ts";
import { type Met, xtPlaces } from "./places.ts";
import type { Owner } from "./plan.ts";

interface Present {
  readonly sets: ReadonlyMap<string, XtSet>;
  readonly rules: Readonly<Record<Family, XtPresent>>;
}

export interface IpsetSettings {
  readonly lanDevices: readonly string[];
  /** Families whose iptables works here. */
  readonly families: readonly Family[];
}

const programs = { 4: "iptables", 6: "ip6tables" } as const;
const maxListBytes = 256 * 1024 * 1024;
/** Makes an answer wait in a chain that no packet comes to, and takes that away again. */
const holdProbe = {
  come: `*mangle\n:gatehouse-probe - [0:0]\n-A gatehouse-probe ${holdRule(0)}\nCOMMIT\n`,
  go: "*mangle\n:gatehouse-probe - [0:0]\n-X gatehouse-probe\nCOMMIT\n",
} as const;
/** Every so many looks, one that reads every entry. */
const thoroughEvery = 30;
/** Rules that are gone may hold on to their sets for a moment. */
const destroyTries = 20;
const destroyWaitMs = 25;

export class Ipset implements Enforcer {
  readonly name = "ipset";
  readonly limits: string[];
  readonly seesDestinationMac = false;
  readonly periodMs = 1_000;
  readonly restFactor = 3;
  readonly #system: System;
  readonly #settings: IpsetSettings;
  readonly #known = new Map<Owner, Present>();
  readonly #looks = new Map<Owner, number>();
  readonly #drops = new Drops();
  #holds: Promise<boolean> | undefined;
  /** Families whose addresses cannot be translated here; undefined as long as nobody has asked. */
  #untranslated: ReadonlySet<Family> | undefined;

  constructor(system: System, settings: IpsetSettings) {
    this.#system = system;
    this.#settings = settings;
    this.limits = [
      "Frames between two ports of one bridge are not blocked: iptables does not see them",
      "Packets to an address that a blocked device has just taken pass until it is known: iptables does not see the MAC that they go to",
      ...([4, 6] as const)
        .filter((family) => !settings.families.includes(family))
        .map((family) => `IPv${family} is not blocked: ${programs[family]} does not work here`),
    ];
  }

  async enforce(owner: Owner, order: Order): Promise<boolean> {
    const wanted = this.#render(owner, await this.#possible(order));
    const known = this.#known.get(owner);
    const before = known ?? (await this.#read(owner));
    let refused: unknown;
    for (const again of [false, true]) {
      try {
        // The second time from what is there, which is not what we believed.
        const sent = await this.#change(owner, again ? await this.#read(owner) : before, wanted);
        if (!sent && known && !again) return false;
        const found = await this.#look(owner, wanted);
        if (found.length === 0) return sent;
        refused = new Fault("kernel", `Cannot change rules of ${owner}: ${found.join(", ")}`);
      } catch (thrown) {
        refused = thrown;
      }
    }
    await this.#undo(owner, before);
    throw refused;
  }

  async verify(owner: Owner, order: Order): Promise<readonly string[]> {
    const wanted = this.#render(owner, await this.#possible(order));
    const looks = (this.#looks.get(owner) ?? 0) + 1;
    this.#looks.set(owner, looks);
    if (looks % thoroughEvery !== 0 && (await this.#look(owner, wanted)).length === 0) return [];
    const present = await this.#read(owner);
    this.#known.set(owner, present);
    const found = [
      ...setDifferences(present.sets, wanted.sets),
      ...this.#settings.families.flatMap((family) =>
        ruleDifferences(chainPrefix(owner), present.rules[family], wanted.chains[family]).map(
          (words) => `${programs[family]}: ${words}`,
        ),
      ),
    ];
    if (found.length > 0) await this.enforce(owner, order);
    return found;
  }

  async remove(owner: Owner): Promise<void> {
    const present = await this.#read(owner);
    await this.#change(owner, present, { sets: new Map(), chains: { 4: new Map(), 6: new Map() } });
    this.#known.delete(owner);
  }

  bootTexts(owner: Owner, order: Order): ReadonlyMap<string, string> {
    const { sets, rules } = renderBoot(chainPrefix(owner), this.#render(owner, order));
    return new Map([
      [`${owner}.ipset`, sets],
      ...this.#settings.families.map((family) => [`${owner}.${programs[family]}`, rules[family]] as const),
    ]);
  }

  /** Nobody tells of changes to iptables: `periodMs` has to do. */
  watch(): Cancel {
    return () => undefined;
  }

  async dropped(owner: Owner): Promise<bigint> {
    for (const family of this.#settings.families) {
      const text = await this.#print([`${programs[family]}-save`, "-c"]);
      this.#drops.note(owner, programs[family], parseDropped(text, chainPrefix(owner)));
    }
    return this.#drops.total(owner);
  }

  places(owner: Owner, order: Order, met: Met): readonly Place[] {
    if (order.kind !== "blocks") return [];
    return xtPlaces(owner, this.#render(owner, order), { dispatch: order.dispatch, met });
  }

  /** An order without what this kernel cannot do; tried when it is first asked for. */
  async #possible(order: Order): Promise<Order> {
    if (order.kind === "isolation") this.#untranslated ??= await this.#probeTranslation();
    if (order.kind !== "blocks" || order.tap?.queue === undefined) return order;
    this.#holds ??= this.#probeHold().catch((thrown) => {
      this.#holds = undefined;
      throw thrown;
    });
    return (await this.#holds) ? order : { ...order, tap: { group: order.tap.group } };
  }

  async #probeHold(): Promise<boolean> {
    for (const family of this.#settings.families) {
      const restore = [`${programs[family]}-restore`, "--noflush", "--wait=10"];
      const { status, stderr } = await this.#run(restore, holdProbe.come);
      if (status === 0) await this.#run(restore, holdProbe.go);
      else {
        const limit = `Answers of DNS do not wait until the rules follow them: ${complaint(stderr, status)}`;
        this.limits.push(limit);
        this.#system.log("warning", limit);
        return false;
      }
    }
    return true;
  }

  /** What cannot be translated stays denied: all rules but those that translate are made. */
  async #probeTranslation(): Promise<ReadonlySet<Family>> {
    const lacking = new Set<Family>();
    for (const family of this.#settings.families) {
      const { status, stderr } = await this.#run([`${programs[family]}-save`, "-t", "nat"]);
      if (status === 0) continue;
      lacking.add(family);
      const limit = `No service reaches another over IPv${family}: ${complaint(stderr, status)}`;
      this.limits.push(limit);
      this.#system.log("warning", limit);
    }
    return lacking;
  }

  #render(owner: Owner, order: Order): XtRules {
    const { lanDevices, families } = this.#settings;
    const { sets, chains } =
      order.kind === "isolation"
        ? isolationRules(order.isolated, owner)
        : xtRules(order.dispatch, { owner, lanDevices, tap: order.tap, reportGroup: order.reportGroup });
    const has = (family: Family) => families.includes(family);
    const chainsOf = (family: Family) => {
      if (!has(family)) return new Map<string, readonly XtRule[]>();
      if (!this.#untranslated?.has(family)) return chains[family];
      return new Map([...chains[family]].filter(([chain]) => tableOf(chain) !== "nat"));
    };
    return {
      sets: new Map([...sets].filter(([, { family }]) => has(family))),
      chains: { 4: chainsOf(4), 6: chainsOf(6) },
    };
  }

  /** @returns whether anything was sent. @throws Fault "kernel", with `#known` forgotten. */
  async #change(owner: Owner, from: Present, to: XtRules): Promise<boolean> {
    this.#known.delete(owner);
    let sent = false;
    const send = async (argv: readonly string[], input: string) => {
      if (input === "") return;
      sent = true;
      const { status, stderr } = await this.#run(argv, input);
      if (status !== 0) {
        throw new Fault("kernel", `Cannot change rules of ${owner}: ${complaint(stderr, status)}`);
      }
    };
    await send(["ipset", "restore", "-exist"], renderAdditions(from.sets, to.sets));
    const prefix = chainPrefix(owner);
    for (const family of this.#settings.families) {
      const text = renderRules(prefix, from.rules[family], to.chains[family]);
      const resets = resetsDropped(text, prefix);
      // A number that cannot be read is no reason to leave a block undone.
      if (resets) await this.dropped(owner).catch(() => undefined);
      await send([`${programs[family]}-restore`, "--noflush", "--wait=10"], text);
      if (resets) this.#drops.note(owner, programs[family], 0n);
    }
    await send(["ipset", "restore", "-exist"], renderDeletions(from.sets, to.sets));
    if (await this.#destroy(renderDestruction(from.sets, to.sets))) sent = true;
    this.#known.set(owner, presentOf(owner, to));
    return sent;
  }

  /** Sets that stay in use, by rules of somebody else, harm nobody: they are said and left. */
  async #destroy(text: string): Promise<boolean> {
    if (text === "") return false;
    let left = text.trimEnd().split("\n");
    for (let tries = 0; tries < destroyTries; tries++) {
      const { status, stderr } = await this.#run(["ipset", "restore"], `${left.join("\n")}\n`);
      if (status === 0) return true;
      // It stops at the line that failed; what came before is done.
      const at = Number(/line (\d+)/.exec(stderr)?.[1] ?? 1);
      left = left.slice(at - 1);
      if (tries + 1 < destroyTries) {
        await new Promise<void>((resolve) => this.#system.after(destroyWaitMs, resolve));
      } else {
        this.#system.log("warning", `Cannot remove ${left.length} ipsets: ${complaint(stderr, status)}`);
      }
    }
    return true;
  }

  /** Brings back what was before a change that the kernel refused half-way. */
  async #undo(owner: Owner, { sets, rules }: Present): Promise<void> {
    try {
      const chains = { 4: rules[4].chains, 6: rules[6].chains };
      await this.#change(owner, await this.#read(owner), { sets, chains });
    } catch (thrown) {
      this.#system.log("error", `Cannot go back to the former rules of ${owner}: ${messageOf(thrown)}`);
    }
  }

  /** A look that reads no entries. @returns what differs. */
  async #look(owner: Owner, wanted: XtRules): Promise<string[]> {
    const prefix = chainPrefix(owner);
    const [counts, ...rules] = await Promise.all([
      this.#print(["ipset", "list", "-t"]),
      ...this.#settings.families.map((family) => this.#printRules(family)),
    ]);
    const found: string[] = [];
    const there = parseCounts(counts, setPrefix(owner));
    for (const [name, { elements }] of wanted.sets) {
      if (!there.has(name)) found.push(`set ${name} is gone`);
      else if ((there.get(name) ?? elements.size) !== elements.size)
        found.push(`entries of ${name} were changed`);
    }
    this.#settings.families.forEach((family, at) => {
      found.push(...ruleDifferences(prefix, parseRules(rules[at]!, prefix), wanted.chains[family]));
    });
    return found;
  }

  async #read(owner: Owner): Promise<Present> {
    const [sets, ...rules] = await Promise.all([
      this.#print(["ipset", "save"]),
      ...this.#settings.families.map((family) => this.#printRules(family)),
    ]);
    const present = { 4: nothing, 6: nothing };
    this.#settings.families.forEach((family, at) => {
      present[family] = parseRules(rules[at]!, chainPrefix(owner));
    });
    return { sets: parseSets(sets, setPrefix(owner)), rules: present };
  }

  #printRules(family: Family): Promise<string> {
    return this.#print([`${programs[family]}-save`]);
  }

  async #print(argv: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.#run(argv);
    if (status !== 0) throw new Fault("kernel", `Cannot read rules: ${complaint(stderr, status)}`);
    return stdout;
  }

  async #run(argv: readonly string[], input?: string): Promise<RunResult> {
    try {
      return await this.#system.run(argv, {
        maxOutputBytes: maxListBytes,
        ...(input === undefined ? {} : { input }),
      });
    } catch (thrown) {
      throw new Fault("kernel", `Cannot run ${argv[0]}: ${messageOf(thrown)}`, { cause: thrown });
    }
  }
}

/** What is there once rules have been sent and taken. */
function presentOf(owner: Owner, { sets, chains }: XtRules): Present {
  const rules = (family: Family): XtPresent => ({
    chains: chains[family],
    jumps: placedJumps(chainPrefix(owner), chains[family]),
  });
  return { sets, rules: { 4: rules(4), 6: rules(6) } };
}
