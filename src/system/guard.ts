/**
 * What a broker may say, in MQTT 3.1.1 and 5, and nothing else.
 *
 * Everything after a TCP or TLS handshake is foreign: the broker may be mad, and what it passes on was written by
 * whoever may publish there. The guard follows a broker's packets across any cut of the bytes and sorts them:
 *
 *     messages                    heard here, and handed over as they are
 *     CONNACK, SUBACK, UNSUBACK,  checked, and written anew for the package that keeps the session: it reads
 *     PINGRESP                    nothing that a broker wrote
 *     anything else, or too much  ends the session
 *
 * What a stranger can cause through an honest broker (a giant message, a topic that is no text) never ends it.
 * Kept are the packet begun and the counts of the present second; nobody is told but the caller.
 *
 * Source: OASIS MQTT 3.1.1 §2–3, MQTT 5.0 §2–4.
 */

import type { MqttOptions } from "./system.ts";

type Version = NonNullable<MqttOptions["version"]>;

/** Longest packet that we take, as we tell an MQTT 5 broker. */
export const maxPacketBytes = 256 * 1024;
/** Of any other packet; reasons and user properties are all that makes them long. */
const maxAnswerBytes = 8 * 1024;
/** Per second; more waits in the broker, by flow control. */
const maxPublishes = 4_000;
const maxReceivedBytes = 4 * 1024 * 1024;
/** Per second; we never cause as many. */
const maxAnswers = 64;
/** Of a broker's words in a log line. */
const maxReason = 200;

/** A message that somebody published. */
export interface Message {
  readonly topic: string;
  /** Of a message longer than `maxPacketBytes` only the beginning. Valid until the next bytes are judged. */
  readonly payload: Uint8Array;
  /** The broker remembered it; it was not published just now. */
  readonly retained: boolean;
}

export type Verdict =
  | {
      readonly kind: "good";
      /** What the session's package may read. */
      readonly packets: readonly Uint8Array[];
      readonly messages: readonly Message[];
      /** After so long the next bytes may be read: enough for now. */
      readonly delayMs: number;
    }
  /** `takenOver`: another client has our id, and will lose its session by our next one. */
  | { readonly kind: "wrong"; readonly why: string; readonly takenOver: boolean };

/** What a refusal or a farewell of the broker means. */
const refusals: ReadonlyMap<number, string> = new Map([
  [1, "it does not speak this version of MQTT"],
  [2, "client id rejected"],
  [3, "server unavailable"],
  [4, "bad user name or password"],
  [5, "not authorized"],
]);
const takenOver = 0x8e;
const reasons: ReadonlyMap<number, string> = new Map([
  [0x81, "malformed packet"],
  [0x82, "protocol error"],
  [0x84, "it does not speak this version of MQTT"],
  [0x85, "client id not valid"],
  [0x86, "bad user name or password"],
  [0x87, "not authorized"],
  [0x88, "server unavailable"],
  [0x89, "server busy"],
  [0x8a, "banned"],
  [0x8b, "server shutting down"],
  [0x8c, "bad authentication method"],
  [0x8d, "keep alive timeout"],
  [takenOver, "another client uses our client id"],
  [0x8f, "topic filter not valid"],
  [0x90, "topic name not valid"],
  [0x93, "receive maximum exceeded"],
  [0x95, "packet too large"],
  [0x96, "message rate too high"],
  [0x97, "quota exceeded"],
  [0x98, "administrative action"],
  [0x99, "payload format not valid"],
  [0x9a, "it keeps no retained messages"],
  [0x9b, "quality of service not supported"],
  [0x9c, "use another server"],
  [0x9d, "server moved"],
  [0x9e, "shared subscriptions not supported"],
  [0x9f, "connection rate exceeded"],
  [0xa0, "maximum connect time"],
  [0xa1, "subscription identifiers not supported"],
  [0xa2, "wildcard subscriptions not supported"],
]);

const subscribeCodes: ReadonlySet<number> = new Set([0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2]);

