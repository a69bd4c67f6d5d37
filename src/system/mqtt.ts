/**
 * MQTT 3.1.1 to a broker that may be away, slow, mad or hostile, without harm to the rest of the agent.
 *
 * The npm package `mqtt` writes and reads the packets; connecting again, all limits and all distrust are here.
 * Each try makes a new client of the package over a stream of ours, which lets through only what a broker may
 * say to a client that publishes and subscribes with QoS 0, and no more of it than is sane: everything else ends
 * the session. What waits for a slow broker is bounded by bytes; nothing is queued while there is no session.
 * The handlers are told of sessions won and lost and of messages; failures never throw.
 */

import { connect, type Socket } from "node:net";
import { Duplex } from "node:stream";
import type { MqttClient } from "mqtt";
import { messageOf } from "../lib/fault.ts";
import type { Cancel, Clock, Mqtt, MqttHandlers, MqttOptions } from "./system.ts";

const firstRetryMs = 1_000;
const lastRetryMs = 60_000;
/** A session that stood for so long was a good one: after it the tries begin anew. */
const goodSessionMs = 10_000;
/** From the first packet sent to the broker's answer, connecting included. */
const connectTimeoutMs = 10_000;
/** How long a farewell may take. */
const closeTimeoutMs = 1_000;
/** No retained message that we ask for is longer. */
const maxPacketBytes = 256 * 1024;
/** Per second; more waits in the broker, by flow control. */
const maxPublishes = 4_000;
const maxReceivedBytes = 4 * 1024 * 1024;
/** Per second; we never cause as many. */
const maxAnswers = 64;

/** Opens a session that keeps itself connected until it is closed. See `System.mqtt`. */
export function openMqtt(options: MqttOptions, handlers: MqttHandlers, clock: Clock): Mqtt {
  return new Session(options, handlers, clock);
}

class Session implements Mqtt {
  readonly #options: MqttOptions;
  readonly #handlers: MqttHandlers;
  readonly #clock: Clock;
  #client: MqttClient | undefined;
  #stream: Duplex | undefined;
  #connectedAt: number | undefined;
  #retryMs = firstRetryMs;
  /** The next try, or the end of the present one. */
  #cancel: Cancel;
  #lastReason = "";
  #closed = false;

  constructor(options: MqttOptions, handlers: MqttHandlers, clock: Clock) {
    this.#options = options;
    this.#handlers = handlers;
    this.#clock = clock;
    // Loading the package takes a while, which is nobody's business who opens a session.
    this.#cancel = clock.after(0, () => this.#connect());
  }

  get connected(): boolean {
    return this.#connectedAt !== undefined;
  }

  get queuedBytes(): number {
    return this.#stream?.writableLength ?? 0;
  }

