/**
 * What can be asked of the bus itself, over one connection. Nothing is kept here.
 */

import { BlobType, decodeFields, encodeFields, type Field, fieldsOf } from "./blob.ts";
import { MessageType } from "./message.ts";
import type { Session, Target } from "./session.ts";
import { faultOf, Status } from "./status.ts";

/** The objects that the bus itself answers for. */
export const SystemObject = { Event: 1, Acl: 2, Monitor: 3 } as const;

/** The bus answers at once; this is for one that hangs. */
const timeoutMs = 30_000;

/** An object as a lookup shows it. */
export interface ObjectInfo {
  readonly path: string;
  /** Random, valid as long as the object is there. */
  readonly id: number;
  /** Id of its signature. */
  readonly objectType: number;
  /** One Table per method that may be called, in it one Int32 per argument that holds its type. */
  readonly signature: readonly Field[];
}

/**
 * Adds an object: a public one with path and signature, a nameless one without.
 *
 * @param target gets the messages to the object, from the first one.
 * @throws Fault "invalid" if the path is taken, or may not be published by us.
 */
export async function addObject(
  session: Session,
  object: { readonly path?: string; readonly signature?: Uint8Array },
  target: Target,
): Promise<number> {
  const what = `Cannot publish ${object.path ?? "nameless object"}`;
  let id: number | undefined;
  const answer = await session.ask(
    { type: MessageType.AddObject, peer: 0, attributes: object },
    {
      what,
      timeoutMs,
      onData: ({ objectId }) => {
        if (objectId === undefined || id !== undefined) return;
        id = objectId;
        session.route(id, target);
      },
    },
  );
  const status = answer.status ?? Status.InvalidArgument;
  if (status !== Status.Ok || id === undefined) throw faultOf(status || Status.NoData, what);
  return id;
}

/** Takes an own object away. */
export async function removeObject(session: Session, objectId: number): Promise<void> {
  session.route(objectId, undefined);
  const what = "Cannot remove object";
  const request = { type: MessageType.RemoveObject, peer: 0, attributes: { objectId } };
  const { status = Status.InvalidArgument } = await session.ask(request, { what, timeoutMs });
  if (status !== Status.Ok) throw faultOf(status, what);
}

/**
 * The objects that match a path, a prefix that ends in "*", or all of them; sorted bytewise by path.
 *
 * @throws Fault "not-found" if a path or prefix matches none. What we may not call may be missing without.
 */
export async function lookup(session: Session, pattern: string | undefined): Promise<ObjectInfo[]> {
  const what = `Cannot look up ${pattern ?? "all objects"}`;
  const found: ObjectInfo[] = [];
  const attributes = pattern === undefined ? {} : { path: pattern };
  const answer = await session.ask(
    { type: MessageType.Lookup, peer: 0, attributes },
    {
      what,
      timeoutMs,
      onData: ({ path, objectId, objectType = 0, signature = new Uint8Array(0) }) => {
        if (path === undefined || objectId === undefined) return;
        found.push({
          path,
          id: objectId,
          objectType,
          signature: decodeFields(signature, { skipBad: true }),
        });
      },
    },
  );
  const { status = Status.InvalidArgument } = answer;
  if (status !== Status.Ok) throw faultOf(status, what);
  return found;
}

/** The id of the object with exactly this path, or undefined. */
export async function lookupId(session: Session, path: string): Promise<number | undefined> {
  const what = `Cannot look up ${path}`;
  let id: number | undefined;
  const { status = Status.InvalidArgument } = await session.ask(
    { type: MessageType.Lookup, peer: 0, attributes: { path } },
    {
      what,
      timeoutMs,
      onData: (attributes) => {
        if (attributes.path === path) id = attributes.objectId;
      },
    },
  );
  if (status !== Status.Ok && status !== Status.NotFound) throw faultOf(status, what);
  return id;
}

/** Has events whose name matches the pattern delivered to an own object. @throws Fault "denied". */
export async function registerPattern(session: Session, objectId: number, pattern: string): Promise<void> {
  const data = encodeFields(fieldsOf({ object: objectId | 0, pattern }));
  await askEventObject(session, "register", { data, what: `Cannot listen for ${pattern}` });
}

/** Sends an event to all who listen for its name; `data` are the fields of a table. */
export async function sendEvent(session: Session, name: string, data: readonly Field[]): Promise<void> {
  const fields: Field[] = [...fieldsOf({ id: name }), { name: "data", type: BlobType.Table, value: data }];
  await askEventObject(session, "send", { data: encodeFields(fields), what: `Cannot send event ${name}` });
}

/** Subscribes an own nameless object to a target; false if there is no such target for us. */
export async function subscribe(session: Session, objectId: number, target: number): Promise<boolean> {
  const what = "Cannot subscribe";
  const request = { type: MessageType.Subscribe, peer: 0, attributes: { objectId, target } };
  const { status = Status.InvalidArgument } = await session.ask(request, { what, timeoutMs });
  if (status === Status.Ok || status === Status.NotFound) return status === Status.Ok;
  throw faultOf(status, what);
}

async function askEventObject(
  session: Session,
  method: string,
  request: { readonly data: Uint8Array; readonly what: string },
): Promise<void> {
  const { data, what } = request;
  const attributes = { objectId: SystemObject.Event, method, data };
  const { status = Status.InvalidArgument } = await session.ask(
    { type: MessageType.Invoke, peer: SystemObject.Event, attributes },
    { what, timeoutMs },
  );
  if (status !== Status.Ok) throw faultOf(status, what);
}