/** Property identifier → how its value is written (MQTT 5 §2.2.2.2). */
type Shape = "byte" | "two" | "four" | "variable" | "text" | "pair";
const reasonText: readonly [number, Shape] = [0x1f, "text"];
const userProperty: readonly [number, Shape] = [0x26, "pair"];
const keepAliveId = 0x13;
const topicAliasId = 0x23;
const retainAvailableId = 0x25;
const maxPacketId = 0x27;
/** Which properties a broker may send with which packet; binary data is written as text is. */
const connackShapes: ReadonlyMap<number, Shape> = new Map([
  [0x11, "four"],
  [0x12, "text"],
  [keepAliveId, "two"],
  [0x15, "text"],
  [0x16, "text"],
  [0x1a, "text"],
  [0x1c, "text"],
  reasonText,
  [0x21, "two"],
  [0x22, "two"],
  [0x24, "byte"],
  [retainAvailableId, "byte"],
  userProperty,
  [maxPacketId, "four"],
  [0x28, "byte"],
  [0x29, "byte"],
  [0x2a, "byte"],
]);
const publishShapes: ReadonlyMap<number, Shape> = new Map([
  [0x01, "byte"],
  [0x02, "four"],
  [0x03, "text"],
  [0x08, "text"],
  [0x09, "text"],
  [0x0b, "variable"],
  [topicAliasId, "two"],
  userProperty,
]);
const acknowledgeShapes: ReadonlyMap<number, Shape> = new Map([reasonText, userProperty]);
const disconnectShapes: ReadonlyMap<number, Shape> = new Map([
  [0x11, "four"],
  [0x1c, "text"],
  reasonText,
  userProperty,
]);

/**
 * Follows the packets of one session by their headers (§2.2, the same in both versions):
 *
 *     | type and flags | remaining length, 1 to 4 bytes of 7 bits, lowest first | … |
 */
export class Guard {
  readonly #version: Version;
  /** Of the packet begun: type and flags, or none. */
  #head: number | undefined;
  #length = 0;
  #shift = 0;
  /** The body begun, as much of it as is kept, and how much of it is there; how much is to come, kept or not. */
  #body: Uint8Array | undefined;
  #filled = 0;
  #left = 0;
  #welcomed = false;
  #brokerTakes = Number.POSITIVE_INFINITY;
  #secondAt = Number.NEGATIVE_INFINITY;
  #publishes = 0;
  #answers = 0;
  #bytes = 0;

  constructor(version: Version = "3.1.1") {
    this.#version = version;
  }

  /** The longest packet that the broker takes, as it told in its welcome. */
  get brokerTakes(): number {
    return this.#brokerTakes;
  }

