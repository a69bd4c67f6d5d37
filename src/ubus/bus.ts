/**
 * A bus that speaks ubus, for machines without ubusd: its clients and its flow of bytes.
 *
 * Keeps connections, by client id once they have one, and a count of connections per user. What a message means
 * is the router's business; this module says how much of it there may be. Every client is bounded, in number,
 * in what it has us keep, and in what waits for it:
 *
 * - A client that lets answers pile up is not read from until it has read them.
 * - A client whose call, notification or event would go to somebody with a full queue waits until that one has
 *   caught up. So a flood slows its sender down and loses nothing.
 * - Somebody for whom others wait and who does not catch up within `drainMs`, and anybody whose queue passes
 *   `queueBytes`, is closed. Nothing is ever left out of a stream that goes on.
 * - When all together hold more than `totalBytes`, whoever holds most is closed.
 *
 * Answers never wait for anybody: a server that writes an answer before it reads on would wait for ever.
 */

import type { Level, Listener, Stream, StreamHandlers, System } from "../system/system.ts";
import { type AccountFiles, Accounts, type Identity } from "./accounts.ts";
import { Acl, defaultAclDirectory } from "./acl.ts";
import { composeMessage } from "./compose.ts";
import { Connection } from "./connection.ts";
import { type Frame, readU32 } from "./frame.ts";
import { MessageType } from "./message.ts";
import { Monitors } from "./monitor.ts";
import { Objects } from "./objects.ts";
import { Router, type RouterLimits, statusMessage } from "./router.ts";

/** Where everybody looks for the bus. */
export const defaultBusPath = "/var/run/ubus/ubus.sock";

export interface BusLimits extends RouterLimits {
  readonly clients: number;
  /** Of one user other than root: nobody can keep root out. */
  readonly clientsPerUser: number;
  /** Waiting for one client, before others wait for it. */
  readonly highBytes: number;
  /** Waiting for one client, before it is closed. */
  readonly queueBytes: number;
  /** Waiting for clients, and from clients, all together. */
  readonly totalBytes: number;
  /** How long others wait for a client that does not read. */
  readonly drainMs: number;
}

const defaultLimits: BusLimits = {
  messageBytes: 1 << 20,
  nameBytes: 1024,
  objects: 16384,
  objectsPerClient: 1024,
  subscriptionsPerClient: 1024,
  subscribersPerObject: 1024,
  patternsPerClient: 1024,
  keptBytesPerClient: 8 << 20,
  clients: 1024,
  clientsPerUser: 256,
  highBytes: 256 << 10,
  queueBytes: 4 << 20,
  totalBytes: 64 << 20,
  drainMs: 5000,
};

export interface BusOptions {
  /** Path of the socket; anybody may connect. */
  readonly path: string;
  /** Default /usr/share/acl.d. */
  readonly aclDirectory?: string;
  readonly accounts?: AccountFiles;
  readonly limits?: Partial<BusLimits>;
  /** Where ids come from; default is the system's randomness. */
  newId?(): number;
}

/** Why a connection was closed by us, or not taken on. */
export type CloseReason =
  | "malformed"
  | "slow"
  | "queue full"
  | "memory"
  | "too many"
  | "no account"
  | "no credentials";

export interface BusCounters {
  readonly clients: number;
  readonly objects: number;
  readonly aclRules: number;
  /** Messages taken from clients since the start. */
  readonly messages: number;
  /** Messages that somebody had to wait with, because who they were for did not read. */
  readonly waits: number;
  /** Bytes waiting for clients, and from clients. */
  readonly heldBytes: number;
  readonly closed: Readonly<Partial<Record<CloseReason, number>>>;
  readonly dropped: Readonly<Record<string, number>>;
}

export interface Bus {
  counters(): BusCounters;
  /**
   * Reads accounts and access rules again and tells listeners. Overlapping calls are done one by one.
   *
   * @throws Fault "storage" or "denied" if they cannot be read; then the old rules stay in force.
   */
  reloadAcl(): Promise<void>;
  /** Closes the socket and every connection. */
  close(): Promise<void>;
}

