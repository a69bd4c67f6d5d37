/** A bus that the test plays: what objects answer, what they notify, and what the bus tells of objects. */

import { Fault } from "../../src/lib/fault.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import type { Ubus } from "../../src/ubus/ubus.ts";

type Handler = (what: string, data: JsonObject) => void;

/** Lets everything happen that is under way. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
}

export class FakeBus {
  /** "OBJECT METHOD" → the answer; what is not there is not found. */
  readonly answers = new Map<string, JsonObject | (() => Promise<JsonObject>)>();
  readonly calls: string[] = [];
  /** What was told to subscribers of objects of ours. */
  readonly told: string[] = [];
  readonly #listeners = new Map<Handler, string>();
  readonly #subscribers = new Map<Handler, string>();

  /** As what takes a bus sees it. */
  get ubus(): Ubus {
    return this as unknown as Ubus;
  }

  get followed(): string[] {
    return [...this.#listeners.values(), ...this.#subscribers.values()].sort();
  }

  // What the test does.

  event(name: string, data: JsonObject = {}): Promise<void> {
    for (const [handler, pattern] of this.#listeners) if (pattern === name) handler(name, data);
    return settle();
  }

  async say(object: string, type: string, data: JsonObject = {}): Promise<void> {
    for (const [handler, path] of this.#subscribers) if (path === object) handler(type, data);
    await settle();
  }

  // What a client does.

  listen(pattern: string, handler: Handler) {
    this.#listeners.set(handler, pattern);
    return { done: Promise.resolve(), cancel: () => void this.#listeners.delete(handler) };
  }

  subscribe(object: string, handler: Handler) {
    this.#subscribers.set(handler, object);
    return { done: Promise.resolve(), cancel: () => void this.#subscribers.delete(handler) };
  }

  async call(object: string, method: string): Promise<JsonObject> {
    const what = `${object} ${method}`;
    this.calls.push(what);
    await undefined;
    const answer = this.answers.get(what);
    if (answer === undefined) throw new Fault("not-found", `Cannot call ${what}: Not found`);
    return typeof answer === "function" ? answer() : answer;
  }

  async lookup(pattern: string) {
    const start = pattern.replace(/\*$/, "");
    const paths = new Set([...this.answers.keys()].map((what) => what.split(" ")[0]!));
    const found = [...paths].filter((path) => path.startsWith(start));
    if (found.length === 0) throw new Fault("not-found", `Cannot look up ${pattern}: Not found`);
    return found.map((path) => ({ path, id: 1, methods: {} }));
  }

  hasSubscribers(): boolean {
    return true;
  }

  async notify(_: string, type: string, data: JsonObject): Promise<void> {
    this.told.push(`${type} ${Object.values(data).join(" ")}`);
  }
}
