/**
 * What the bus does with each message: the rules of ubusd, without sockets and queues.
 *
 * Every request ends in a status, which the bus sends back, or in silence: calls and answers between clients are
 * only passed on, and the bus remembers nothing of a call in flight. Where a client breaks a limit that ubusd
 * does not have, the status is NoMemory. Answers that nobody is entitled to or waits for are dropped and counted.
 *
 * The bus itself answers as object 1 (events), 2 (access rules) and 3 (monitor). File descriptors are not passed
 * on: a call that carries one arrives without it.
 */

import type { Acl } from "./acl.ts";
import { Builtin, isSystem } from "./builtin.ts";
import {
  composeMessage,
  encodeContent,
  encodeName,
  encodeU8,
  encodeU32,
  forwardAnswer,
  forwardInvoke,
  joined,
} from "./compose.ts";
import type { Connection } from "./connection.ts";
import type { Frame } from "./frame.ts";
import { Attribute, MessageType } from "./message.ts";
import type { Monitors } from "./monitor.ts";
import type { BusObject, Objects, ObjectType } from "./objects.ts";
import { SystemObject } from "./requests.ts";
import { Status } from "./status.ts";

/** Bounds on what one client can have the bus keep or do. */
export interface RouterLimits {
  /** The longest blob, its header included. */
  readonly messageBytes: number;
  /** The longest path or pattern. */
  readonly nameBytes: number;
  readonly objects: number;
  readonly objectsPerClient: number;
  readonly subscriptionsPerClient: number;
  readonly subscribersPerObject: number;
  readonly patternsPerClient: number;
  /** Paths, signatures and patterns of one client. */
  readonly keptBytesPerClient: number;
}

export interface RouterOptions {
  readonly acl: Acl;
  readonly objects: Objects<Connection>;
  readonly monitors: Monitors;
  /** By the id they were told. */
  readonly clients: ReadonlyMap<number, Connection>;
  readonly limits: RouterLimits;
  send(to: Connection, bytes: Uint8Array): void;
  drop(reason: "foreign answer" | "answer to nobody"): void;
}

type Client = Connection;
type Item = BusObject<Client>;

export class Router {
  readonly #options: RouterOptions;
  readonly #builtin: Builtin;

  constructor(options: RouterOptions) {
    this.#options = options;
    this.#builtin = new Builtin(options);
  }

  /** Does what a message asks. @returns the status to answer with, or undefined to stay silent. */
  handle(client: Client, frame: Frame): number | undefined {
    switch (frame.type) {
      case MessageType.Invoke:
        return this.#invoke(client, frame);
      case MessageType.Data:
      case MessageType.Status:
        return this.#answer(client, frame);
      case MessageType.Notify:
        return this.#notify(client, frame);
      case MessageType.Ping:
        this.#options.send(client, forwardAnswer(frame, MessageType.Data, frame.peer));
        return Status.Ok;
      case MessageType.Lookup:
        return this.#lookup(client, frame);
      case MessageType.AddObject:
        return this.#addObject(client, frame);
      case MessageType.RemoveObject:
        return this.#removeObject(client, frame);
      case MessageType.Subscribe:
        return this.#subscribe(client, frame);
      case MessageType.Unsubscribe:
        return this.#unsubscribe(client, frame);
      default:
        return Status.InvalidCommand;
    }
  }