/**
 * Opens a bus.
 *
 * @throws Fault "conflict" if another bus serves the socket; "storage" or "denied" if it cannot be made.
 */
export async function openBus(system: System, options: BusOptions): Promise<Bus> {
  const accounts = await Accounts.open(system, options.accounts);
  try {
    const acl = new Acl({
      disk: system,
      accounts,
      directory: options.aclDirectory ?? defaultAclDirectory,
      log: (level, line) => system.log(level, line),
    });
    await acl.load();
    const hub = new Hub(system, { options, accounts, acl });
    await hub.open(options.path);
    return hub;
  } catch (thrown) {
    accounts.close();
    throw thrown;
  }
}

interface Parts {
  readonly options: BusOptions;
  readonly accounts: Accounts;
  readonly acl: Acl;
}

class Hub implements Bus {
  readonly #system: System;
  readonly #accounts: Accounts;
  readonly #acl: Acl;
  readonly #limits: BusLimits;
  readonly #objects: Objects<Connection>;
  readonly #router: Router;
  /** All, also those that have not been told their id yet. */
  readonly #connections = new Set<Connection>();
  readonly #clients = new Map<number, Connection>();
  readonly #clientsOf = new Map<number, number>();
  readonly #monitors: Monitors;
  /** With collected messages. */
  #dirty: Connection[] = [];
  /** To be taken apart. */
  readonly #doomed: Connection[] = [];
  readonly #closed = new Map<CloseReason, number>();
  readonly #dropped = new Map<string, number>();
  readonly #loggedAt = new Map<CloseReason, number>();
  #listener: Listener | undefined;
  /** Whose request is being worked on. */
  #sender: Connection | undefined;
  #settling = false;
  #messages = 0;
  #waits = 0;
  #heldBytes = 0;
  #reloading: Promise<void> = Promise.resolve();

