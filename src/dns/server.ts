/**
 * A DNS server: questions over UDP and TCP to whoever knows the names, and the answers back.
 *
 * Kept: the sockets, the questions that wait for an answer (a number, bounded), the TCP connections (bounded in all
 * and by client; see `connection.ts`), and what was let go, by reason. An answer leaves by the socket that was asked.
 * Whoever asks too often is not answered; neither is anybody, once as many questions wait as are allowed.
 */

import type { Address } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Clock, Endpoint, Sockets, TcpListener, UdpSocket } from "../system/system.ts";
import { encodeOutcome, failed, type Outcome } from "./answer.ts";
import { Connection } from "./connection.ts";
import { type DnsQuery, hear, Rcode, tcpBytes, udpLimitOf } from "./query.ts";
import { clientOf, Rate } from "./rate.ts";

/** Where a server listens, over UDP and TCP. */
export interface DnsPlace {
  readonly address: Address;
  readonly port: number;
  /** Questions over UDP count only if they come in by this interface; a link-local address is this one's. */
  readonly ifindex?: number;
}

/** Who asks. */
export interface Asker {
  readonly endpoint: Endpoint;
  readonly transport: "udp" | "tcp";
  /** Where. */
  readonly place: DnsPlace;
}

export interface DnsServerOptions {
  readonly places: readonly DnsPlace[];
  /** What is said to a question; undefined: nothing. What it throws is answered as a failure, and told. */
  answer(query: DnsQuery, asker: Asker): Outcome | undefined | Promise<Outcome | undefined>;
  /** Something is wrong with the machine or with `answer`. */
  onTrouble?(line: string): void;
  /** Questions of one client. Default 200 a second, 400 at once. */
  readonly perSecond?: number;
  /** Questions that wait. Default 512. */
  readonly maxWaiting?: number;
  /** TCP connections. Default 64, of one client 8. */
  readonly maxConnections?: number;
  readonly maxConnectionsOfClient?: number;
  /** How long a connection may stay without a question. Default 10 s. */
  readonly idleMs?: number;
}

/** Why a question or a connection was let go; a closed list. */
export type DnsDrop =
  /** No message, or one that is an answer. */
  | "short"
  | "response"
  /** Its client asks too often. */
  | "rate"
  /** Too many questions wait. */
  | "busy"
  /** Too many connections. */
  | "connections"
  /** A connection on which nothing was asked for too long. */
  | "idle"
  /** A connection that sends what is none, or doesn't read. */
  | "stream"
  /** The kernel took the answer not, or had no room for questions. */
  | "send"
  | "overrun";

const maxClients = 1024;

/** Opens all places. @throws Fault if one of them cannot be opened; then none is. */
export async function openDnsServer(
  system: Clock & Pick<Sockets, "udp" | "tcpListen">,
  options: DnsServerOptions,
): Promise<DnsServer> {
  const server = new DnsServer(system, options);
  try {
    for (const place of options.places) await server.open(place);
  } catch (thrown) {
    await server.close();
    throw thrown;
  }
  return server;
}

export class DnsServer {
  readonly #system: Clock & Pick<Sockets, "udp" | "tcpListen">;
  readonly #options: DnsServerOptions;
  readonly #rate: Rate;
  readonly #closers: (() => unknown)[] = [];
  readonly #connections = new Set<Connection>();
  readonly #drops = new Map<DnsDrop, number>();
  #waiting = 0;
  #answered = 0;
  #closed = false;

  constructor(system: Clock & Pick<Sockets, "udp" | "tcpListen">, options: DnsServerOptions) {
    this.#system = system;
    this.#options = options;
    const perSecond = options.perSecond ?? 200;
    this.#rate = new Rate({ perSecond, burst: perSecond * 2, maxClients });
  }

  /** What was let go, by reason. */
  get drops(): ReadonlyMap<DnsDrop, number> {
    return this.#drops;
  }

  /** Answers given, refusals included. */
  get answered(): number {
    return this.#answered;
  }

