/**
 * MQTT 3.1.1 or 5 to a broker that may be away, slow, mad or hostile, without harm to the rest of the agent.
 *
 * The npm package `mqtt` writes the packets and keeps the session alive; connecting again, TLS, all limits and all
 * distrust are here. Each try asks for the secrets anew and makes a new client of the package over a stream of
 * ours, on which the package hears only what `guard.ts` has checked and written anew. What waits for a slow broker
 * is bounded by bytes; nothing is queued while there is no session. The handlers are told of sessions won and
 * lost and of messages; failures never throw.
 */

import { connect, isIP, type Socket } from "node:net";
import { Duplex } from "node:stream";
import type { MqttClient } from "mqtt";
import { messageOf } from "../lib/fault.ts";
import { Guard, type Message, maxPacketBytes, printable } from "./guard.ts";
import type { Cancel, Clock, Mqtt, MqttHandlers, MqttOptions, MqttSecrets } from "./system.ts";

const firstRetryMs = 1_000;
const lastRetryMs = 60_000;
/** A session that stood for so long was a good one: after it the tries begin anew. */
const goodSessionMs = 10_000;
/** From the first packet sent to the broker's answer, secrets and connecting included. */
const connectTimeoutMs = 10_000;
/** How long a farewell may take. */
const closeTimeoutMs = 1_000;
/** What a message's packet has beside topic and payload, at most. */
const envelopeBytes = 8;

/** Opens a session that keeps itself connected until it is closed. See `System.mqtt`. */
export function openMqtt(options: MqttOptions, handlers: MqttHandlers, clock: Clock): Mqtt {
  return new Session(options, handlers, clock);
}

/** One try for a session, and the session that may come of it. */
interface Try {
  stream?: Duplex;
  client?: MqttClient;
  guard: Guard;
}

