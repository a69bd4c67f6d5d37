/**
 * What isolation promises, written down once more and as plainly as can be: who was given what of whom. Held against
 * packets and names of a town (test/lab/services.ts) after any sequence of commands.
 *
 * Kept: by ordered pair which ports the first may begin to use of the second ("*": all); who is privileged. The
 * network is asked, never the agent, but for stand-ins; those of the past are tried too.
 */

import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { services, type Town } from "../lab/services.ts";

export type Direction = "both" | "out" | "in";

const names = services.map(({ name }) => name);
/** What is tried of each stand-in: how, and what it is called in a permission. */
const ways = [
  { kind: "tcp", port: 80, word: "tcp/80" },
  { kind: "tcp", port: 443, word: "tcp/443" },
  { kind: "udp", port: 80, word: "udp/80" },
  { kind: "icmp", port: 0, word: "icmp" },
] as const;
/** What datagrams begin with that nobody may ever hear. */
const barred = "barred";
/** Tries at a time: each ping is a process. */
const crowd = 160;

interface Attempt {
  readonly from: string;
  readonly to: string;
  readonly way: (typeof ways)[number];
  readonly should: boolean;
  readonly what: string;
}

export class Model {
  readonly #town: Town;
  /** Ordered pair → what the first may begin. */
  readonly #given = new Map<string, Set<string>>();
  readonly #privileged = new Set<string>();
  readonly #real = new Map<string, readonly [string, string]>();
  /** Name → the stand-ins it ever had. */
  readonly standIns = new Map<string, Set<string>>();

  constructor(town: Town) {
    this.#town = town;
  }

  connect(
    one: string,
    other: string,
    { ports, direction = "both" }: { ports?: readonly string[] | undefined; direction?: Direction },
  ): void {
    const words = ports ?? ["*"];
    const give = (from: string, to: string) => {
      const key = `${from} ${to}`;
      this.#given.set(key, new Set([...(this.#given.get(key) ?? []), ...words]));
    };
    if (direction !== "in") give(one, other);
    if (direction !== "out") give(other, one);
  }

  disconnect(name: string, peer?: string): void {
    for (const key of [...this.#given.keys()]) {
      const ends = key.split(" ");
      if (ends.includes(name) && (peer === undefined || ends.includes(peer))) this.#given.delete(key);
    }
    if (peer === undefined) this.#privileged.delete(name);
  }

  privilege(name: string, isOn: boolean): void {
    if (isOn) this.#privileged.add(name);
    else this.#privileged.delete(name);
  }

  /** What one may begin with another; none: it does not even know the name. */
  #words(from: string, to: string): ReadonlySet<string> {
    return this.#privileged.has(from) ? new Set(["*"]) : (this.#given.get(`${from} ${to}`) ?? new Set());
  }

  /** Everybody has been found where it is. */
  async settle(): Promise<void> {
    const town = this.#town;
    for (const name of names) {
      this.#real.set(name, [await town.address(name, 4), await town.address(name, 6)]);
    }
    const missing = async () => {
      const all = await Promise.all(names.map((name) => town.known(name)));
      for (const [at, { standins }] of all.entries()) {
        const own = this.standIns.get(names[at]!) ?? new Set();
        for (const each of standins ?? []) own.add(each);
        this.standIns.set(names[at]!, own);
      }
      return names.filter(
        (name, at) => !this.#real.get(name)!.every((each) => all[at]!.addresses.includes(each)),
      );
    };
    await eventually("everybody followed", async () => (await missing()).length === 0);
  }

  /**
   * Tries everything that could pass: stand-ins, those of the past, and real addresses.
   *
   * @param standInOf the stand-ins in force
   */
  async packets(what: string, standInOf: ReadonlyMap<string, readonly string[]>): Promise<void> {
    const attempts: Attempt[] = [];
    for (const from of names) {
      for (const name of names) {
        if (from === name) continue;
        const words = this.#words(from, name);
        const now = new Set(standInOf.get(name) ?? []);
        const all = [...(this.standIns.get(name) ?? []), ...this.#real.get(name)!];
        for (const to of new Set([...now, ...all])) {
          for (const way of ways) {
            const should = now.has(to) && (words.has("*") || words.has(way.word));
            attempts.push({ from, to, way, should, what: `${from} ${name} ${way.word} ${to}` });
          }
        }
      }
    }
    const wrong: string[] = [];
    const attempt = async ({ from, to, way: { kind, port }, should, what: words }: Attempt) => {
      const word = should || kind !== "udp" ? "x" : barred;
      const passes = () => this.#town.passes(from, { kind, to, port, word, sizeBytes: word.length });
      // On a busy machine an answer may take longer than silence is waited for.
      if (should) await eventually(words, passes).catch(() => wrong.push(`${words} does not pass`));
      else if (await passes()) wrong.push(`${words} passes`);
    };
    for (let at = 0; at < attempts.length; at += crowd)
      await Promise.all(attempts.slice(at, at + crowd).map(attempt));
    // However late it comes: silence alone says little on a slow machine.
    for (const name of names) {
      const { bytes: count } = await this.#town.try(name, { kind: "heard", to: barred });
      if (count !== 0) wrong.push(`${name} has heard ${count} of whom it should not`);
    }
    assert.equal(wrong, [], what);
  }

  /** Asks for everybody by everybody, and for who a stand-in is. */
  async names(what: string, standInOf: ReadonlyMap<string, readonly string[]>): Promise<void> {
    const town = this.#town;
    const wrong: string[] = [];
    const ask = async (from: string, name: string, at: number) => {
      const over = at % 2 === 0 ? "udp" : "tcp";
      const isKnown = this.#words(from, name).size > 0;
      for (const [index, type] of ["A", "AAAA"].entries()) {
        const said = String(
          await town.resolve(from, at % 3 === 0 ? `${name.toUpperCase()}.lan.` : `${name}.`, { type, over }),
        );
        const wanted = isKnown ? standInOf.get(name)![index]! : "NXDOMAIN";
        if (said !== wanted)
          wrong.push(`${from} asks for ${name} ${type} over ${over}: ${said}, not ${wanted}`);
      }
      const [standIn] = standInOf.get(name) ?? [];
      if (standIn === undefined) return;
      const reverse = `${standIn.split(".").reverse().join(".")}.in-addr.arpa.`;
      const isSeen = isKnown || this.#words(name, from).size > 0;
      const said = String(await town.resolve(from, reverse, { type: "PTR", over }));
      if (said !== (isSeen ? `${name}.` : "NXDOMAIN")) wrong.push(`${from} asks who ${standIn} is: ${said}`);
    };
    const pairs = names.flatMap((from) =>
      names.flatMap((name) => (from === name ? [] : [[from, name] as const])),
    );
    await Promise.all(pairs.map(([from, name], at) => ask(from, name, at)));
    assert.equal(wrong, [], what);
  }

  /** Stand-ins in force, as the agent says. */
  async now(): Promise<ReadonlyMap<string, readonly string[]>> {
    await this.settle();
    const all = await Promise.all(
      names.map(async (name) => [name, (await this.#town.known(name)).standins ?? []] as const),
    );
    return new Map(all);
  }

  async check(what: string): Promise<void> {
    const standIns = await this.now();
    await this.names(what, standIns);
    await this.packets(what, standIns);
  }
}

export { names };
