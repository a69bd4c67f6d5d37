/**
 * The bus's own objects: 1 passes events on, 2 tells servers what access rules say of their objects, 3 lets root
 * watch every message.
 */

import type { Acl, Grant } from "./acl.ts";
import { BlobType } from "./blob.ts";
import {
  bytesOfU32,
  composeMessage,
  encodeContent,
  encodeName,
  encodeNamed,
  encodeU32,
  joined,
} from "./compose.ts";
import type { Connection } from "./connection.ts";
import {
  attributesOf,
  bytesOfName,
  type Frame,
  type NamedSpan,
  namedSpan,
  readName,
  readU32,
} from "./frame.ts";
import { Attribute, MessageType } from "./message.ts";
import type { Monitors } from "./monitor.ts";
import { type BusObject, firstFreeId, type Objects } from "./objects.ts";
import { SystemObject } from "./requests.ts";
import { Status } from "./status.ts";

/** Whether an id is one of the bus's own objects. */
export function isSystem(id: number): boolean {
  return id >= SystemObject.Event && id <= SystemObject.Monitor;
}

export interface BuiltinOptions {
  readonly acl: Acl;
  readonly objects: Objects<Connection>;
  readonly monitors: Monitors;
  readonly limits: {
    readonly messageBytes: number;
    readonly nameBytes: number;
    readonly patternsPerClient: number;
  };
  send(to: Connection, bytes: Uint8Array): void;
}

export class Builtin {
  readonly #options: BuiltinOptions;
  #eventSeq = 0;
  #aclSequence = 0;

  constructor(options: BuiltinOptions) {
    this.#options = options;
  }

  /** A call of one of these objects. @returns the status to answer with. */
  invoke(client: Connection, frame: Frame, id: number): number {
    const method = frame.name(Attribute.Method)!;
    switch (id) {
      case SystemObject.Event:
        if (method === "register") return this.#register(client, frame);
        return method === "send" ? this.#sendFor(client, frame) : Status.InvalidCommand;
      case SystemObject.Acl:
        return method === "query" ? this.#queryAcl(client, frame) : Status.InvalidCommand;
      case SystemObject.Monitor:
        if (client.uid !== 0 || client.gid !== 0) return Status.PermissionDenied;
        if (method !== "add" && method !== "remove") return Status.MethodNotFound;
        if (method === "add") this.#options.monitors.add(client);
        else this.#options.monitors.remove(client);
        return Status.Ok;
      default:
        return Status.NotFound;
    }
  }

  /** Tells listeners that the access rules have been read (again). */
  announceAcl(): void {
    const fields = encodeNamed(BlobType.Int32, "sequence", bytesOfU32(++this.#aclSequence));
    this.#sendEvent("ubus.acl.sequence", fields);
  }

  /** Tells listeners that an object came or goes. */
  announceObject(kind: "add" | "remove", { id, path }: BusObject<Connection>): void {
    if (path === undefined) return;
    const fields = [
      encodeNamed(BlobType.Int32, "id", bytesOfU32(id)),
      encodeNamed(BlobType.String, "path", bytesOfName(`${path}\0`)),
    ];
    this.#sendEvent(`ubus.object.${kind}`, joined(fields));
  }

  /** The objects that an event which a call sends would go to; none if it may not be sent. */
  listenersTo(client: Connection, frame: Frame): Iterable<BusObject<Connection>> {
    const event = frame.name(Attribute.Method) === "send" ? textIn(frame, "id") : undefined;
    return event !== undefined && this.#maySend(client, event)
      ? this.#options.objects.listenersTo(event)
      : [];
  }

  #register(client: Connection, frame: Frame): number {
    const { acl, limits, objects } = this.#options;
    const field = fieldIn(frame, "object", BlobType.Int32);
    const pattern = textIn(frame, "pattern");
    if (!field || pattern === undefined) return Status.InvalidArgument;
    const id = readU32(frame.bytes, field.start);
    if (id < firstFreeId) return Status.PermissionDenied;
    const object = objects.get(id);
    if (!object) return Status.NotFound;
    if (object.owner !== client || pattern === "") return Status.PermissionDenied;
    const name = pattern.endsWith("*") ? pattern.slice(0, -1) : pattern;
    if (!acl.allows(client, "listen", name)) return Status.PermissionDenied;
    if (client.patterns >= limits.patternsPerClient || pattern.length > limits.nameBytes) {
      return Status.NoMemory;
    }
    client.patterns++;
    objects.listen(object, pattern);
    return Status.Ok;
  }

  #sendFor(client: Connection, frame: Frame): number {
    const event = textIn(frame, "id");
    const table = fieldIn(frame, "data", BlobType.Table);
    if (event === undefined || !table) return Status.InvalidArgument;
    if (!this.#maySend(client, event)) return Status.PermissionDenied;
    this.#sendEvent(event, frame.bytes.subarray(table.start, table.end), client);
    return Status.Ok;
  }

  #maySend(client: Connection, event: string): boolean {
    return !event.startsWith("ubus.") && this.#options.acl.allows(client, "send", event);
  }

