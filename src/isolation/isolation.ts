/**
 * Isolation: services reach and resolve the peers they were given, and nobody else.
 *
 * Joins who is where (services), who was given whom (connects), who may do everything (privileged), names outside and
 * stand-ins into one plan for the kernel and into answers of DNS, which say the same because both ask the same
 * (reach). Commands are applied in turns and answered when `commit` has made the plan true and the state durable.
 * Evidence is taken in at once; `onChange` tells that the plan is another one. Nothing here touches the machine.
 */

import type { IsolationPlan } from "../kernel/kernel.ts";
import { type Address, isDeviceMac, type Prefix, scopeOf } from "../lib/address.ts";
import type { Json } from "../lib/json.ts";
import type { Draw } from "../lib/pool.ts";
import type { Clock } from "../system/system.ts";
import { Asking } from "./asking.ts";
import { Commands, type Connected, type ConnectWish, type RestartWish } from "./commands.ts";
import { Connects } from "./connects.ts";
import { canonicalName, Territory } from "./name.ts";
import { answerQuestion, type NamesParts, type Outcome, type Question } from "./names.ts";
import { Naming } from "./naming.ts";
import { type Lookup, Outside } from "./outside.ts";
import { Planner, type PlanOptions } from "./plan.ts";
import { Privileged, type PrivilegedOptions } from "./privileged.ts";
import { Reach } from "./reach.ts";
import { type IsolationState, parseIsolation, renderIsolation } from "./saved.ts";
import { isUnicast, type Link, type SegmentDeclaration, Segments } from "./segments.ts";
import { placesOf, type ServiceDeclaration, Services } from "./services.ts";
import type { Evidence, Witness } from "./sightings.ts";
import { StandIns } from "./standins.ts";
import { Turns } from "./turns.ts";

export type { Connected, ConnectWish } from "./commands.ts";
export { type DoorOptions, isolationDoor } from "./door.ts";
export { type Heard, Relay, type RelayCounters, type Relayed, type RelayOptions } from "./mdns.ts";
export { isolationMethods } from "./methods.ts";
export { canonicalName } from "./name.ts";
export type { Outcome, Question } from "./names.ts";
export type { Lookup, OutsideAnswer } from "./outside.ts";
export type { Link, LinkAddress, SegmentDeclaration } from "./segments.ts";
export type { ServiceDeclaration } from "./services.ts";
export type { Evidence, Witness } from "./sightings.ts";

export interface IsolationOptions extends PlanOptions {
  readonly segments: readonly SegmentDeclaration[];
  readonly services: readonly (ServiceDeclaration & { readonly peers?: readonly string[] })[];
  readonly pool4: Prefix;
  readonly pool6: Prefix;
  readonly draw: Draw;
  readonly privileged?: PrivilegedOptions;
  /** Domains whose names are ours. Default: lan. */
  readonly domains?: readonly string[];
  /** Names of the router itself, for privileged parties. Default: databox-network. */
  readonly ownNames?: readonly string[];
  /** Default 65,536. */
  readonly maxPairs?: number;
  /** How long a stand-in rests after it was given back. Default 10 minutes. */
  readonly restMs?: number;
  /** How long an address outside stays reachable after its name has another. Default an hour. */
  readonly keepMs?: number;
  /** Makes the present plan true and the present state durable. @throws Fault "storage" if only the disk refused. */
  commit(): Promise<void>;
  /** The plan, and perhaps the state, are others without a command: to be applied soon. */
  onChange?(): void;
  /** Asks the world for a name outside. What it throws means that nobody answered. */
  lookup?(name: string): Promise<Lookup>;
  /** Whether connections to an address outside are open. */
  isInUse?(address: Address): boolean;
  /** What people should know, a sentence each. */
  report?(line: string): void;
}

/** The format of the store `isolation.json`. */
export const isolationFormat = { version: 1, parse: parseIsolation } as const;

const defaults = {
  ...{ maxPairs: 65_536, maxOutsideNames: 1_024 },
  ...{ restMs: 600_000, keepMs: 3_600_000 },
} as const;
/** Look-ups of names outside that run at a time; each is a query of ours upstream. */
const maxLookups = 32;

/** What status, relay and explanations read. */
export interface IsolationParts extends NamesParts {
  readonly naming: Naming;
  readonly commands: Commands;
}