  /** Questions that wait for an answer. */
  get waiting(): number {
    return this.#waiting;
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Listens at one more place. @throws Fault if it cannot be opened: then the server is to be closed. */
  async open(place: DnsPlace): Promise<void> {
    const listener: TcpListener = await this.#system.tcpListen({
      ...place,
      accept: (stream, from) => {
        const asker: Asker = { endpoint: from, transport: "tcp", place };
        if (!this.#mayConnect(from.address)) {
          this.#drop("connections");
          return undefined;
        }
        const connection = new Connection(this.#system, stream, {
          client: from.address,
          idleMs: this.#options.idleMs ?? 10_000,
          onMessage: (bytes, reply) => this.#hear(bytes, asker, reply),
          onEnd: (reason) => {
            this.#connections.delete(connection);
            if (reason !== undefined) this.#drop(reason);
          },
        });
        this.#connections.add(connection);
        return connection.handlers;
      },
    });
    this.#closers.push(() => listener.close());
    if (this.#closed) {
      await this.close();
      throw new Fault("closed", `Cannot serve DNS on ${place.address}: the server is closed`);
    }
    const socket: UdpSocket = this.#system.udp(
      { ...place, port: listener.port },
      {
        onMessage: (bytes, from) => {
          this.#hear(bytes, { endpoint: from, transport: "udp", place }, (answer) => {
            if (answer !== undefined) this.#send(socket, answer, from);
          });
        },
        onOverrun: () => this.#drop("overrun"),
        onClose: (fault) => {
          if (fault) this.#options.onTrouble?.(`DNS on ${place.address} ended: ${fault.message}`);
        },
      },
    );
    this.#closers.push(() => socket.close());
  }

  /** Drops what waits. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const connection of [...this.#connections]) connection.close();
    await Promise.all(this.#closers.splice(0).map((close) => close()));
  }

  /** @param reply is called once. */
  #hear(bytes: Uint8Array, asker: Asker, reply: (answer: Uint8Array | undefined) => void): void {
    if (!this.#rate.allow(asker.endpoint.address, this.#system.now())) {
      this.#drop("rate");
      reply(undefined);
      return;
    }
    const heard = hear(bytes);
    if (heard.kind === "drop") {
      this.#drop(heard.reason);
      reply(undefined);
    } else if (heard.kind === "refusal") {
      this.#answered++;
      reply(heard.bytes);
    } else if (this.#waiting >= (this.#options.maxWaiting ?? 512)) {
      this.#drop("busy");
      reply(undefined);
    } else {
      this.#waiting++;
      this.#answer(heard.query, asker)
        .then((answer) => {
          this.#waiting--;
          if (this.#closed) return;
          if (answer !== undefined) this.#answered++;
          reply(answer);
        })
        .catch((thrown) => this.#options.onTrouble?.(`DNS answer failed: ${messageOf(thrown)}`));
    }
  }

  async #answer(query: DnsQuery, asker: Asker): Promise<Uint8Array | undefined> {
    const limitBytes = asker.transport === "udp" ? udpLimitOf(query) : tcpBytes;
    try {
      const outcome = await this.#options.answer(query, asker);
      return outcome && encodeOutcome(query, outcome, limitBytes);
    } catch (thrown) {
      this.#options.onTrouble?.(`Cannot answer ${query.question.name}: ${messageOf(thrown)}`);
      return encodeOutcome(query, failed(Rcode.failure), limitBytes);
    }
  }

  #send(socket: UdpSocket, answer: Uint8Array, to: Endpoint): void {
    try {
      socket.send(answer, to);
    } catch {
      // The client asks again.
      this.#drop("send");
    }
  }

  /** Whether there is room for one more connection; an idle one makes room. */
  #mayConnect(address: Address): boolean {
    if (this.#closed) return false;
    const client = clientOf(address);
    const own = [...this.#connections].filter((each) => clientOf(each.client) === client);
    if (own.length >= (this.#options.maxConnectionsOfClient ?? 8)) return false;
    if (this.#connections.size < (this.#options.maxConnections ?? 64)) return true;
    for (const each of this.#connections) {
      if (!each.isIdle) continue;
      each.close();
      this.#connections.delete(each);
      this.#drop("idle");
      return true;
    }
    return false;
  }

  #drop(reason: DnsDrop): void {
    this.#drops.set(reason, (this.#drops.get(reason) ?? 0) + 1);
  }
}
