/**
 * The broker: other programs ask the mappings for encoded addresses, and tell them of published hosts, over a
 * SOCK_SEQPACKET unix socket in the v1 protocol. CoreDNS' plugin `ipref` and `dns-agent` work with it as they are.
 *
 * Kept: the clients (bounded), per client how many of its requests wait (bounded; ids are only echoed, so equal ids
 * of two clients are nothing to each other), and per source of hosts when it was last confirmed and by whom. A
 * source ends a while after the last word of its agent, unless the agent is still there. Every request is answered,
 * with a refusal if it makes no sense; who sends what is no request is closed.
 */

import type { Address } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, Clock, Disk, Sockets, UnixHandlers, UnixSocket } from "../system/system.ts";
import {
  type AddressRecord,
  type Body,
  decodeBody,
  decodeHead,
  encodeRefusal,
  encodeV1,
  type Families,
  type Head,
} from "./protocol.ts";
import type { StaticRecord } from "./sources.ts";

/** What the broker asks of the mappings; see `Mappings`. */
export interface MappingDoor {
  /** @throws Fault "invalid" for what is no remote host, "limit", "storage". */
  encodedFor(context: Address, reference: bigint): Promise<Address>;
  /** Adds to the generation with this hash, or begins it. @throws Fault "limit"; "storage": it holds. */
  extendSource(owner: string, records: readonly StaticRecord[], hash: bigint): Promise<unknown>;
  /** Without records the source goes. */
  setSource(owner: string, records: readonly StaticRecord[]): Promise<unknown>;
  source(owner: string): { readonly count: number; readonly hash: bigint | undefined } | undefined;
  sources(): readonly { readonly owner: string }[];
}

export interface BrokerOptions {
  /** Of the socket. */
  readonly path: string;
  readonly families: Families;
  /** Clients at a time. Default 64. */
  readonly maxClients?: number;
  onTrouble?(line: string): void;
}

/** Why a message or a client was let go; a closed list. */
export type BrokerDrop =
  /** No message of this protocol, or none that a client may send: its client was closed. */
  | "malformed"
  | "uninvited"
  /** Refused: of another IP version, a body that is none, nonsense, too many at a time, too late. */
  | "families"
  | "body"
  | "unmapped"
  | "busy"
  | "late"
  /** A client for whom there was no room. */
  | "clients"
  /** A client that does not read its answers. */
  | "deaf";

/** Owners of what agents publish begin so; no file and no user is named like that. */
export const agentOwner = "dns:";

/** Clients wait for 500 ms. A slow flash may take most of that to keep a new mapping. */
const answerMs = 450;
const maxWaiting = 64;
/** How long a source outlives its agent. */
export const sourceLifeMs = 14_400_000;
const sweepMs = 60_000;

interface Client {
  readonly socket: UnixSocket;
  waiting: number;
  /** It has made a request that made sense. */
  isKnown: boolean;
  isOpen: boolean;
}

interface Confirmed {
  at: number;
  by: Client | undefined;
}

/** @throws Fault "conflict" if somebody else serves the socket, or as the kernel says. */
export async function openBroker(
  system: Clock & Pick<Sockets, "unix"> & Pick<Disk, "makeDirectory">,
  door: MappingDoor,
  options: BrokerOptions,
): Promise<Broker> {
  const directory = options.path.slice(0, options.path.lastIndexOf("/"));
  if (directory !== "") await system.makeDirectory(directory, 0o775);
  return new Broker(system, door, options);
}

export class Broker {
  readonly #clock: Clock;
  readonly #door: MappingDoor;
  readonly #options: BrokerOptions;
  readonly #socket: UnixSocket;
  readonly #clients = new Set<Client>();
  readonly #drops = new Map<BrokerDrop, number>();
  readonly #confirmed = new Map<string, Confirmed>();
  readonly #stop: Cancel;
  #answered = 0;

