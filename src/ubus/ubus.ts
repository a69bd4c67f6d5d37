/** The front door of ubus: a client with what it publishes, the codec for who prints or plans in its terms. */

export { BlobType, decodeFields, encodeFields, type Field, fieldsOf, jsonOf } from "./blob.ts";
export { type Bus, type BusCounters, type BusOptions, defaultBusPath, openBus } from "./bus.ts";
export { connectUbus, Ubus, type UbusOptions } from "./client.ts";
export { type Attributes, decodeAttributes, MessageType, type Received, sightingOf } from "./message.ts";
export { type ObjectInfo, SystemObject } from "./requests.ts";
export { type Request, type ReturnAddress, Session, type Target } from "./session.ts";
export { Status, statusOf, textOf } from "./status.ts";