  #sendEvent(event: string, fields: Uint8Array, sender?: Connection): void {
    const { objects, send } = this.#options;
    for (const object of objects.listenersTo(event)) {
      if (object.owner === sender) continue;
      this.#eventSeq = (this.#eventSeq + 1) & 0xffff;
      send(
        object.owner,
        composeMessage({ type: MessageType.Invoke, seq: this.#eventSeq, peer: 0 }, [
          encodeU32(Attribute.ObjectId, object.id),
          encodeName(Attribute.Method, event),
          encodeContent(Attribute.Data, fields),
        ]),
      );
    }
  }

  #queryAcl(client: Connection, frame: Frame): number {
    const { acl, limits, send } = this.#options;
    const entries = [...client.objects].reverse().flatMap(({ path }) => {
      if (path === undefined) return [];
      return acl.grantsFor(path).map((grant) => encodeGrant(path, grant));
    });
    const data = joined([
      encodeNamed(BlobType.Int32, "seq", bytesOfU32(this.#aclSequence)),
      encodeNamed(BlobType.Array, "acl", joined(entries)),
    ]);
    if (data.length > limits.messageBytes - 64) return Status.NoMemory;
    const { seq, peer } = frame;
    send(
      client,
      composeMessage({ type: MessageType.Data, seq, peer }, [
        encodeU32(Attribute.ObjectId, SystemObject.Acl),
        encodeContent(Attribute.Data, data),
      ]),
    );
    return Status.Ok;
  }
}

/** The first argument of that name and type; a bad one before it hides it, as libubox reads them. */
function fieldIn(frame: Frame, name: string, type: number): NamedSpan | undefined {
  if (!frame.has(Attribute.Data)) return undefined;
  for (const span of attributesOf(frame.bytes, frame.startOf(Attribute.Data), frame.endOf(Attribute.Data))) {
    const field = namedSpan(frame.bytes, span);
    if (!field) return undefined;
    if (span.extended && field.type === type && field.name === name) return field;
  }
  return undefined;
}

function textIn(frame: Frame, name: string): string | undefined {
  const field = fieldIn(frame, name, BlobType.String);
  return field && readName(frame.bytes, field.start, field.end);
}

function encodeGrant(path: string, { user, group, table }: Grant): Uint8Array {
  const text = (name: string, value: string | undefined) => {
    return value === undefined ? [] : [encodeNamed(BlobType.String, name, bytesOfName(`${value}\0`))];
  };
  const fields = [...text("obj", path), ...text("user", user), ...text("group", group)];
  return encodeNamed(BlobType.Table, "", joined([...fields, encodeNamed(BlobType.Table, "acl", table)]));
}
