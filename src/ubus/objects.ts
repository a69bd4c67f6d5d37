/**
 * What is published on the bus: objects, their types, who subscribed to whom, who listens to which events.
 *
 * Objects are kept by id and by path, types by id for as long as an object uses them, event patterns by the text
 * before their star. All of it goes with the object, and objects go with their connection. This module only
 * keeps the relations; the bus tells the people concerned.
 *
 * Paths, methods and patterns have one character per byte. `Owner` is whoever holds a connection.
 */

import { encodeNamed, joined } from "./compose.ts";
import { attributesOf, namedSpan } from "./frame.ts";
import { PrefixMap } from "./prefix.ts";

/** Ids below belong to the bus itself. */
export const firstFreeId = 1024;

export interface ObjectMethod {
  readonly name: string;
  /** Its entry in a SIGNATURE, padded. */
  readonly bytes: Uint8Array;
}

/** Methods that one or more objects have. */
export interface ObjectType {
  readonly id: number;
  readonly methods: readonly ObjectMethod[];
  /** All entries one after the other. */
  readonly signature: Uint8Array;
  /** How many objects use it. */
  uses: number;
}

export interface BusObject<Owner> {
  readonly id: number;
  readonly owner: Owner;
  /** Undefined for a nameless object, which can only be spoken to by who knows its id. */
  readonly path: string | undefined;
  /** Undefined for an object that was published without a signature. */
  readonly type: ObjectType | undefined;
  /** Counts what the bus told this object of subscriptions. */
  seq: number;
  /** Newest first, like `targets`. */
  readonly subscribers: Subscription<Owner>[];
  readonly targets: Subscription<Owner>[];
  readonly patterns: Pattern<Owner>[];
}

export interface Subscription<Owner> {
  readonly subscriber: BusObject<Owner>;
  readonly target: BusObject<Owner>;
}

export interface Pattern<Owner> {
  readonly object: BusObject<Owner>;
  /** Without its star. */
  readonly key: string;
  /** Whether there was a star. */
  readonly partial: boolean;
}

export class Objects<Owner> {
  readonly #newId: () => number;
  readonly #byId = new Map<number, BusObject<Owner>>();
  /** Those with a path, ascending. */
  readonly #byPath: BusObject<Owner>[] = [];
  readonly #types = new Map<number, ObjectType>();
  readonly #patterns = new PrefixMap<Pattern<Owner>>();

  /** @param newId a random 32-bit number. */
  constructor(newId: () => number) {
    this.#newId = newId;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** An id that is free in a table of things by id. */
  freeId(taken: { has(id: number): boolean }): number {
    for (;;) {
      const id = this.#newId() >>> 0;
      if (id >= firstFreeId && !taken.has(id)) return id;
    }
  }

  get(id: number): BusObject<Owner> | undefined {
    return this.#byId.get(id);
  }

  typeOf(id: number): ObjectType | undefined {
    return this.#types.get(id);
  }

  /** A new type out of the content of a SIGNATURE; undefined if an entry of it makes no sense. */
  addType(bytes: Uint8Array, start: number, end: number): ObjectType | undefined {
    const id = this.freeId(this.#types);
    const methods: ObjectMethod[] = [];
    for (const span of attributesOf(bytes, start, end)) {
      const method = namedSpan(bytes, span);
      if (!span.extended || !method || (bytes[span.start]! | bytes[span.start + 1]!) === 0) return undefined;
      const value = bytes.subarray(method.start, method.end);
      methods.push({ name: method.name, bytes: encodeNamed(method.type, method.name, value) });
    }
    const type = { id, methods, signature: joined(methods.map((method) => method.bytes)), uses: 0 };
    this.#types.set(id, type);
    return type;
  }

  /** Forgets a type that no object uses. */
  releaseType(type: ObjectType | undefined): void {
    if (type?.uses === 0) this.#types.delete(type.id);
  }

  /** An object that is not on the bus yet. */
  create(owner: Owner, path: string | undefined, type: ObjectType | undefined): BusObject<Owner> {
    const id = this.freeId(this.#byId);
    return { id, owner, path, type, seq: 0, subscribers: [], targets: [], patterns: [] };
  }

  /** Puts an object on the bus. @returns false if its path is taken. */
  add(object: BusObject<Owner>): boolean {
    if (object.path !== undefined) {
      const at = this.indexFrom(object.path);
      if (this.#byPath[at]?.path === object.path) return false;
      this.#byPath.splice(at, 0, object);
    }
    this.#byId.set(object.id, object);
    if (object.type) object.type.uses++;
    return true;
  }

  /** Takes an object off the bus. Its subscriptions, both ways, have been ended before. */
  remove(object: BusObject<Owner>): void {
    if (object.path !== undefined) this.#byPath.splice(this.indexFrom(object.path), 1);
    this.#byId.delete(object.id);
    if (object.type) object.type.uses--;
    this.releaseType(object.type);
  }

  /** The object at a path. */
  at(path: string): BusObject<Owner> | undefined {
    const object = this.#byPath[this.indexFrom(path)];
    return object?.path === path ? object : undefined;
  }

  /** Where, in the order of paths, the first one lies that is not below the given one. */
  indexFrom(path: string): number {
    let low = 0;
    let high = this.#byPath.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#byPath[middle]!.path! < path) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The object at a place in the order of paths. */
  nth(index: number): BusObject<Owner> | undefined {
    return this.#byPath[index];
  }

  subscribe(subscriber: BusObject<Owner>, target: BusObject<Owner>): void {
    const subscription = { subscriber, target };
    target.subscribers.unshift(subscription);
    subscriber.targets.unshift(subscription);
  }

  unsubscribe(subscription: Subscription<Owner>): void {
    remove(subscription.target.subscribers, subscription);
    remove(subscription.subscriber.targets, subscription);
  }

  /** Has an object called for events; a star at the end of the pattern stands for whatever follows. */
  listen(object: BusObject<Owner>, pattern: string): void {
    const partial = pattern.endsWith("*");
    const entry = { object, key: partial ? pattern.slice(0, -1) : pattern, partial };
    object.patterns.push(entry);
    this.#patterns.add(entry.key, entry);
  }

  /** Ends all listening of an object. */
  unlisten(object: BusObject<Owner>): void {
    for (const pattern of object.patterns.splice(0)) this.#patterns.remove(pattern.key, pattern);
  }

  /** The objects that listen to an event, each once. */
  listenersTo(event: string): Set<BusObject<Owner>> {
    return new Set(this.#patterns.matching(event).map((pattern) => pattern.object));
  }
}

function remove<Item>(items: Item[], item: Item): void {
  const at = items.indexOf(item);
  if (at >= 0) items.splice(at, 1);
}