export class Isolation {
  readonly #clock: Pick<Clock, "now">;
  readonly #options: IsolationOptions;
  readonly #parts: IsolationParts;
  readonly #planner: Planner;
  readonly #commands: Commands;
  readonly #asking = new Asking();
  readonly #turns: Turns;
  /** Outside names that are being looked up. */
  readonly #lookups = new Map<string, Promise<void>>();
  /** Stand-ins may be missing, or be nobody's any more. */
  #isUnsettled = true;
  #wasBootstrapping = false;

  /**
   * Takes in what was on disk; nothing is touched.
   *
   * @throws RangeError if a device is of two segments.
   */
  constructor(clock: Pick<Clock, "now">, options: IsolationOptions, saved?: IsolationState) {
    this.#clock = clock;
    this.#options = options;
    this.#parts = this.#build(saved);
    this.#planner = new Planner(this.#parts, options);
    this.#commands = this.#parts.commands;
    this.#turns = new Turns(() => this.#commit());
    this.#commands.load(saved, options.services);
    this.#wasBootstrapping = this.#parts.privileged.bootstrapping(clock.now()) !== undefined;
  }

  /** To be read only. */
  get parts(): IsolationParts {
    return this.#parts;
  }

  // Commands. Each resolves when it is enforced and durable, and throws why it is not.

  /**
   * Gives a name its peers. Said again it changes nothing; what was given before stays.
   *
   * @throws Fault "invalid" for names, ports or directions that make no sense, "limit"; nothing is done then.
   */
  connect(wish: ConnectWish): Promise<readonly Connected[]> {
    return this.#turns.do(() => this.#commands.connect(wish));
  }

  /**
   * Ends one pair, or everything that calls and configuration gave a name.
   *
   * @returns whom it was connected to; none is no fault. @throws Fault "invalid"
   */
  disconnect(wish: { readonly name: unknown; readonly peer?: unknown }): Promise<readonly string[]> {
    return this.#turns.do(() => this.#commands.disconnect(wish));
  }

  /**
   * Somebody knows that a service is at another address now. Who is not known by name is by the old address.
   *
   * @returns who was followed, if anybody. @throws Fault "invalid" for an address that no service can have.
   */
  restart(wish: RestartWish): Promise<string | undefined> {
    return this.#turns.do(() => this.#commands.restart(wish));
  }

  /**
   * Makes a party privileged, by name or by address; an address whose service is known means the service. Ends the
   * bootstrap.
   *
   * @returns who it is. @throws Fault "invalid", "limit"
   */
  privilege(who: string): Promise<string> {
    return this.#turns.do(() => this.#commands.privilege(who));
  }

  /** @returns false if no call had made it privileged. @throws Fault "invalid" */
  unprivilege(who: string): Promise<boolean> {
    return this.#turns.do(() => this.#commands.unprivilege(who));
  }

  /** Resolves when all that is known now is enforced and durable. @throws Fault */
  settled(): Promise<void> {
    return this.#turns.do(() => ({ result: undefined }));
  }

  // Evidence.

  /** An address was seen on a device. */
  seen(evidence: Evidence): void {
    const { services, naming } = this.#parts;
    // A MAC that is nobody's ties nothing together.
    const mac = evidence.mac !== undefined && isDeviceMac(evidence.mac) ? evidence.mac : undefined;
    services.see({ ...evidence, mac, hostname: naming.hostname(evidence.hostname) });
    this.#afterEvidence();
  }

  /** A witness, or without one everybody, no longer sees an address. */
  gone(place: { readonly device: string; readonly address: Address; readonly source?: Witness }): void {
    this.#parts.services.forget(place.device, place.address, place.source);
    this.#afterEvidence();
  }

