/**
 * Isolation: services reach and resolve the peers they were given, and nobody else.
 *
 * Joins who is where (services), who was given whom (connects), who may do everything (privileged), names outside and
 * stand-ins into one plan for the kernel and into answers of DNS, which say the same because both ask the same
 * (reach). Commands are applied in turns and answered when `commit` has made the plan true and the state durable.
 * Evidence is taken in at once; `onChange` tells that the plan is another one. Nothing here touches the machine.
 */

import type { IsolationPlan } from "../kernel/kernel.ts";
import { type Address, isDeviceMac, type Mac, scopeOf } from "../lib/address.ts";
import type { Json } from "../lib/json.ts";
import type { Clock } from "../system/system.ts";
import { Asking } from "./asking.ts";
import { Commands, type Connected, type ConnectWish, type RestartWish } from "./commands.ts";
import { Connects } from "./connects.ts";
import { Lookups } from "./lookups.ts";
import { canonicalName, Territory } from "./name.ts";
import { answerQuestion, type Outcome, type Question } from "./names.ts";
import { Naming } from "./naming.ts";
import { type Lookup, Outside } from "./outside.ts";
import type { IsolationOptions, IsolationParts } from "./parts.ts";
import { Planner } from "./plan.ts";
import { Privileged } from "./privileged.ts";
import { Reach } from "./reach.ts";
import { type IsolationState, parseIsolation, renderIsolation } from "./saved.ts";
import { isUnicast, type Link, Segments } from "./segments.ts";
import { placesOf, Services } from "./services.ts";
import type { Evidence, Witness } from "./sightings.ts";
import { StandIns } from "./standins.ts";
import { type Applied, Turns } from "./turns.ts";

export type { Connected, ConnectWish } from "./commands.ts";
export { type DoorOptions, isolationDoor } from "./door.ts";
export { type Heard, Relay, type RelayCounters, type Relayed, type RelayOptions } from "./mdns.ts";
export { isolationMethods } from "./methods.ts";
export { canonicalName } from "./name.ts";
export type { Outcome, Question } from "./names.ts";
export type { Lookup, OutsideAnswer } from "./outside.ts";
export type { IsolationOptions } from "./parts.ts";
export type { Link, LinkAddress, SegmentDeclaration } from "./segments.ts";
export type { ServiceDeclaration } from "./services.ts";
export type { Evidence, Witness } from "./sightings.ts";

/** The format of the store `isolation.json`. */
export const isolationFormat = { version: 1, parse: parseIsolation } as const;

const defaults = {
  ...{ maxPairs: 65_536, maxOutsideNames: 1_024 },
  ...{ restMs: 600_000, keepMs: 3_600_000 },
} as const;

export class Isolation {
  readonly #clock: Pick<Clock, "now">;
  readonly #options: IsolationOptions;
  readonly #parts: IsolationParts;
  readonly #planner: Planner;
  readonly #commands: Commands;
  readonly #asking = new Asking();
  readonly #turns: Turns;
  readonly #lookups: Lookups;
  /** Stand-ins may be missing, or be nobody's any more. */
  #isUnsettled = true;
  #wasBootstrapping = false;
  /** What was said of devices that two segments claim. */
  #contests: ReadonlySet<string> = new Set();
  /** Names that are elsewhere, or there or not, since `takeMoved`. */
  #moved = new Set<string>();
  /** The next commit may take something away, so that what is durable must not lag. */
  #mayTake = true;