  /** Somebody else's full queue that a message would go to. Who may not send it gets its answer at once. */
  fullReceiverOf(client: Client, frame: Frame): Client | undefined {
    const { objects } = this.#options;
    if (frame.type !== MessageType.Invoke && frame.type !== MessageType.Notify) return undefined;
    const id = frame.u32(Attribute.ObjectId);
    if (id === undefined) return undefined;
    const object = objects.get(id);
    if (frame.type === MessageType.Invoke) {
      if (object) {
        return object.owner.full && this.#mayCall(client, frame, object) ? object.owner : undefined;
      }
      if (id !== SystemObject.Event) return undefined;
      return fullOwner(this.#builtin.listenersTo(client, frame), client);
    }
    if (object?.owner !== client) return undefined;
    return fullOwner(
      object.subscribers.map((each) => each.subscriber),
      client,
    );
  }

  /** Goes on with a lookup until it is done or the client has enough to read. */
  continueLookup(client: Client): void {
    const { lookup } = client;
    if (!lookup) return;
    const { objects, send } = this.#options;
    // The least string above the path told last: objects may have come and gone meanwhile.
    let index = objects.indexFrom(lookup.told === undefined ? lookup.prefix : `${lookup.told}\0`);
    for (;;) {
      const object = objects.nth(index++);
      if (!object?.path?.startsWith(lookup.prefix)) break;
      if (client.full) return;
      this.#describe(client, lookup, object);
      lookup.told = object.path;
    }
    client.lookup = undefined;
    send(client, statusMessage(lookup, Status.Ok));
  }

  /** Takes everything of a client that is gone off the bus. */
  leave(client: Client): void {
    for (const object of [...client.objects].reverse()) this.#remove(object);
  }

  /** Tells listeners that the access rules have been read (again). */
  announceAcl(): void {
    this.#builtin.announceAcl();
  }

  #invoke(client: Client, frame: Frame): number | undefined {
    const { objects, send } = this.#options;
    const id = frame.u32(Attribute.ObjectId);
    if (id === undefined || !frame.hasName(Attribute.Method)) return Status.InvalidArgument;
    const object = objects.get(id);
    if (!object) return this.#builtin.invoke(client, frame, id);
    if (!this.#mayCall(client, frame, object)) return Status.PermissionDenied;
    if (this.#tooLong(client, frame)) return Status.NoMemory;
    send(
      object.owner,
      forwardInvoke(frame, { seq: frame.seq, peer: client.id, objectId: id, caller: client.caller }),
    );
    return undefined;
  }

  #answer(client: Client, frame: Frame): undefined {
    const { clients, drop, objects, send } = this.#options;
    const id = frame.u32(Attribute.ObjectId);
    const complete =
      frame.type === MessageType.Data ? frame.has(Attribute.Data) : frame.u32(Attribute.Status) !== undefined;
    if (id === undefined || !complete || objects.get(id)?.owner !== client) {
      drop("foreign answer");
      return;
    }
    const caller = clients.get(frame.peer);
    // Answers to events go to peer 0.
    if (caller) send(caller, forwardAnswer(frame, frame.type, id));
    else if (frame.peer !== 0) drop("answer to nobody");
  }

  #notify(client: Client, frame: Frame): number | undefined {
    const { objects, send } = this.#options;
    const id = frame.u32(Attribute.ObjectId);
    if (id === undefined || !frame.hasName(Attribute.Method)) return Status.InvalidArgument;
    const object = objects.get(id);
    if (object?.owner !== client) return object || isSystem(id) ? Status.PermissionDenied : Status.NotFound;
    if (this.#tooLong(client, frame)) return Status.NoMemory;
    const noReply = frame.flag(Attribute.NoReply);
    const { seq } = frame;
    if (!noReply) {
      const ids = new Uint8Array(object.subscribers.length * 8);
      object.subscribers.forEach(({ subscriber }, index) => {
        ids.set(encodeU32(0, subscriber.id), index * 8);
      });
      send(
        client,
        composeMessage({ type: MessageType.Status, seq, peer: frame.peer }, [
          encodeU32(Attribute.ObjectId, id),
          encodeContent(Attribute.Subscribers, ids),
          encodeU32(Attribute.Status, Status.Ok),
        ]),
      );
    }
    for (const { subscriber } of object.subscribers) {
      const to = { seq, peer: client.id, objectId: subscriber.id, noReply, caller: client.caller };
      send(subscriber.owner, forwardInvoke(frame, to));
    }
    return undefined;
  }

  #lookup(client: Client, frame: Frame): number | undefined {
    const { objects } = this.#options;
    const path = frame.name(Attribute.Path);
    if (path === "") return Status.InvalidArgument;
    if (path !== undefined && !path.endsWith("*")) {
      const object = objects.at(path);
      if (!object) return Status.NotFound;
      this.#describe(client, frame, object);
      return Status.Ok;
    }
    const prefix = path?.slice(0, -1) ?? "";
    if (path !== undefined && objects.nth(objects.indexFrom(prefix))?.path?.startsWith(prefix) !== true) {
      return Status.NotFound;
    }
    client.lookup = { seq: frame.seq, peer: frame.peer, prefix, told: undefined };
    this.continueLookup(client);
    return undefined;
  }