  publish(topic: string, payload: string, options: { retain?: boolean } = {}): boolean {
    if (!this.connected || this.#closed) return false;
    const bytes = Buffer.byteLength(topic) + Buffer.byteLength(payload) + 8;
    if (this.queuedBytes + bytes > this.#options.maxQueuedBytes) return false;
    this.#client!.publish(topic, payload, { qos: 0, retain: options.retain ?? false });
    return true;
  }

  subscribe(topic: string): void {
    // A broker that refuses stays silent, which is all that there is to notice.
    if (this.connected && !this.#closed) this.#client!.subscribe(topic, { qos: 0 }, () => {});
  }

  unsubscribe(topic: string): void {
    if (this.connected && !this.#closed) this.#client!.unsubscribe(topic, () => {});
  }

  close(farewell?: { topic: string; payload: string }): Promise<void> {
    if (this.#closed) return Promise.resolve();
    if (farewell) this.publish(farewell.topic, farewell.payload, { retain: true });
    this.#closed = true;
    this.#cancel();
    const [client, stream] = [this.#client, this.#stream];
    const connected = this.connected;
    this.#client = this.#stream = this.#connectedAt = undefined;
    if (!client || !stream) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = this.#clock.after(closeTimeoutMs, () => stream.destroy());
      stream.once("close", () => {
        cancel();
        resolve();
      });
      client.end(!connected);
    });
  }

  #connect(): void {
    const { host, port } = this.#options;
    const socket = connect({ host, port, noDelay: true });
    const stream = distrust(socket, this.#clock, (reason) => this.#lose(stream, reason));
    // Loaded here, not at the top: the agent answers before it publishes.
    const { default: Client } = require("mqtt/lib/client") as { default: typeof MqttClient };
    const client = new Client(() => stream as never, {
      protocolId: "MQTT",
      protocolVersion: 4,
      clean: true,
      clientId: this.#options.clientId,
      username: this.#options.username,
      password: this.#options.password,
      keepalive: this.#options.keepaliveSeconds,
      will: { ...this.#options.will, payload: Buffer.from(this.#options.will.payload), qos: 0, retain: true },
      reconnectPeriod: 0,
      resubscribe: false,
      queueQoSZero: false,
      // The package would keep 65,536 small buffers for numbers.
      writeCache: false,
      log: () => {},
    });
    this.#client = client;
    this.#stream = stream;
    client.on("connect", () => this.#won(stream));
    client.on("error", (error: unknown) => this.#lose(stream, messageOf(error)));
    client.on("close", () => this.#lose(stream, "the broker closed the connection"));
    client.on("message", (topic, payload) => {
      if (this.#stream === stream) this.#handlers.onMessage(topic, payload);
    });
    this.#cancel = this.#clock.after(connectTimeoutMs, () =>
      this.#lose(stream, "the broker does not answer"),
    );
  }

  #won(stream: Duplex): void {
    if (this.#stream !== stream || this.#closed) return;
    this.#cancel();
    this.#connectedAt = this.#clock.now();
    this.#lastReason = "";
    this.#handlers.onConnect();
  }

  /** Ends the session, or the try for one, that runs over `stream`. */
  #lose(stream: Duplex, reason: string): void {
    if (this.#stream !== stream || this.#closed) return;
    const client = this.#client!;
    const stoodMs = this.#connectedAt === undefined ? 0 : this.#clock.now() - this.#connectedAt;
    if (stoodMs >= goodSessionMs) this.#retryMs = firstRetryMs;
    const told = this.#connectedAt === undefined && reason === this.#lastReason;
    this.#client = this.#stream = this.#connectedAt = undefined;
    this.#lastReason = reason;
    this.#cancel();
    client.end(true);
    stream.destroy();
    // Many routers lose one broker at the same instant, and should not all come back at one.
    this.#cancel = this.#clock.after(this.#retryMs * (0.75 + Math.random() / 2), () => this.#connect());
    this.#retryMs = Math.min(this.#retryMs * 2, lastRetryMs);
    if (!told) this.#handlers.onDisconnect(reason);
  }
}

/**
 * A stream over `socket` that reads what a broker may send and nothing else, at a bounded rate.
 *
 * @param fail told why the session has to end; called at most once, and the caller destroys the stream.
 */
function distrust(socket: Socket, clock: Clock, fail: (reason: string) => void): Duplex {
  const guard = new Guard();
  let resume: Cancel | undefined;
  const stream = new Duplex({
    read() {
      if (!resume) socket.resume();
    },
    write(chunk: Buffer, _encoding, done) {
      socket.write(chunk, done);
    },
    writev(chunks, done) {
      socket.write(Buffer.concat(chunks.map((each) => each.chunk as Buffer)), done);
    },
    final(done) {
      socket.end(done);
    },
    destroy(error, done) {
      resume?.();
      socket.destroy();
      done(error);
    },
  });
  // Errors of the stream are those of the socket, which are reported from there.
  stream.on("error", () => {});
  socket.on("data", (chunk: Buffer) => {
    const verdict = guard.check(chunk, clock.now());
    if (verdict.kind === "wrong") {
      socket.pause();
      fail(verdict.why);
      return;
    }
    const more = stream.push(chunk);
    if (verdict.kind === "wait") {
      resume = clock.after(verdict.delayMs, () => {
        resume = undefined;
        socket.resume();
      });
    }
    if (!more || resume) socket.pause();
  });
  socket.on("error", (error) => fail(messageOf(error)));
  socket.on("end", () => stream.push(null));
  socket.on("close", () => stream.destroy());
  return stream;
}

type Verdict =
  | { readonly kind: "good" }
  /** Good, and enough for now. */
  | { readonly kind: "wait"; readonly delayMs: number }
  | { readonly kind: "wrong"; readonly why: string };

/**
 * Follows the packets of a broker by their fixed headers (MQTT 3.1.1 §2.2), across any cut of the bytes:
 *
 *     | type and flags | remaining length, 1 to 4 bytes of 7 bits, lowest first | … |
 */
export class Guard {
  /** Of the packet begun: type and flags, or none. */
  #head: number | undefined;
  #length = 0;
  #shift = 0;
  /** Bytes of the packet begun that are still to come, once its length is known. */
  #left = 0;
  #welcomed = false;
  #secondAt = Number.NEGATIVE_INFINITY;
  #publishes = 0;
  #answers = 0;
  #bytes = 0;

  /** Judges the next bytes at the monotonic time `now`. After "wrong" there is no more to ask. */
  check(bytes: Uint8Array, now: number): Verdict {
    if (now - this.#secondAt >= 1_000) {
      this.#secondAt = now;
      this.#publishes = this.#answers = this.#bytes = 0;
    }
    this.#bytes += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      if (this.#left > 0) {
        const step = Math.min(this.#left, bytes.length - at);
        this.#left -= step;
        at += step;
        continue;
      }
      const byte = bytes[at++]!;
      if (this.#head === undefined) {
        this.#head = byte;
        continue;
      }
      this.#length += (byte & 127) << this.#shift;
      this.#shift += 7;
      const why = byte >= 128 ? (this.#shift > 21 ? "a length without end" : "") : this.#judge();
      if (why) return { kind: "wrong", why: `the broker sent ${why}` };
      if (byte < 128) {
        this.#left = this.#length;
        this.#head = undefined;
        this.#length = this.#shift = 0;
      }
    }
    const full = this.#publishes > maxPublishes || this.#bytes > maxReceivedBytes;
    return full ? { kind: "wait", delayMs: this.#secondAt + 1_000 - now } : { kind: "good" };
  }

  /** What is wrong with the packet whose header is complete; empty if nothing. */
  #judge(): string {
    const [head, length] = [this.#head!, this.#length];
    if (!this.#welcomed) {
      this.#welcomed = head === 0x20 && length === 2;
      return this.#welcomed ? "" : "no CONNACK";
    }
    if ((head & 0xfe) === 0x30) {
      this.#publishes++;
      return length > maxPacketBytes ? `a message of ${length} bytes` : "";
    }
    const fits =
      (head === 0x90 && length >= 3 && length <= 16) ||
      (head === 0xb0 && length === 2) ||
      (head === 0xd0 && length === 0);
    if (!fits) return `a packet 0x${head.toString(16)} of ${length} bytes that it may not send`;
    return ++this.#answers > maxAnswers ? "answers to nothing" : "";
  }
}
