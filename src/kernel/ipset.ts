/**
 * The ipset back end, for machines whose firewall is iptables (fw3): chains `gatehouse-<owner>…` in the filter
 * table of either family, sets `gh-<owner>-…`.
 *
 * ipset has no transactions, so a change goes in an order in which what is blocked before and after is blocked
 * throughout: entries are added, then each family's rules change in one transaction, then entries go that no
 * longer count. Keeps sets and chains of each owner as last sent or read, and an order's rules as long as the order
 * lives. The iptables that makes rules of nf_tables has the kernel announce what others change; of the older one, and
 * of sets, nobody tells. So a cheap look at the numbers of entries and at the rules comes every second, soon after
 * every change, and after what is announced; every thirtieth reads all entries.
 */

import type { Family } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, RunResult, System } from "../system/system.ts";
import { type Announced, Announcements } from "./announced.ts";
import { Drops } from "./drops.ts";
import { complaint, type Enforcer, type Order, type Place, type WatchHandlers } from "./enforcer.ts";
import {
  chainPrefix,
  entrances,
  holdRule,
  setPrefix,
  tableOf,
  type XtRule,
  type XtRules,
  type XtSet,
  xtRules,
} from "./ipsetrules.ts";
import {
  countsDropped,
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
import { Trial } from "./trial.ts";

/** What there is of an owner. */
interface Present {
  readonly sets: ReadonlyMap<string, XtSet>;
  readonly rules: Readonly<Record<Family, XtPresent>>;
}

export interface IpsetSettings {
  readonly lanDevices: readonly string[];
  /** Families whose iptables works here. */
  readonly families: readonly Family[];
}

/** What a look found to differ. */
interface Look {
  readonly rules: Present["rules"];
  readonly ofSets: readonly string[];
  readonly ofRules: readonly string[];
}

const programs = { 4: "iptables", 6: "ip6tables" } as const;
const maxListBytes = 256 * 1024 * 1024;
/** Makes an answer wait in a chain that no packet comes to, and takes that away again. */
const holdProbe = {
  come: `*mangle\n:gatehouse-probe - [0:0]\n-A gatehouse-probe ${holdRule(0)}\nCOMMIT\n`,
  go: "*mangle\n:gatehouse-probe - [0:0]\n-X gatehouse-probe\nCOMMIT\n",
} as const;
/** Tables of nf_tables that iptables makes: NFPROTO_IPV4 and NFPROTO_IPV6. */
const announcing = { families: [2, 10], tables: ["filter", "mangle", "nat"] } as const;
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
  readonly #system: System;
  readonly #settings: IpsetSettings;
  readonly #known = new Map<Owner, Present>();
  /** What the kernel took last. */
  readonly #inForce = new Map<Owner, XtRules>();
  readonly #looks = new Map<Owner, number>();
  readonly #drops = new Drops();
  readonly #trial: Trial;
  readonly #rendered = new WeakMap<Order, XtRules>();
  readonly #announcements = new Announcements();
  /** Lists that are being printed, for looks that begin meanwhile: command line → what it will print. */
  readonly #printing = new Map<string, Promise<string>>();
  #watcher: WatchHandlers | undefined;
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
    this.#trial = new Trial(system, { limits: this.limits, attempt: () => this.#probeHold() });
  }

  async enforce(owner: Owner, order: Order): Promise<boolean> {
    const wanted = await this.#rules(owner, order);
    const known = this.#known.get(owner);
    const before = known ?? (await this.#read(owner));
    try {
      const sent = await this.#bring(owner, wanted, { before, isKnown: known !== undefined });
      this.#inForce.set(owner, wanted);
      return sent;
    } catch (thrown) {
      // What was read may be what somebody else had left of it.
      const former = this.#inForce.get(owner);
      await this.#undo(owner, former ? presentOf(owner, former) : before);
      throw thrown;
    }
  }

  async verify(owner: Owner, order: Order): Promise<readonly string[]> {
    const wanted = await this.#rules(owner, order);
    const looks = (this.#looks.get(owner) ?? 0) + 1;
    this.#looks.set(owner, looks);
    const isThorough = looks % thoroughEvery === 0;
    const { rules, ofSets, ofRules } = await this.#look(owner, wanted);
    if (!isThorough && ofSets.length + ofRules.length === 0) return [];
    // Where their numbers are right, entries are read by the thorough look alone.
    const sets = isThorough || ofSets.length > 0 ? await this.#readSets(owner) : wanted.sets;
    const before = { sets, rules };
    const found = [...setDifferences(sets, wanted.sets), ...ofRules];
    // What was found is not what was: it is nothing to go back to if the kernel refuses.
    if (found.length > 0) await this.#bring(owner, wanted, { before, isKnown: true });
    else this.#known.set(owner, before);
    return found;
  }

  async remove(owner: Owner): Promise<void> {
    const present = await this.#read(owner);
    this.#inForce.delete(owner);
    await this.#change(owner, present, { sets: new Map(), chains: { 4: new Map(), 6: new Map() } });
    this.#known.delete(owner);
  }

  bootTexts(owner: Owner, order: Order): ReadonlyMap<string, string> {
    const rendered = this.#rendered.get(order) ?? this.#render(owner, order);
    const { sets, rules } = renderBoot(chainPrefix(owner), rendered);
    return new Map([
      [`${owner}.ipset`, sets],
      ...this.#settings.families.map((family) => [`${owner}.${programs[family]}`, rules[family]] as const),
    ]);
  }

  watch(handlers: WatchHandlers): Cancel {
    this.#watcher = handlers;
    const onChange = () => {
      // What was begun before is not what is there now.
      this.#printing.clear();
      handlers.onChange();
    };
    let close = () => {};
    try {
      const { onFault } = handlers;
      const subscription = this.#announcements.watch(this.#system, {
        ...{ concerns, onChange, onFault: (fault) => onFault(fault) },
      });
      close = () => subscription.close();
    } catch {
      // A kernel without nf_tables announces nothing: `periodMs` has to do.
    }
    return () => {
      this.#watcher = undefined;
      close();
    };
  }

  async dropped(owner: Owner): Promise<bigint> {
    for (const family of this.#settings.families) await this.#count(owner, family);
    return this.#drops.total(owner);
  }

  places(owner: Owner, order: Order, met: Met): readonly Place[] {
    if (order.kind !== "blocks") return [];
    return xtPlaces(owner, this.#rendered.get(order) ?? this.#render(owner, order), {
      dispatch: order.dispatch,
      met,
    });
  }

  /** The rules of an order, as far as this kernel can do it. */
  async #rules(owner: Owner, order: Order): Promise<XtRules> {
    const present = this.#rendered.get(order);
    if (present) return present;
    if (order.kind === "isolation") this.#untranslated ??= await this.#probeTranslation();
    const rules = this.#render(owner, await this.#trial.possible(order));
    this.#rendered.set(order, rules);
    return rules;
  }

  async #probeHold(): Promise<string | undefined> {
    for (const family of this.#settings.families) {
      const { status, stderr } = await this.#restore(family, holdProbe.come);
      if (status !== 0) return complaint(stderr, status);
      await this.#restore(family, holdProbe.go);
    }
    return undefined;
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

  /**
   * Makes rules true, and looks whether they are; not at once, but soon, where what was there before `isKnown` and the
   * kernel took all that was sent.
   *
   * @returns whether anything was sent. @throws Fault "kernel", with `#known` forgotten.
   */
  async #bring(
    owner: Owner,
    wanted: XtRules,
    { before, isKnown }: { readonly before: Present; readonly isKnown: boolean },
  ): Promise<boolean> {
    let refused: unknown;
    for (const again of [false, true]) {
      try {
        // The second time from what is there, which is not what we believed.
        const sent = await this.#change(owner, again ? await this.#read(owner) : before, wanted);
        if (isKnown && !again) {
          if (sent) this.#watcher?.onChange(owner);
          return sent;
        }
        const { ofSets, ofRules } = await this.#look(owner, wanted);
        const found = [...ofSets, ...ofRules];
        if (found.length === 0) return sent;
        refused = new Fault("kernel", `Cannot change rules of ${owner}: ${found.join(", ")}`);
      } catch (thrown) {
        refused = thrown;
      }
    }
    this.#known.delete(owner);
    throw refused;
  }

  /** @returns whether anything was sent. @throws Fault "kernel", with `#known` forgotten. */
  async #change(owner: Owner, from: Present, to: XtRules): Promise<boolean> {
    this.#known.delete(owner);
    let sent = false;
    const send = async (text: string, run: (text: string) => Promise<RunResult>) => {
      if (text === "") return;
      sent = true;
      const { status, stderr } = await run(text);
      if (status !== 0) {
        throw new Fault("kernel", `Cannot change rules of ${owner}: ${complaint(stderr, status)}`);
      }
    };
    const sendSets = (text: string) =>
      send(text, (input) => this.#run(["ipset", "restore", "-exist"], input));
    await sendSets(renderAdditions(from.sets, to.sets));
    const prefix = chainPrefix(owner);
    const refusals: unknown[] = [];
    for (const family of this.#settings.families) {
      const present = from.rules[family];
      const text = renderRules(prefix, present, to.chains[family]);
      const resets = resetsDropped(text, prefix);
      // A number that cannot be read is no reason to leave a block undone. One that is gone is not asked for.
      if (resets && countsDropped(present, prefix)) await this.#count(owner, family).catch(() => undefined);
      try {
        await send(text, (input) => this.#restore(family, input));
        if (resets) this.#drops.note(owner, programs[family], 0n);
      } catch (thrown) {
        // What one family's tables refuse is no reason to leave the other's undone.
        refusals.push(thrown);
      }
    }
    if (refusals.length > 0) throw refusals[0];
    await sendSets(renderDeletions(from.sets, to.sets));
    if (await this.#destroy(renderDestruction(from.sets, to.sets))) sent = true;
    this.#known.set(owner, presentOf(owner, to));
    return sent;
  }

  async #count(owner: Owner, family: Family): Promise<void> {
    const text = await this.#print([`${programs[family]}-save`, "-c"]);
    this.#drops.note(owner, programs[family], parseDropped(text, chainPrefix(owner)));
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

  /** A look that reads no entries. */
  async #look(owner: Owner, wanted: XtRules): Promise<Look> {
    const [counts, rules] = await Promise.all([
      this.#shared(["ipset", "list", "-t"]),
      this.#readRules(owner, (argv) => this.#shared(argv)),
    ]);
    const there = parseCounts(counts, setPrefix(owner));
    const ofSets: string[] = [];
    for (const [name, { elements }] of wanted.sets) {
      if (!there.has(name)) ofSets.push(`set ${name} is gone`);
      else if ((there.get(name) ?? elements.size) !== elements.size)
        ofSets.push(`entries of ${name} were changed`);
    }
    const ofRules = this.#settings.families.flatMap((family) =>
      ruleDifferences(chainPrefix(owner), rules[family], wanted.chains[family]).map(
        (words) => `${programs[family]}: ${words}`,
      ),
    );
    return { rules, ofSets, ofRules };
  }

  async #read(owner: Owner): Promise<Present> {
    const [sets, rules] = await Promise.all([
      this.#readSets(owner),
      this.#readRules(owner, (argv) => this.#print(argv)),
    ]);
    return { sets, rules };
  }

  async #readSets(owner: Owner): Promise<Present["sets"]> {
    return parseSets(await this.#print(["ipset", "save"]), setPrefix(owner));
  }

  async #readRules(
    owner: Owner,
    print: (argv: readonly string[]) => Promise<string>,
  ): Promise<Present["rules"]> {
    const { families } = this.#settings;
    const texts = await Promise.all(families.map((family) => print([`${programs[family]}-save`])));
    const present = { 4: nothing, 6: nothing };
    for (const [at, family] of families.entries())
      present[family] = parseRules(texts[at]!, chainPrefix(owner));
    return present;
  }

  /** Prints a list, once for all who look at the same time: nothing was changed, by us or as announced, meanwhile. */
  #shared(argv: readonly string[]): Promise<string> {
    const key = argv.join(" ");
    const present = this.#printing.get(key);
    if (present) return present;
    const text = this.#print(argv).finally(() => {
      if (this.#printing.get(key) === text) this.#printing.delete(key);
    });
    this.#printing.set(key, text);
    return text;
  }

  #restore(family: Family, text: string): Promise<RunResult> {
    const argv = [`${programs[family]}-restore`, "--noflush", "--wait=10"];
    return this.#announcements.ours(() => this.#run(argv, text));
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
    } finally {
      // What is printed from here on shows what was changed.
      if (input !== undefined) this.#printing.clear();
    }
  }
}

/** Whether a change may be one of rules of ours, or of a chain that leads to them. */
function concerns({ family, table, what, chain }: Announced): boolean {
  if (!announcing.families.some((each) => each === family)) return false;
  if (!announcing.tables.some((each) => each === table)) return false;
  if (what === "table gone" || chain.startsWith("gatehouse-")) return true;
  const leadsToUs = entrances.some((each) => each.table === table && each.chain === chain);
  return leadsToUs && what !== "chain";
}

/** What is there once rules have been sent and taken. */
function presentOf(owner: Owner, { sets, chains }: XtRules): Present {
  const rules = (family: Family): XtPresent => ({
    chains: chains[family],
    jumps: placedJumps(chainPrefix(owner), chains[family]),
  });
  return { sets, rules: { 4: rules(4), 6: rules(6) } };
}