  /** Tells a client of an object, as far as it may call it. */
  #describe(client: Client, { seq, peer }: { seq: number; peer: number }, object: Item): void {
    const { acl, send } = this.#options;
    const { id, path, type } = object;
    if (!type || path === undefined) return;
    const all = client.uid === 0;
    const mayCall = acl.callsOf(client, path);
    const methods = all ? [] : type.methods.filter((method) => mayCall(method.name));
    if (!all && methods.length === 0 && type.methods.length > 0) return;
    const signature = all ? type.signature : joined(methods.map((method) => method.bytes));
    send(
      client,
      composeMessage({ type: MessageType.Data, seq, peer }, [
        encodeName(Attribute.Path, path),
        encodeU32(Attribute.ObjectId, id),
        encodeU32(Attribute.ObjectType, type.id),
        encodeContent(Attribute.Signature, signature),
      ]),
    );
  }

  #addObject(client: Client, frame: Frame): number {
    const { acl, limits, objects, send } = this.#options;
    const path = frame.name(Attribute.Path);
    const size = frame.end - frame.start;
    if (
      objects.size >= limits.objects ||
      client.objects.size >= limits.objectsPerClient ||
      client.keptBytes + size > limits.keptBytesPerClient ||
      (path?.length ?? 0) > limits.nameBytes
    ) {
      return Status.NoMemory;
    }
    const type = this.#typeFor(frame);
    const object = objects.create(client, path, type);
    const permitted = path === undefined || acl.allows(client, "publish", path);
    if (!permitted || !objects.add(object)) {
      objects.releaseType(type);
      return Status.InvalidArgument;
    }
    client.objects.add(object);
    client.keptBytes += keptBytesOf(object);
    this.#builtin.announceObject("add", object);
    const attributes = [encodeU32(Attribute.ObjectId, object.id)];
    if (type && frame.has(Attribute.Signature)) attributes.push(encodeU32(Attribute.ObjectType, type.id));
    const { seq, peer } = frame;
    send(client, composeMessage({ type: MessageType.Data, seq, peer }, attributes));
    return Status.Ok;
  }

  /** The type that a new object asks for; an unknown or a bad one leaves it without, as ubusd does. */
  #typeFor(frame: Frame): ObjectType | undefined {
    const { objects } = this.#options;
    const id = frame.u32(Attribute.ObjectType);
    if (id !== undefined) return objects.typeOf(id);
    if (!frame.has(Attribute.Signature)) return undefined;
    return objects.addType(frame.bytes, frame.startOf(Attribute.Signature), frame.endOf(Attribute.Signature));
  }

  #removeObject(client: Client, frame: Frame): number {
    const { objects, send } = this.#options;
    const id = frame.u32(Attribute.ObjectId);
    if (id === undefined) return Status.InvalidArgument;
    const object = objects.get(id);
    if (object?.owner !== client) return object || isSystem(id) ? Status.PermissionDenied : Status.NotFound;
    const attributes = [encodeU32(Attribute.ObjectId, id)];
    if (object.type?.uses === 1) attributes.push(encodeU32(Attribute.ObjectType, object.type.id));
    const { seq, peer } = frame;
    send(client, composeMessage({ type: MessageType.Data, seq, peer }, attributes));
    this.#remove(object);
    return Status.Ok;
  }

  #remove(object: Item): void {
    const { objects, send } = this.#options;
    const { owner } = object;
    for (const subscription of [...object.targets]) this.#end(subscription);
    for (const subscription of [...object.subscribers]) {
      const { subscriber } = subscription;
      send(
        subscriber.owner,
        composeMessage({ type: MessageType.Unsubscribe, seq: ++subscriber.seq, peer: 0 }, [
          encodeU32(Attribute.ObjectId, subscriber.id),
          encodeU32(Attribute.Target, object.id),
        ]),
      );
      this.#end(subscription);
    }
    owner.patterns -= object.patterns.length;
    owner.keptBytes -= keptBytesOf(object);
    objects.unlisten(object);
    this.#builtin.announceObject("remove", object);
    objects.remove(object);
    owner.objects.delete(object);
  }

  #subscribe(client: Client, frame: Frame): number {
    const { acl, limits, objects } = this.#options;
    const id = frame.u32(Attribute.ObjectId);
    const targetId = frame.u32(Attribute.Target);
    if (id === undefined || targetId === undefined) return Status.InvalidArgument;
    const object = objects.get(id);
    if (object?.owner !== client) return object || isSystem(id) ? Status.InvalidArgument : Status.NotFound;
    const target = objects.get(targetId);
    if (!target) return Status.NotFound;
    if (target.owner === client) return Status.InvalidArgument;
    // Nameless objects are for people of the same user or group.
    const permitted =
      target.path === undefined
        ? target.owner.user === client.user || target.owner.group === client.group
        : acl.allows(client, "subscribe", target.path);
    if (!permitted) return Status.NotFound;
    if (
      client.subscriptions >= limits.subscriptionsPerClient ||
      target.subscribers.length >= limits.subscribersPerObject
    ) {
      return Status.NoMemory;
    }
    client.subscriptions++;
    objects.subscribe(object, target);
    if (target.subscribers.length === 1) this.#tellActive(target);
    return Status.Ok;
  }

  #unsubscribe(client: Client, frame: Frame): number {
    const { objects } = this.#options;
    const id = frame.u32(Attribute.ObjectId);
    const targetId = frame.u32(Attribute.Target);
    if (id === undefined || targetId === undefined) return Status.InvalidArgument;
    const object = objects.get(id);
    if (object?.owner !== client) return object || isSystem(id) ? Status.InvalidArgument : Status.NotFound;
    const subscription = object.targets.find((each) => each.target.id === targetId);
    if (!subscription) return Status.NotFound;
    this.#end(subscription);
    return Status.Ok;
  }

  #end(subscription: Item["targets"][number]): void {
    const { subscriber, target } = subscription;
    this.#options.objects.unsubscribe(subscription);
    subscriber.owner.subscriptions--;
    if (target.subscribers.length === 0) this.#tellActive(target);
  }

  /** Tells the owner of an object whether anybody is subscribed to it. */
  #tellActive(object: Item): void {
    this.#options.send(
      object.owner,
      composeMessage({ type: MessageType.Notify, seq: ++object.seq, peer: 0 }, [
        encodeU32(Attribute.ObjectId, object.id),
        encodeU8(Attribute.Active, object.subscribers.length > 0 ? 1 : 0),
      ]),
    );
  }

  #mayCall(client: Client, frame: Frame, { path }: Item): boolean {
    if (client.uid === 0 || path === undefined) return true;
    return this.#options.acl.callsOf(client, path)(frame.name(Attribute.Method) ?? "");
  }

  /** Whether a message would pass the limit with what the bus adds, and throw a receiver out of step. */
  #tooLong(client: Client, frame: Frame): boolean {
    return frame.end - frame.start + client.caller.length > this.#options.limits.messageBytes;
  }
}

/** The answer that ends a request. */
export function statusMessage({ seq, peer }: { seq: number; peer: number }, status: number): Uint8Array {
  return composeMessage({ type: MessageType.Status, seq, peer }, [encodeU32(Attribute.Status, status)]);
}

function fullOwner(objects: Iterable<Item>, except: Client): Client | undefined {
  for (const { owner } of objects) if (owner !== except && owner.full) return owner;
  return undefined;
}

function keptBytesOf(object: Item): number {
  return (object.path?.length ?? 0) + (object.type?.signature.length ?? 0) + 128;
}
