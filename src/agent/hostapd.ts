/**
 * Who is in the air: the stations of every access point of this machine, as hostapd tells on the bus.
 *
 *     hostapd.wlan0   get_clients → {clients: {MAC: {authorized, …}}}
 *                     assoc, sta-authorized {address, …} ─► there       disassoc, deauth {address} ─► gone
 *
 * Kept: by access point, which is named after its interface, its stations, and the device that they are told on: the
 * bridge that the interface is in, or itself. A station that moves from one access point to another of the same device
 * is there all the time. An access point that is gone has no stations; what was missed is found by asking now and then.
 */

import { type Mac, parseMac } from "../lib/address.ts";
import { isObject, type JsonObject } from "../lib/json.ts";
import type { Cancel, Clock } from "../system/system.ts";
import type { Ubus } from "../ubus/ubus.ts";

export interface Station {
  readonly device: string;
  readonly mac: Mac;
  readonly isThere: boolean;
}

export interface StationsOptions {
  /** The device that an interface's addresses are on: its bridge, or itself. */
  deviceOf(name: string): string;
  tell(station: Station): void;
}

interface AccessPoint {
  readonly name: string;
  device: string;
  readonly stations: Set<Mac>;
  cancel(): void;
  /** While it is asked who is there: of whom it told meanwhile, which is news. */
  news: Set<Mac> | undefined;
}

const prefix = "hostapd.";
const periodMs = 60_000;
const maxAccessPoints = 64;
/** hostapd itself takes no more (2007). */
const maxStations = 2_048;
const arrivals: ReadonlySet<string> = new Set(["assoc", "sta-authorized"]);
const departures: ReadonlySet<string> = new Set(["disassoc", "deauth", "inactive-deauth"]);

export class Stations {
  readonly #ubus: Pick<Ubus, "listen" | "subscribe" | "call" | "lookup">;
  readonly #options: StationsOptions;
  readonly #points = new Map<string, AccessPoint>();
  readonly #cancels: Cancel[];
  #closed = false;

  /** Never throws: where there is no hostapd, nothing is told. */
  constructor(
    clock: Pick<Clock, "every">,
    ubus: Pick<Ubus, "listen" | "subscribe" | "call" | "lookup">,
    options: StationsOptions,
  ) {
    this.#ubus = ubus;
    this.#options = options;
    const heard = [
      ubus.listen("ubus.object.add", (_, { path }) => void this.#ask(nameOf(path))),
      ubus.listen("ubus.object.remove", (_, { path }) => this.#remove(nameOf(path))),
    ];
    this.#cancels = [
      ...heard.map((each) => () => each.cancel()),
      clock.every(periodMs, () => void this.#look()),
    ];
    void this.#look();
  }

  get size(): number {
    return [...this.#points.values()].reduce((sum, { stations }) => sum + stations.size, 0);
  }

  /** An interface is in another bridge now, or in none. */
  relink(name: string): void {
    const point = this.#points.get(name);
    if (!point) return;
    const device = this.#options.deviceOf(name);
    if (device === point.device) return;
    const stations = [...point.stations];
    for (const mac of stations) this.#leave(point, mac);
    point.device = device;
    for (const mac of stations) this.#join(point, mac);
  }

  /** Tells once more who is on a device. */
  repeat(device: string): void {
    for (const point of this.#points.values()) {
      if (point.device !== device) continue;
      for (const mac of point.stations) this.#options.tell({ device, mac, isThere: true });
    }
  }

  close(): void {
    this.#closed = true;
    for (const cancel of this.#cancels) cancel();
    for (const { cancel } of this.#points.values()) cancel();
  }

  /** Finds every access point. Never rejects. */
  async #look(): Promise<void> {
    const paths = await this.#ubus.lookup(`${prefix}*`).then(
      (found) => found.map(({ path }) => path),
      (): string[] => [],
    );
    const names = new Set(paths.map(nameOf));
    for (const name of [...this.#points.keys()]) if (!names.has(name)) this.#remove(name);
    await Promise.all([...names].map((name) => this.#ask(name)));
  }

  /** Learns who is at an access point. Never rejects. */
  async #ask(name: string | undefined): Promise<void> {
    const point = name === undefined || this.#closed ? undefined : this.#point(name);
    if (!point || point.news) return;
    const news = new Set<Mac>();
    point.news = news;
    const answer = await this.#ubus.call(`${prefix}${name}`, "get_clients").catch(() => undefined);
    point.news = undefined;
    if (this.#closed || answer === undefined || this.#points.get(point.name) !== point) return;
    const there = new Set(stationsIn(answer));
    for (const mac of [...point.stations]) if (!there.has(mac) && !news.has(mac)) this.#leave(point, mac);
    for (const mac of there) if (!point.stations.has(mac) && !news.has(mac)) this.#join(point, mac);
  }

  #point(name: string): AccessPoint | undefined {
    const present = this.#points.get(name);
    if (present || this.#points.size >= maxAccessPoints) return present;
    const heard = this.#ubus.subscribe(`${prefix}${name}`, (type, data) => this.#hear(point, type, data));
    const point: AccessPoint = {
      ...{ name, stations: new Set<Mac>(), news: undefined, cancel: () => heard.cancel() },
      device: this.#options.deviceOf(name),
    };
    this.#points.set(name, point);
    return point;
  }

  #remove(name: string | undefined): void {
    const point = name === undefined ? undefined : this.#points.get(name);
    if (!point) return;
    point.cancel();
    for (const mac of [...point.stations]) this.#leave(point, mac);
    this.#points.delete(point.name);
  }

  #hear(point: AccessPoint, type: string, { address, vlan }: JsonObject): void {
    const mac = typeof address === "string" ? parseMac(address) : undefined;
    // Whoever has a VLAN of its own is on another interface, which is not told.
    if (mac === undefined || vlan !== undefined || this.#points.get(point.name) !== point) return;
    const isThere = arrivals.has(type);
    if (!isThere && !departures.has(type)) return;
    if (isThere) this.#join(point, mac);
    else this.#leave(point, mac);
    if (point.news && point.news.size < maxStations) point.news.add(mac);
  }

  #join(point: AccessPoint, mac: Mac): void {
    if (point.stations.size >= maxStations) return;
    point.stations.add(mac);
    // Said again it makes who has roamed be looked for.
    this.#options.tell({ device: point.device, mac, isThere: true });
  }

  #leave(point: AccessPoint, mac: Mac): void {
    if (!point.stations.delete(mac)) return;
    const { device } = point;
    const isElsewhere = [...this.#points.values()].some(
      (each) => each.device === device && each.stations.has(mac),
    );
    if (!isElsewhere) this.#options.tell({ device, mac, isThere: false });
  }
}

/** The interface of an access point's object. */
function nameOf(path: unknown): string | undefined {
  return typeof path === "string" ? /^hostapd\.([A-Za-z0-9_.@-]{1,15})$/.exec(path)?.[1] : undefined;
}

/** Those whom an access point lets through; what is malformed is left out. */
function stationsIn({ clients }: JsonObject): Mac[] {
  const all = isObject(clients) ? Object.entries(clients) : [];
  return all.slice(0, maxStations).flatMap(([address, state]) => {
    const isThere = isObject(state) && (state.authorized === true || state.authorized === 1);
    return (isThere && parseMac(address)) || [];
  });
}