class Session implements Mqtt {
  readonly #options: MqttOptions;
  readonly #handlers: MqttHandlers;
  readonly #clock: Clock;
  #try: Try | undefined;
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
    this.#cancel = clock.after(0, () => this.#begin());
  }

  get connected(): boolean {
    return this.#connectedAt !== undefined;
  }

  get queuedBytes(): number {
    return this.#try?.stream?.writableLength ?? 0;
  }

  get maxMessageBytes(): number {
    const brokerTakes = this.#try?.guard.brokerTakes ?? Number.POSITIVE_INFINITY;
    return Math.max(0, Math.min(this.#options.maxQueuedBytes, brokerTakes) - envelopeBytes);
  }

  publish(topic: string, payload: string, options: { retain?: boolean } = {}): boolean {
    if (!this.connected || this.#closed) return false;
    const bytes = Buffer.byteLength(topic) + Buffer.byteLength(payload);
    if (bytes > this.maxMessageBytes) return false;
    if (this.queuedBytes + bytes + envelopeBytes > this.#options.maxQueuedBytes) return false;
    this.#try!.client!.publish(topic, payload, { qos: 0, retain: options.retain ?? false });
    return true;
  }

  subscribe(topic: string): void {
    if (!this.connected || this.#closed) return;
    const present = this.#try!;
    present.client!.subscribe(topic, { qos: 0 }, (error) => {
      // The end of a session is an error, too, for a question without an answer.
      if (error && this.#try === present) this.#handlers.onRefusal?.(topic, messageOf(error));
    });
  }

  unsubscribe(topic: string): void {
    if (this.connected && !this.#closed) this.#try!.client!.unsubscribe(topic, () => {});
  }

  close(farewell?: { topic: string; payload: string }): Promise<void> {
    if (this.#closed) return Promise.resolve();
    if (farewell) this.publish(farewell.topic, farewell.payload, { retain: true });
    this.#closed = true;
    this.#cancel();
    const { client, stream } = this.#try ?? {};
    const connected = this.connected;
    this.#try = this.#connectedAt = undefined;
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

  #begin(): void {
    const present: Try = { guard: new Guard(this.#options.version) };
    this.#try = present;
    this.#cancel = this.#clock.after(connectTimeoutMs, () =>
      this.#lose(present, "the broker does not answer"),
    );
    (this.#options.secrets?.() ?? Promise.resolve({}))
      .then((secrets) => {
        if (this.#try === present) this.#connect(present, secrets);
      })
      .catch((thrown: unknown) => this.#lose(present, reasonOf(thrown)));
  }

  #connect(present: Try, secrets: MqttSecrets): void {
    const socket = dial(this.#options, secrets);
    const stream = distrust(socket, this.#clock, {
      guard: present.guard,
      hear: ({ topic, payload, retained }) => {
        // Whoever is not yet asked for messages has none to send.
        if (this.#try === present && this.connected) this.#handlers.onMessage(topic, payload, retained);
      },
      fail: (reason, takenOver) => this.#lose(present, reason, takenOver),
    });
    present.stream = stream;
    // Loaded here, not at the top: the agent answers before it publishes.
    const { default: Client } = require("mqtt/lib/client") as { default: typeof MqttClient };
    const { clientId, username, keepaliveSeconds, will } = this.#options;
    const client = new Client(() => stream as never, {
      protocolId: "MQTT",
      protocolVersion: this.#options.version === "5" ? 5 : 4,
      clean: true,
      clientId,
      username,
      password: secrets.password,
      keepalive: keepaliveSeconds,
      will: { ...will, payload: Buffer.from(will.payload), qos: 0, retain: true },
      ...(this.#options.version === "5" && {
        properties: { receiveMaximum: 1, maximumPacketSize: maxPacketBytes, topicAliasMaximum: 0 },
      }),
      reconnectPeriod: 0,
      resubscribe: false,
      queueQoSZero: false,
      // The package would keep 65,536 small buffers for numbers.
      writeCache: false,
      log: () => {},
    });
    present.client = client;
    client.on("connect", () => this.#won(present));
    client.on("error", (error: unknown) => this.#lose(present, reasonOf(error)));
    client.on("close", () => this.#lose(present, "the broker closed the connection"));
  }

  #won(present: Try): void {
    if (this.#try !== present || this.#closed) return;
    this.#cancel();
    this.#connectedAt = this.#clock.now();
    this.#lastReason = "";
    this.#handlers.onConnect();
  }

  /** Ends the session, or the try for one. */
  #lose(present: Try, reason: string, takenOver = false): void {
    if (this.#try !== present || this.#closed) return;
    const stoodMs = this.#connectedAt === undefined ? 0 : this.#clock.now() - this.#connectedAt;
    // Two that take one id from each other in turn should not do so every second.
    if (takenOver) this.#retryMs = lastRetryMs;
    else if (stoodMs >= goodSessionMs) this.#retryMs = firstRetryMs;
    const told = this.#connectedAt === undefined && reason === this.#lastReason;
    this.#try = this.#connectedAt = undefined;
    this.#lastReason = reason;
    this.#cancel();
    present.client?.end(true);
    present.stream?.destroy();
    // Many routers lose one broker at the same instant, and should not all come back at one.
    this.#cancel = this.#clock.after(this.#retryMs * (0.75 + Math.random() / 2), () => this.#begin());
    this.#retryMs = Math.min(this.#retryMs * 2, lastRetryMs);
    if (!told) this.#handlers.onDisconnect(reason);
  }
}

/** Opens the connection. @throws Error if the secrets are no certificate or key. */
function dial({ host, port }: MqttOptions, { tls }: MqttSecrets): Socket {
  if (!tls) return connect({ host, port, noDelay: true });
  // Loaded here: most brokers live next door.
  const { connect: connectTls } = require("node:tls") as typeof import("node:tls");
  const { authorities, certificate, key } = tls;
  const socket = connectTls({
    host,
    port,
    // By Node's own rules an address is no server name; it is checked against the certificate all the same.
    ...(isIP(host) === 0 && { servername: host }),
    ...(authorities !== undefined && { ca: [authorities] }),
    ...(certificate !== undefined && { cert: certificate }),
    ...(key !== undefined && { key }),
    minVersion: "TLSv1.2",
    rejectUnauthorized: true,
  });
  return socket.setNoDelay(true);
}

/** Why a connection failed; of TLS only the part that is the same at each try. */
function reasonOf(thrown: unknown): string {
  const { reason } = thrown as { reason?: unknown };
  const told =
    typeof reason === "string"
      ? reason
      : /:error:[0-9A-F]+:(?:[^:]*:){2}([^:]+)/.exec(messageOf(thrown))?.[1];
  return printable(told === undefined ? messageOf(thrown) : `TLS: ${told}`);
}

interface Ears {
  readonly guard: Guard;
  hear(message: Message): void;
  /** Told why the session has to end; called at most once, and the caller destroys the stream. */
  fail(reason: string, takenOver: boolean): void;
}

/** A stream over `socket` that reads what its guard lets through, at a bounded rate. */
function distrust(socket: Socket, clock: Clock, { guard, hear, fail }: Ears): Duplex {
  let resume: Cancel | undefined;
  const stream = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      // A failure is told by the socket, with its reason.
      socket.write(chunk, () => done());
    },
    writev(chunks, done) {
      socket.write(Buffer.concat(chunks.map((each) => each.chunk as Buffer)), () => done());
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
  // What the package cannot write, such as a password without a user in MQTT 3.1.1.
  stream.on("error", (error) => fail(reasonOf(error), false));
  socket.on("data", (chunk: Buffer) => {
    const verdict = guard.check(chunk, clock.now());
    if (verdict.kind === "wrong") {
      socket.pause();
      fail(verdict.why, verdict.takenOver);
      return;
    }
    // What the package does not read at once is little: the guard counts answers.
    for (const packet of verdict.packets) stream.push(packet);
    for (const message of verdict.messages) hear(message);
    if (verdict.delayMs === 0 || stream.destroyed) return;
    socket.pause();
    resume = clock.after(verdict.delayMs, () => socket.resume());
  });
  socket.on("error", (error) => fail(reasonOf(error), false));
  socket.on("end", () => stream.push(null));
  socket.on("close", () => stream.destroy());
  return stream;
}