  /** Use `openBroker`. */
  constructor(system: Clock & Pick<Sockets, "unix">, door: MappingDoor, options: BrokerOptions) {
    this.#clock = system;
    this.#door = door;
    this.#options = options;
    this.#socket = system.unix(
      { type: "seqpacket", bind: options.path, mode: 0o660 },
      {
        onAccept: (socket) => this.#accept(socket),
        onMessage() {},
        onOverrun() {},
        onClose: (fault) => {
          if (fault) this.#trouble(`Mapper socket ended: ${fault.message}`);
        },
      },
    );
    // Whoever confirmed them in an earlier life has its time again.
    for (const { owner } of door.sources()) {
      if (owner.startsWith(agentOwner)) this.#confirmed.set(owner, { at: system.now(), by: undefined });
    }
    this.#stop = system.every(sweepMs, () => this.#sweep());
  }

  get drops(): ReadonlyMap<BrokerDrop, number> {
    return this.#drops;
  }

  /** Requests answered, refusals included. */
  get answered(): number {
    return this.#answered;
  }

  get clients(): number {
    return this.#clients.size;
  }

  close(): void {
    this.#stop();
    this.#socket.close();
    for (const client of [...this.#clients]) this.#end(client);
  }

  #accept(socket: UnixSocket): UnixHandlers {
    const client: Client = { socket, waiting: 0, isKnown: false, isOpen: true };
    if (this.#clients.size >= (this.#options.maxClients ?? 64)) {
      // Whoever has asked for nothing yet makes room, else there is none.
      const stranger = [...this.#clients].find((each) => !each.isKnown);
      this.#drop("clients");
      this.#end(stranger ?? client);
    }
    if (client.isOpen) this.#clients.add(client);
    return {
      onMessage: (bytes) => {
        if (client.isOpen) this.#hear(client, bytes);
      },
      onOverrun: () => this.#expel(client, "malformed"),
      onClose: () => this.#end(client),
    };
  }

  #hear(client: Client, bytes: Uint8Array): void {
    let head: Head;
    try {
      head = decodeHead(bytes);
    } catch (thrown) {
      if (!(thrown instanceof SyntaxError)) throw thrown;
      this.#expel(client, "malformed");
      return;
    }
    // A greeting that means nothing.
    if (head.mode === "data" && head.command === 0) return;
    if (head.mode !== "request") {
      this.#expel(client, "uninvited");
      return;
    }
    const { lan, tunnel } = this.#options.families;
    if (head.families.lan !== lan || head.families.tunnel !== tunnel) this.#refuse(client, head, "families");
    else if (client.waiting >= maxWaiting) this.#refuse(client, head, "busy");
    else this.#request(client, head, bytes);
  }

  #request(client: Client, head: Head, bytes: Uint8Array): void {
    let body: Body | undefined;
    try {
      body = decodeBody(head, bytes);
    } catch (thrown) {
      if (!(thrown instanceof SyntaxError)) throw thrown;
    }
    if (body === undefined) this.#refuse(client, head, "body");
    else if (body.kind === "encode") this.#encode(client, head, body);
    else if (body.kind === "hosts") this.#hosts(client, head, body);
    else this.#hash(client, head, body);
  }

  #encode(client: Client, head: Head, { record }: Body & { kind: "encode" }): void {
    if (record?.context === undefined) {
      this.#refuse(client, head, "unmapped");
      return;
    }
    client.isKnown = true;
    this.#wait(client, head, async () => {
      const encoded = await this.#door.encodedFor(record.context!, record.reference);
      return encodeV1({ ...head, mode: "ack" }, { kind: "encode", record: { ...record, encoded } });
    });
  }

  #hosts(client: Client, head: Head, body: Body & { kind: "hosts" }): void {
    const owner = ownerOf(body);
    const records = body.records.map(publishedOf);
    if (owner === undefined || records.includes(undefined)) {
      this.#refuse(client, head, "body");
      return;
    }
    client.isKnown = true;
    this.#wait(client, head, async () => {
      try {
        await this.#door.extendSource(owner, records as StaticRecord[], body.hash);
      } catch (thrown) {
        // What the disk does not take holds as long as we do; the agent asks for its hash after that.
        if (!(thrown instanceof Fault) || thrown.code !== "storage") throw thrown;
      }
      this.#confirmed.set(owner, { at: this.#clock.now(), by: client });
      return encodeV1({ ...head, mode: "ack" }, { ...body, records: [] });
    });
  }

  #hash(client: Client, head: Head, body: Body & { kind: "hash" }): void {
    const owner = ownerOf(body);
    if (owner === undefined) {
      this.#refuse(client, head, "body");
      return;
    }
    client.isKnown = true;
    const source = this.#door.source(owner);
    const isSame = source !== undefined && source.hash === body.hash && source.count === body.count;
    if (isSame) this.#confirmed.set(owner, { at: this.#clock.now(), by: client });
    this.#send(client, encodeV1({ ...head, mode: isSame ? "ack" : "refusal" }, body));
  }

  /** Answers once, in time: with what comes of the work, or with a refusal. */
  #wait(client: Client, head: Head, work: () => Promise<Uint8Array>): void {
    client.waiting++;
    let isAnswered = false;
    const answer = (send: () => void): void => {
      if (isAnswered) return;
      isAnswered = true;
      cancel();
      client.waiting--;
      send();
    };
    const cancel = this.#clock.after(answerMs, () => answer(() => this.#refuse(client, head, "late")));
    work().then(
      (bytes) => answer(() => this.#send(client, bytes)),
      (thrown) => {
        if (!(thrown instanceof Fault)) this.#trouble(`Mapper request failed: ${messageOf(thrown)}`);
        answer(() => this.#refuse(client, head, "unmapped"));
      },
    );
  }

  #refuse(client: Client, head: Head, reason: BrokerDrop): void {
    this.#drop(reason);
    this.#send(client, encodeRefusal(head));
  }

  #send(client: Client, bytes: Uint8Array): void {
    if (!client.isOpen) return;
    try {
      client.socket.send(bytes);
      this.#answered++;
    } catch {
      this.#expel(client, "deaf");
    }
  }

  #expel(client: Client, reason: BrokerDrop): void {
    if (!client.isOpen) return;
    this.#drop(reason);
    this.#end(client);
  }

  #end(client: Client): void {
    if (!client.isOpen) return;
    client.isOpen = false;
    this.#clients.delete(client);
    client.socket.close();
    for (const confirmed of this.#confirmed.values()) {
      if (confirmed.by === client) confirmed.by = undefined;
    }
  }

  /** Lets sources go whose agent has been silent and away for long. */
  #sweep(): void {
    const now = this.#clock.now();
    for (const [owner, confirmed] of this.#confirmed) {
      if (confirmed.by !== undefined) confirmed.at = now;
      if (now - confirmed.at < sourceLifeMs) continue;
      this.#confirmed.delete(owner);
      this.#door
        .setSource(owner, [])
        .catch((thrown) => this.#trouble(`Cannot end mappings of ${owner}: ${messageOf(thrown)}`));
    }
  }

  #drop(reason: BrokerDrop): void {
    this.#drops.set(reason, (this.#drops.get(reason) ?? 0) + 1);
  }

  #trouble(line: string): void {
    this.#options.onTrouble?.(line);
  }
}

/** Under which name the mappings know a source; undefined if its names are none. */
function ownerOf(body: { readonly local: string; readonly public: string }): string | undefined {
  const isName = (text: string) => /^[!-9;-~]{1,255}$/.test(text);
  return isName(body.local) && isName(body.public) ? `${agentOwner}${body.local}:${body.public}` : undefined;
}

/** A local host that is published; undefined if that is not what a record says. */
function publishedOf({ encoded, host, context, reference }: AddressRecord): StaticRecord | undefined {
  if (encoded !== undefined || host === undefined) return undefined;
  return { kind: "ours", address: host, context, reference };
}