  /** A device is there, of a segment or not, with all its addresses; to be said again when they change. */
  linkUp(link: Link): void {
    if (this.#parts.segments.linkUp(link)) this.#relink(link.device);
  }

  linkDown(device: string): void {
    if (this.#parts.segments.linkDown(device)) this.#relink(device);
  }

  /** Local names for the segments' resolvers to be asked for now; to be answered by `found`. */
  wanted(): string[] {
    return this.#asking.due(this.#clock.now());
  }

  /** What a segment's resolver said of a local name; undefined: nothing. Addresses off the segments don't count. */
  found(name: string, addresses: readonly Address[] | undefined): void {
    const { segments, services } = this.#parts;
    const placeOf = (address: Address) => segments.deviceOf(address);
    const { found, gone } = this.#asking.answered(name, { addresses, placeOf }, this.#clock.now());
    for (const { device, address } of gone) services.forget(device, address, "resolver");
    for (const { device, address } of found)
      services.see({ device, address, source: "resolver", hostname: name });
    this.#afterEvidence();
  }

  /** What the world said of a name outside. */
  learn(name: string, lookup: Lookup): void {
    if (this.#parts.outside.learn(name, lookup, this.#clock.now())) this.#changed();
  }

  /** Often: ends what has run out, and looks up what is due. */
  tick(): void {
    const now = this.#clock.now();
    const { privileged, outside, reach, connects } = this.#parts;
    const isBootstrapping = privileged.bootstrapping(now) !== undefined;
    const isOver = this.#wasBootstrapping && !isBootstrapping;
    this.#wasBootstrapping = isBootstrapping;
    const hasClients = reach.clients(now).length > 0;
    const went = outside.expire(now, {
      isNeeded: (name) => hasClients || reach.isGiven(name),
      isExact: (name) => connects.has(name),
      isInUse: (address) => this.#options.isInUse?.(address) ?? false,
    });
    if (isOver || went) this.#changed();
    for (const name of outside.due(now, (each) => connects.has(each))) {
      if (this.#lookups.size >= maxLookups) break;
      void this.#lookUp(name);
    }
  }

  // Reading.

  /** What the kernel shall do. */
  plan(): IsolationPlan {
    const now = this.#clock.now();
    this.#settle(now);
    return this.#planner.plan(now);
  }

  /** Everything, for the store. */
  save(): Json {
    const now = this.#clock.now();
    this.#settle(now);
    const { connects, privileged, standIns, services } = this.#parts;
    return renderIsolation({
      pairs: [...connects.all()].flatMap(({ one, other, asked }) =>
        asked ? [{ one, other, ...asked }] : [],
      ),
      cut: [...connects.cut].filter(([one, other]) => this.#commands.isConfigured(one, other)),
      privileged: privileged.save(),
      standIns: [...standIns.keys()].map((key) => [key, standIns.get(key)!] as const),
      resting: standIns.rests(now),
      homes: [...services.homes].filter(([name]) => connects.has(name)),
    });
  }

  /** The answer to a query that came in on a device. Asks nobody; remembers which names outside are wanted. */
  answer(device: string, source: Address, question: Question): Outcome {
    const now = this.#clock.now();
    this.#settle(now);
    const outcome = answerQuestion(this.#parts, { device, source, now }, question);
    const wanted = outcome.kind === "later" ? outcome.name : this.#outsideName(question);
    if (outcome.kind !== "later" && outcome.kind !== "addresses") return outcome;
    if (wanted === undefined || this.#parts.outside.want(wanted, now)) return outcome;
    return { kind: "missing", ttlSeconds: 5 };
  }

  /**
   * The same, after a name outside was looked up and its addresses are enforced.
   *
   * @returns "silent" if nobody could say, or the kernel refused: to be answered with a failure. Never throws.
   */
  async ask(
    device: string,
    source: Address,
    question: Question,
  ): Promise<Exclude<Outcome, { kind: "later" }> | { readonly kind: "silent" }> {
    await this.#meet(device, source);
    const first = this.answer(device, source, question);
    if (first.kind !== "later") return first;
    if (this.#lookups.size >= maxLookups && !this.#lookups.has(first.name)) return { kind: "silent" };
    await this.#lookUp(first.name);
    try {
      await this.settled();
    } catch {
      // An address that is not enforced would lead nowhere.
      return { kind: "silent" };
    }
    const second = this.answer(device, source, question);
    return second.kind === "later" ? { kind: "silent" } : second;
  }

  // Within.

  #build(saved: IsolationState | undefined): IsolationParts {
    const options = this.#options;
    const { pool4, pool6, draw, restMs = defaults.restMs, keepMs = defaults.keepMs } = options;
    const segments = new Segments(options.segments);
    const connects = new Connects(options.maxPairs ?? defaults.maxPairs);
    const standIns = new StandIns({ pool4, pool6, draw, restMs });
    const privileged = new Privileged(options.privileged ?? {}, this.#clock.now(), saved?.privileged);
    const own = new Set(options.ownNames ?? ["databox-network"]);
    const territory = new Territory(options.domains ?? ["lan"]);
    const services = new Services({
      segments,
      declarations: options.services,
      reserved: new Set([...own, "localhost"]),
      isLearnable: (name) => !name.includes("."),
      isStandIn: (address) => standIns.isOurs(address),
      isNeeded: (name) => connects.has(name) || privileged.isClient(name),
    });
    const isFar = (address: Address) =>
      isUnicast(address) &&
      scopeOf(address) === "global" &&
      !standIns.isOurs(address) &&
      !segments.isNear(address);
    const outside = new Outside({ maxNames: defaults.maxOutsideNames, keepMs, isFar });
    const naming = new Naming({ territory, own, services });
    const shared = { segments, services, connects, privileged, outside, standIns, naming };
    const commands = new Commands({
      ...shared,
      asking: this.#asking,
      now: () => this.#clock.now(),
      unsettle: () => {
        this.#isUnsettled = true;
      },
      settle: () => this.#settle(this.#clock.now()),
      report: (line) => this.#report(line),
    });
    return { ...shared, reach: new Reach(shared), commands };
  }

  /** Whoever asks for the first time while its segment is being brought up has its routes before its answer. */
  async #meet(device: string, source: Address): Promise<void> {
    const { segments, services, privileged } = this.#parts;
    const bootstrap = privileged.bootstrapping(this.#clock.now());
    if (!bootstrap || segments.of(device)?.name !== bootstrap.segment || !segments.holds(device, source))
      return;
    if (services.at(device, source) || services.isSeen(device, source)) return;
    this.seen({ device, address: source, source: "query" });
    // What is not enforced is not answered either: there is no stand-in for it.
    await this.settled().catch(() => {});
  }

  #outsideName({ name: text }: Question): string | undefined {
    const name = canonicalName(text);
    return name === undefined || this.#parts.naming.local(name) !== undefined ? undefined : name;
  }

  /** Looks a name up once at a time. Never rejects. */
  #lookUp(name: string): Promise<void> {
    const running = this.#lookups.get(name);
    if (running) return running;
    const { lookup } = this.#options;
    const looking = Promise.resolve()
      .then(() => lookup?.(name) ?? ({ kind: "silent" } as const))
      .catch((): Lookup => ({ kind: "silent" }))
      .then((found) => {
        this.#lookups.delete(name);
        this.learn(name, found);
      });
    this.#lookups.set(name, looking);
    return looking;
  }

  #relink(device: string): void {
    const { standIns, segments, outside, services } = this.#parts;
    const lost = standIns.avoid(segments.allPrefixes(), this.#clock.now());
    if (lost.length > 0)
      this.#report(`${lost.length} stand-ins were on a network of this machine, and are others now`);
    outside.dropNear();
    services.relink(device);
    for (const name of services.takeChanged()) this.#adopt(name);
    this.#changed();
  }

  #afterEvidence(): void {
    const { services, connects, privileged } = this.#parts;
    const changed = services.takeChanged();
    for (const name of changed) this.#adopt(name);
    const matters = [...changed].some((name) => connects.has(name) || privileged.isClient(name));
    // While anybody is privileged, everybody matters.
    if (matters || !privileged.isEmpty(this.#clock.now())) this.#changed();
  }

  /** A privileged address turns out to be a declared service's: from now on it is privileged by its name. */
  #adopt(name: string): void {
    const { services, privileged } = this.#parts;
    if (!services.isDeclared(name)) return;
    const places = placesOf(services.get(name));
    for (const address of [...privileged.addresses]) {
      if (!places.some((place) => place.address === address)) continue;
      privileged.remove(address);
      privileged.add(name);
    }
  }

  #changed(): void {
    this.#isUnsettled = true;
    this.#options.onChange?.();
  }

  async #commit(): Promise<void> {
    this.#parts.services.takeChanged();
    await this.#options.commit();
  }

  /** Gives stand-ins to whom somebody may see, and takes them from whom nobody may any more. */
  #settle(now: number): void {
    if (!this.#isUnsettled) return;
    this.#isUnsettled = false;
    const { standIns, reach, naming } = this.#parts;
    // Who has no stand-in is reached by nobody.
    for (const line of standIns.settle(
      reach.seen(now, (name) => naming.isOutside(name)),
      now,
    ))
      this.#report(line);
  }

  #report(line: string): void {
    this.#options.report?.(line);
  }
}