  constructor(system: System, { options, accounts, acl }: Parts) {
    this.#system = system;
    this.#accounts = accounts;
    this.#acl = acl;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#objects = new Objects(options.newId ?? randomIds(system));
    const drop = (reason: string) => {
      this.#dropped.set(reason, (this.#dropped.get(reason) ?? 0) + 1);
    };
    const { messageBytes } = this.#limits;
    this.#monitors = new Monitors({ messageBytes, drop, put: (to, bytes) => this.#put(to, bytes) });
    this.#router = new Router({
      acl,
      objects: this.#objects,
      monitors: this.#monitors,
      clients: this.#clients,
      limits: this.#limits,
      send: (to, bytes) => this.#send(to, bytes),
      drop,
    });
    this.#router.announceAcl();
  }

  async open(path: string): Promise<void> {
    const directory = path.startsWith("@") ? "" : path.slice(0, path.lastIndexOf("/"));
    if (directory !== "") await this.#system.makeDirectory(directory, 0o755);
    const accept = (stream: Stream) => this.#accept(stream);
    this.#listener = await this.#system.listen(path, { mode: 0o666, accept });
  }

  counters(): BusCounters {
    return {
      clients: this.#connections.size,
      objects: this.#objects.size,
      aclRules: this.#acl.count,
      messages: this.#messages,
      waits: this.#waits,
      heldBytes: this.#heldBytes,
      closed: Object.fromEntries(this.#closed),
      dropped: Object.fromEntries(this.#dropped),
    };
  }

  reloadAcl(): Promise<void> {
    const reloaded = this.#reloading.then(async () => {
      await this.#accounts.load();
      await this.#acl.load();
      this.#router.announceAcl();
      this.#settle();
    });
    this.#reloading = reloaded.catch(() => {});
    return reloaded;
  }

  async close(): Promise<void> {
    this.#accounts.close();
    for (const client of [...this.#connections]) this.#doom(client);
    this.#settle();
    await this.#listener?.close();
  }

  #accept(stream: Stream): StreamHandlers | undefined {
    const { peer } = stream;
    const refused = this.#reasonToRefuse(peer?.uid);
    if (!peer || refused) {
      this.#count(refused ?? "no credentials");
      return undefined;
    }
    const { messageBytes, highBytes } = this.#limits;
    const client = new Connection(stream, { uid: peer.uid, gid: peer.gid, messageBytes, highBytes });
    this.#connections.add(client);
    this.#clientsOf.set(peer.uid, (this.#clientsOf.get(peer.uid) ?? 0) + 1);
    const known = this.#accounts.known(peer);
    if (known) {
      this.#welcome(client, known);
    } else {
      stream.pause();
      this.#accounts
        .identify(peer)
        .catch(() => undefined)
        .then((identity) => {
          if (client.gone) return;
          if (!identity) return this.#expel(client, "no account");
          this.#welcome(client, identity);
          stream.resume();
        });
    }
    return {
      onBytes: (bytes) =>
        this.#read(client, () => client.reader.push(bytes, (frame) => this.#take(client, frame))),
      onDrain: () => this.#drained(client),
      onClose: () => {
        this.#doom(client);
        this.#settle();
      },
    };
  }

  #reasonToRefuse(uid: number | undefined): CloseReason | undefined {
    if (uid === undefined) return "no credentials";
    const { clients, clientsPerUser } = this.#limits;
    const mine = this.#clientsOf.get(uid) ?? 0;
    if (uid !== 0 && mine >= clientsPerUser) return "too many";
    return this.#connections.size >= clients ? "too many" : undefined;
  }

  #welcome(client: Connection, identity: Identity): void {
    client.introduce(identity);
    client.id = this.#objects.freeId(this.#clients);
    this.#clients.set(client.id, client);
    this.#send(client, composeMessage({ type: MessageType.Hello, seq: 0, peer: client.id }, []));
    this.#settle();
  }

  /** Has a client's reader offer messages, and sees to what follows from them. */
  #read(client: Connection, offer: () => void): void {
    try {
      if (!client.gone) offer();
    } catch (thrown) {
      if (!(thrown instanceof SyntaxError)) throw thrown;
      this.#expel(client, "malformed");
    }
    this.#account(client);
    this.#settle();
  }

  /** Does what a message asks. @returns false if it has to wait. */
  #take(client: Connection, frame: Frame): boolean {
    if (client.gone || client.waitsFor) return false;
    const isAnswer = frame.type === MessageType.Status || frame.type === MessageType.Data;
    const busy = isAnswer ? undefined : this.#busyFor(client, frame);
    if (busy) {
      this.#wait(client, busy);
      return false;
    }
    this.#messages++;
    if (this.#monitors.any) {
      this.#monitors.see(client, frame.bytes.subarray(frame.start, frame.end), false);
    }
    this.#sender = isAnswer ? undefined : client;
    const status = this.#router.handle(client, frame);
    this.#sender = undefined;
    if (status !== undefined) this.#send(client, statusMessage(frame, status));
    return true;
  }

  /** Whose full queue a request has to wait for. */
  #busyFor(client: Connection, frame: Frame): Connection | undefined {
    // Whoever has asked for more than it reads waits for itself.
    if (client.lookup || client.full) return client;
    const { filled } = client;
    client.filled = undefined;
    if (filled && !filled.gone && filled.full) return filled;
    return this.#router.fullReceiverOf(client, frame);
  }

  #wait(client: Connection, busy: Connection): void {
    this.#waits++;
    client.stream.pause();
    client.waitsFor = busy;
    busy.waiters.push(client);
    this.#hurry(busy);
  }

  /** Gives a client for whom others wait a time to catch up. */
  #hurry(busy: Connection): void {
    busy.deadline ??= this.#system.after(this.#limits.drainMs, () => {
      this.#expel(busy, "slow");
      this.#settle();
    });
  }

  /** All that waited for a client has been taken: those who wait for it go on, in turn. */
  #drained(client: Connection): void {
    if (client.gone) return;
    client.deadline?.();
    client.deadline = undefined;
    this.#router.continueLookup(client);
    this.#goOn(client);
    this.#account(client);
    this.#settle();
  }

  #goOn(busy: Connection): void {
    const { waiters } = busy;
    for (let left = waiters.length; left > 0 && (busy.gone || !busy.full); left--) {
      const client = waiters.shift()!;
      client.waitsFor = undefined;
      this.#read(client, () => client.reader.resume((frame) => this.#take(client, frame)));
      if (!client.waitsFor && !client.gone) client.stream.resume();
    }
    if (waiters.length > 0) this.#hurry(busy);
  }

  #send(to: Connection, bytes: Uint8Array): void {
    if (to.gone) return;
    if (this.#monitors.any) this.#monitors.see(to, bytes, true);
    this.#put(to, bytes);
    const sender = this.#sender;
    if (sender && sender !== to && to.full) sender.filled = to;
  }

  #put(to: Connection, bytes: Uint8Array): void {
    if (to.gone) return;
    if (!to.dirty) this.#dirty.push(to);
    to.put(bytes);
    // One message may become a thousand: they count at once.
    if (to.pendingBytes > this.#limits.queueBytes) this.#expel(to, "queue full");
    else if (bytes.length > this.#limits.highBytes) this.#account(to);
  }

  /** Closes a connection for a reason. */
  #expel(client: Connection, reason: CloseReason): void {
    if (client.gone) return;
    this.#count(reason);
    const now = this.#system.now();
    const level: Level = reason === "malformed" ? "info" : "warning";
    if (now - (this.#loggedAt.get(reason) ?? Number.NEGATIVE_INFINITY) >= 1000) {
      this.#loggedAt.set(reason, now);
      const who = client.user === "" ? `uid ${client.uid}` : client.user;
      const pid = client.stream.peer?.pid ?? 0;
      this.#system.log(level, `Closed a client of the bus: ${reason} (${who}, process ${pid})`);
    }
    this.#doom(client);
  }

  /** Marks a connection as closed; it is taken apart when nobody is in the middle of anything. */
  #doom(client: Connection): void {
    if (client.gone) return;
    client.gone = true;
    client.stream.close();
    this.#heldBytes -= client.countedBytes;
    client.countedBytes = 0;
    this.#doomed.push(client);
  }

  #dismantle(client: Connection): void {
    client.deadline?.();
    this.#connections.delete(client);
    this.#clients.delete(client.id);
    this.#monitors.remove(client);
    const left = this.#clientsOf.get(client.uid)! - 1;
    if (left > 0) this.#clientsOf.set(client.uid, left);
    else this.#clientsOf.delete(client.uid);
    client.leaveQueue();
    this.#router.leave(client);
    this.#goOn(client);
  }

  /** Writes what was collected and takes apart what is closed, until nothing of that is left. */
  #settle(): void {
    if (this.#settling) return;
    this.#settling = true;
    try {
      while (this.#doomed.length > 0 || this.#dirty.length > 0) {
        const dirty = this.#dirty;
        this.#dirty = [];
        for (const client of dirty) {
          if (client.gone) continue;
          client.flush();
          if (client.pendingBytes > 0 || client.countedBytes > 0) this.#account(client);
        }
        const doomed = this.#doomed.shift();
        if (doomed) this.#dismantle(doomed);
      }
    } finally {
      this.#settling = false;
    }
  }

  /** Counts the memory that a client makes us hold; settling is left to the caller. */
  #account(client: Connection): void {
    if (client.gone) return;
    const bytes = client.pendingBytes + client.reader.heldBytes;
    this.#heldBytes += bytes - client.countedBytes;
    client.countedBytes = bytes;
    while (this.#heldBytes > this.#limits.totalBytes) {
      let most = client;
      for (const other of this.#connections) if (other.countedBytes > most.countedBytes) most = other;
      this.#expel(most, "memory");
    }
  }

  #count(reason: CloseReason): void {
    this.#closed.set(reason, (this.#closed.get(reason) ?? 0) + 1);
  }
}

/** Random 32-bit numbers, a page of them at a time. */
function randomIds(system: System): () => number {
  let bytes: Uint8Array = new Uint8Array(0);
  let at = 0;
  return () => {
    if (at >= bytes.length) {
      bytes = system.random(256);
      at = 0;
    }
    at += 4;
    return readU32(bytes, at - 4);
  };
}