  /** Takes in what was on disk; nothing is touched. */
  constructor(clock: Pick<Clock, "now">, options: IsolationOptions, saved?: IsolationState) {
    this.#clock = clock;
    this.#options = options;
    this.#parts = this.#build(saved);
    this.#planner = new Planner(this.#parts, options);
    this.#commands = this.#parts.commands;
    this.#turns = new Turns(() => this.#commit());
    this.#lookups = new Lookups({
      ask: (name) => options.lookup?.(name),
      learn: (name, found) => this.learn(name, found),
    });
    for (const [segment, devices] of saved?.placed ?? []) this.#parts.segments.place(segment, devices);
    this.#tellContests();
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
    return this.#take(() => this.#commands.disconnect(wish));
  }

  /**
   * Somebody knows that a service is at another address now. Who is not known by name is by the old address.
   *
   * @returns who was followed, if anybody. @throws Fault "invalid" for an address that no service can have.
   */
  restart(wish: RestartWish): Promise<string | undefined> {
    return this.#take(() => this.#commands.restart(wish));
  }

  /**
   * Makes a party privileged, by name or by address; an address whose service is known means the service. Ends the
   * bootstrap.
   *
   * @returns who it is. @throws Fault "invalid", "limit"
   */
  privilege(who: string): Promise<string> {
    return this.#take(() => this.#commands.privilege(who));
  }

  /** @returns false if no call had made it privileged. @throws Fault "invalid" */
  unprivilege(who: string): Promise<boolean> {
    return this.#take(() => this.#commands.unprivilege(who));
  }

  /** Resolves when all that is known now is enforced and durable. @throws Fault */
  settled(): Promise<void> {
    return this.#turns.do(() => ({ result: undefined }));
  }

  /** Resolves when no command waits or is being committed. */
  idle(): Promise<void> {
    return this.#turns.idle();
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

  /**
   * An access point says that a station has come to a device, or has left it. It knows no addresses: of those that
   * were seen with the station's MAC it says that they are there.
   *
   * @returns addresses that it may have there, to be looked for.
   */
  station(station: { readonly device: string; readonly mac: Mac; readonly isThere: boolean }): Address[] {
    const { services, segments } = this.#parts;
    const { device, mac, isThere } = station;
    services.station(station);
    this.#afterEvidence();
    const known = isThere ? services.addressesOf(mac) : [];
    return known.filter((address) => segments.holds(device, address));
  }

  /** A device is there, of a segment or not, with all its addresses; to be said again when they change. */
  linkUp(link: Link): void {
    if (this.#parts.segments.linkUp(link)) this.#relink(link.device);
  }

  linkDown(device: string): void {
    if (this.#parts.segments.linkDown(device)) this.#relink(device);
  }

  /**
   * These devices are a segment's, too; to be said again when they are others, then with all that is there and was
   * seen on them. One that another segment has stays with that, which is reported.
   *
   * @returns devices that are of a segment, of none or of another one now.
   */
  place(segment: string, devices: readonly string[]): readonly string[] {
    const { segments, services } = this.#parts;
    const moved = segments.place(segment, devices);
    this.#tellContests();
    if (moved.length === 0) return moved;
    services.move(moved);
    this.#adoptChanged();
    this.#changed();
    return moved;
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
    const what = this.#parts.outside.learn(name, lookup, this.#clock.now());
    if (what) this.#changed(what === "more");
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
    this.#lookups.renew(outside.due(now, (each) => connects.has(each)));
  }

  // Reading.

  /** Names that are elsewhere now, or there or not, since the last call. */
  takeMoved(): ReadonlySet<string> {
    const moved = this.#moved;
    this.#moved = new Set();
    return moved;
  }

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
    const { connects, privileged, standIns, services, segments } = this.#parts;
    return renderIsolation({
      pairs: [...connects.all()].flatMap(({ one, other, asked }) =>
        asked ? [{ one, other, ...asked }] : [],
      ),
      cut: [...connects.cut].filter(([one, other]) => this.#commands.isConfigured(one, other)),
      privileged: privileged.save(),
      standIns: [...standIns.keys()].map((key) => [key, standIns.get(key)!] as const),
      resting: standIns.rests(now),
      homes: [...services.homes].filter(([name]) => connects.has(name)),
      placed: [...segments.placed()],
    });
  }

  /** The answer to a query that came in on a device. Asks nobody; remembers which names outside are wanted. */
  answer(device: string, source: Address, question: Question): Outcome {
    const now = this.#clock.now();
    this.#settle(now);
    const outcome = answerQuestion(this.#parts, { device, source, now }, question);
    const wanted = outcome.kind === "later" ? outcome.name : this.#outsideName(question);
    if (outcome.kind !== "later" && outcome.kind !== "addresses") return outcome;
    if (wanted === undefined) return outcome;
    // Names that somebody is connected to are on nobody's account.
    const asker = this.#parts.connects.has(wanted) ? undefined : this.#askerAt(device, source);
    return this.#parts.outside.want(wanted, now, asker) ? outcome : { kind: "missing", ttlSeconds: 5 };
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
    const looking = this.#lookups.look(first.name, this.#askerAt(device, source));
    if (!looking) return { kind: "silent" };
    await looking;
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

  /** A command that may take something away. */
  #take<Result>(apply: () => Applied<Result>): Promise<Result> {
    return this.#turns.do(() => {
      this.#mayTake = true;
      return apply();
    });
  }

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

  #askerAt(device: string, source: Address): string {
    return this.#parts.reach.at(device, source, this.#clock.now())?.name ?? `${device} ${source}`;
  }

  #relink(device: string): void {
    const { standIns, segments, outside, services } = this.#parts;
    const lost = standIns.avoid(segments.allPrefixes(), this.#clock.now());
    if (lost.length > 0)
      this.#report(`${lost.length} stand-ins were on a network of this machine, and are others now`);
    outside.dropNear();
    services.relink(device);
    this.#adoptChanged();
    this.#changed();
  }

  /** Says once of each device that a segment cannot have. */
  #tellContests(): void {
    const lines = this.#parts.segments.contests.map(
      ({ device, segment, holder }) => `Cannot keep ${device} in segment ${segment}: it is in ${holder}`,
    );
    for (const line of lines) if (!this.#contests.has(line)) this.#report(line);
    this.#contests = new Set(lines);
  }

  #afterEvidence(): void {
    const { connects, privileged } = this.#parts;
    const changed = this.#adoptChanged();
    const matters = [...changed].some((name) => connects.has(name) || privileged.isClient(name));
    // While anybody is privileged, everybody matters.
    if (matters || !privileged.isEmpty(this.#clock.now())) this.#changed();
  }

  /** Takes note of who is elsewhere now. */
  #adoptChanged(): ReadonlySet<string> {
    const changed = this.#parts.services.takeChanged();
    for (const name of changed) {
      this.#moved.add(name);
      this.#adopt(name);
    }
    return changed;
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

  /** @param isMore nothing that was given before is taken away. */
  #changed(isMore = false): void {
    this.#isUnsettled = true;
    this.#mayTake ||= !isMore;
    this.#options.onChange?.();
  }

  async #commit(): Promise<void> {
    for (const name of this.#parts.services.takeChanged()) this.#moved.add(name);
    const isMore = !this.#mayTake;
    this.#mayTake = false;
    try {
      await this.#options.commit({ isMore });
    } catch (thrown) {
      this.#mayTake = true;
      throw thrown;
    }
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