  /** Judges the next bytes at the monotonic time `now`. After "wrong" there is no more to ask. */
  check(bytes: Uint8Array, now: number): Verdict {
    if (now - this.#secondAt >= 1_000) {
      this.#secondAt = now;
      this.#publishes = this.#answers = this.#bytes = 0;
    }
    this.#bytes += bytes.length;
    const heard: Heard = { packets: [], messages: [] };
    try {
      for (let at = 0; at < bytes.length; ) {
        at += this.#left > 0 ? this.#fill(bytes, at, heard) : this.#begin(bytes, at, heard);
      }
    } catch (thrown) {
      if (thrown instanceof Refusal) {
        return { kind: "wrong", why: thrown.message, takenOver: thrown.code === takenOver };
      }
      if (!(thrown instanceof SyntaxError)) throw thrown;
      return { kind: "wrong", why: `the broker sent ${thrown.message}`, takenOver: false };
    }
    const full = this.#publishes > maxPublishes || this.#bytes > maxReceivedBytes;
    return { kind: "good", ...heard, delayMs: full ? this.#secondAt + 1_000 - now : 0 };
  }

  /** Reads on in a header, and a body that is all there. Answers how many bytes it took. */
  #begin(bytes: Uint8Array, at: number, heard: Heard): number {
    const byte = bytes[at]!;
    if (this.#head === undefined) {
      this.#head = byte;
      return 1;
    }
    this.#length += (byte & 127) << this.#shift;
    this.#shift += 7;
    if (byte >= 128) {
      if (this.#shift > 21) throw new SyntaxError("a length without end");
      return 1;
    }
    const length = this.#length;
    const kept = this.#admit(this.#head, length);
    if (kept === length && at + 1 + length <= bytes.length) {
      this.#finish(bytes.subarray(at + 1, at + 1 + length), heard);
      return 1 + length;
    }
    this.#body = new Uint8Array(kept);
    this.#filled = 0;
    this.#left = length;
    return 1;
  }

  #fill(bytes: Uint8Array, at: number, heard: Heard): number {
    const body = this.#body!;
    const step = Math.min(this.#left, bytes.length - at);
    const kept = Math.min(step, body.length - this.#filled);
    body.set(bytes.subarray(at, at + kept), this.#filled);
    this.#filled += kept;
    this.#left -= step;
    if (this.#left === 0) {
      this.#body = undefined;
      this.#finish(body, heard);
    }
    return step;
  }

  /** How much of a packet is kept. @throws SyntaxError if it may not be sent. */
  #admit(head: number, length: number): number {
    const isNew = this.#version === "5";
    if (!this.#welcomed) {
      // A broker that does not speak version 5 says so in the form of 3.1.1.
      if (head !== 0x20 || length < 2 || length > (isNew ? maxAnswerBytes : 2)) {
        throw new SyntaxError("no CONNACK");
      }
      return length;
    }
    if ((head & 0xfe) === 0x30) {
      this.#publishes++;
      if (isNew && length > maxPacketBytes) throw new SyntaxError(`a message of ${length} bytes`);
      return Math.min(length, maxPacketBytes);
    }
    const most = isNew ? maxAnswerBytes : head === 0x90 ? 3 : 2;
    const fits =
      (head === 0x90 && length >= 3 && length <= most) ||
      (head === 0xb0 && length >= 2 && length <= most) ||
      (head === 0xd0 && length === 0) ||
      (head === 0xe0 && isNew && length <= most);
    if (!fits) throw new SyntaxError(`a packet 0x${hex(head)} of ${length} bytes that it may not send`);
    if (++this.#answers > maxAnswers) throw new SyntaxError("answers to nothing");
    return length;
  }

  /** A packet is there, or as much of it as is kept. */
  #finish(body: Uint8Array, heard: Heard): void {
    const head = this.#head!;
    this.#head = undefined;
    this.#length = this.#shift = 0;
    const reader = new Reader(body);
    if ((head & 0xfe) === 0x30) this.#publish(reader, head === 0x31, heard);
    else if (head === 0x20) heard.packets.push(this.#welcome(reader));
    else if (head === 0x90 || head === 0xb0) heard.packets.push(this.#acknowledge(head, reader));
    else if (head === 0xd0) heard.packets.push(Uint8Array.of(0xd0, 0));
    else this.#goodbye(reader);
  }

  #publish(reader: Reader, retained: boolean, heard: Heard): void {
    const topic = reader.text();
    if (topic === "") throw new SyntaxError("a message without a topic");
    if (this.#version === "5") {
      const properties = reader.properties(publishShapes);
      if (properties.has(topicAliasId)) throw new SyntaxError("a topic alias, of which we take none");
    }
    // Whoever published it wrote its topic: one that is none is not the broker's fault.
    if (topic === undefined || /[+#\u0000]/.test(topic)) return;
    heard.messages.push({ topic, payload: reader.rest(), retained });
  }

  /** The welcome as the package reads it: with what concerns it. */
  #welcome(reader: Reader): Uint8Array {
    const isOld = this.#version !== "5" || reader.left === 2;
    const flags = reader.byte();
    const code = reader.byte();
    const properties = isOld ? none : reader.properties(connackShapes);
    if (code !== 0) {
      const why = (isOld ? refusals : reasons).get(code);
      throw new Refusal(`the broker refuses us: ${why ?? `code ${code}`}${said(properties)}`, code);
    }
    if (reader.left > 0 || (isOld && this.#version === "5")) throw new SyntaxError("a CONNACK that is none");
    if (flags !== 0) throw new SyntaxError("a CONNACK of a session that we do not have");
    if (properties.get(retainAvailableId) === 0) {
      throw new Refusal("the broker is of no use: it keeps no retained messages", 0x9a);
    }
    this.#welcomed = true;
    this.#brokerTakes = Number(properties.get(maxPacketId) ?? Number.POSITIVE_INFINITY);
    if (this.#brokerTakes === 0) throw new SyntaxError("a CONNACK that forbids every packet");
    if (this.#version !== "5") return Uint8Array.of(0x20, 2, 0, 0);
    const seconds = Number(properties.get(keepAliveId) ?? 0);
    if (seconds === 0) return Uint8Array.of(0x20, 3, 0, 0, 0);
    return Uint8Array.of(0x20, 6, 0, 0, 3, keepAliveId, seconds >> 8, seconds & 255);
  }

  /** SUBACK or UNSUBACK: we ask for one topic at a time, with QoS 0. */
  #acknowledge(head: number, reader: Reader): Uint8Array {
    const [high, low] = [reader.byte(), reader.byte()];
    const isNew = this.#version === "5";
    if (isNew) reader.properties(acknowledgeShapes);
    const codes = [...reader.rest()];
    if (!isNew && head === 0xb0) return Uint8Array.of(head, 2, high, low);
    if (codes.length !== 1) throw new SyntaxError(`${codes.length} answers to one question`);
    // Whether there was a subscription that could be ended does not matter.
    if (head === 0xb0) return Uint8Array.of(head, 4, high, low, 0, 0);
    const code = codes[0]!;
    if (code !== 0 && code < 0x80) throw new SyntaxError("a subscription that was not asked for");
    // The package knows these, and takes any other for an offence.
    const told = code === 0 || (isNew && subscribeCodes.has(code)) ? code : 0x80;
    return isNew ? Uint8Array.of(head, 4, high, low, 0, told) : Uint8Array.of(head, 3, high, low, told);
  }

  /** An MQTT 5 broker ends the session, and says why. */
  #goodbye(reader: Reader): never {
    const code = reader.left === 0 ? 0 : reader.byte();
    const properties = reader.left === 0 ? none : reader.properties(disconnectShapes);
    if (code !== 0 && code < 0x80) throw new SyntaxError(`a DISCONNECT for the reason 0x${hex(code)}`);
    const why = code === 0 ? "" : `: ${reasons.get(code) ?? `code ${code}`}`;
    throw new Refusal(`the broker ended the session${why}${said(properties)}`, code);
  }
}

/** Words of a stranger, safe to log: bounded, without control, format or broken characters. */
export function printable(text: string): string {
  const safe = text.slice(0, maxReason).replace(/\p{C}/gu, "?");
  return text.length > maxReason ? `${safe}…` : safe;
}

interface Heard {
  readonly packets: Uint8Array[];
  readonly messages: Message[];
}

/** The broker spoke well, and will have no more of us. */
class Refusal extends Error {
  readonly code: number;

  constructor(message: string, code: number) {
    super(message);
    this.code = code;
  }
}

type Properties = ReadonlyMap<number, number | string | undefined>;
const none: Properties = new Map();

/** The broker's own words, if it had any. */
function said(properties: Properties): string {
  const words = properties.get(reasonText[0]);
  return typeof words === "string" && words !== "" ? ` (${printable(words)})` : "";
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads a body from its beginning. @throws SyntaxError where it ends too soon. */
class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  byte(): number {
    return this.#take(1)[0]!;
  }

  /** A text with its length in two bytes before it; undefined if it is not UTF-8. */
  text(): string | undefined {
    const bytes = this.#take(this.#number(2));
    try {
      return decoder.decode(bytes);
    } catch {
      return undefined;
    }
  }

  rest(): Uint8Array {
    return this.#take(this.left);
  }

  /** The length, then properties of the shapes given, each at most once but what users add (§2.2.2). */
  properties(shapes: ReadonlyMap<number, Shape>): Properties {
    const reader = new Reader(this.#take(this.#variable()));
    const found = new Map<number, number | string | undefined>();
    while (reader.left > 0) {
      const id = reader.byte();
      const shape = shapes.get(id);
      if (shape === undefined) throw new SyntaxError(`a property 0x${hex(id)} that does not belong there`);
      if (found.has(id) && shape !== "pair" && shape !== "variable") {
        throw new SyntaxError(`the property 0x${hex(id)} twice`);
      }
      found.set(id, reader.#value(shape));
    }
    return found;
  }

  #value(shape: Shape): number | string | undefined {
    switch (shape) {
      case "byte":
        return this.byte();
      case "two":
        return this.#number(2);
      case "four":
        return this.#number(4);
      case "variable":
        return this.#variable();
      case "text":
        return this.text();
      case "pair":
        // Nobody asks for them.
        this.#take(this.#number(2));
        this.#take(this.#number(2));
        return undefined;
    }
  }

  #number(size: number): number {
    return this.#take(size).reduce((sum, byte) => sum * 256 + byte, 0);
  }

  #variable(): number {
    let value = 0;
    for (let shift = 0; shift <= 21; shift += 7) {
      const byte = this.byte();
      value += (byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw new SyntaxError("a length without end");
  }

  #take(length: number): Uint8Array {
    if (length > this.left) throw new SyntaxError("a packet that is cut short");
    const taken = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at += length;
    return taken;
  }
}
