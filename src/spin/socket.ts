/**
 * SPIN's unix socket: JSON-RPC for whoever may open it.
 *
 * Keeps the conversations, how many each user has, and counts. Whom the file's mode lets in must also be one of
 * these: root, who we run as, the owner of the file, one whose primary group is that of the file, or a user or
 * group of the configuration; the kernel tells who it is. (It does not tell further groups: a user who is in the
 * file's group by one of those is to be listed.) All others are closed without a word and counted. Every bound
 * holds for each client alone, so no client can keep another from its answers.
 */

import type { Clock, Credentials, Disk, Listener, Sockets, Stream, System } from "../system/system.ts";
import { Conversation, type ConversationCounters, type ConversationLimits } from "./conversation.ts";
import { maxRequestBytes, type Rpc } from "./rpc.ts";

export interface RpcSocketOptions extends Partial<Omit<ConversationLimits, "maxRequestBytes">> {
  /** The socket file; "@name" is an abstract name, which has no mode and no owner. */
  readonly path: string;
  /** Permission bits of the file. Default 0660. */
  readonly mode?: number;
  /** Users and groups who may talk beside root and the file's own. */
  readonly uids?: readonly number[];
  readonly gids?: readonly number[];
  /** Connections at once, in all and of one user. Defaults 64 and 32. */
  readonly maxConnections?: number;
  readonly maxPerUid?: number;
}

export interface RpcSocketCounters extends Readonly<ConversationCounters> {
  /** Connections that stand. */
  readonly connections: number;
  /** Clients who may not talk, and clients for whom there was no room. */
  readonly denied: number;
  readonly crowded: number;
}

type Machine = Clock & Pick<Sockets, "listen"> & Pick<Disk, "stat"> & Pick<System, "self">;

const defaults: ConversationLimits = {
  maxRequestBytes,
  maxUnderWay: 256,
  partialMs: 5_000,
  drainMs: 10_000,
  lingerMs: 500,
  lineLingerMs: 10_000,
};
const tickMs = 1_000;

/** Serves a door. @throws Fault as Sockets.listen, "conflict" if somebody else serves the socket. */
export async function openRpcSocket(
  system: Machine,
  rpc: Rpc,
  options: RpcSocketOptions,
): Promise<RpcSocket> {
  const socket = new RpcSocket(system, rpc, options);
  await socket.open();
  return socket;
}

export class RpcSocket {
  readonly #system: Machine;
  readonly #rpc: Rpc;
  readonly #options: RpcSocketOptions;
  readonly #limits: ConversationLimits;
  readonly #conversations = new Map<Conversation, number>();
  readonly #byUid = new Map<number, number>();
  readonly #counters: ConversationCounters = { requests: 0, broken: 0, slow: 0 };
  #denied = 0;
  #crowded = 0;
  #listener: Listener | undefined;
  #cancelTick: (() => void) | undefined;
  #isClosed = false;

  constructor(system: Machine, rpc: Rpc, options: RpcSocketOptions) {
    this.#system = system;
    this.#rpc = rpc;
    this.#options = options;
    this.#limits = { ...defaults, ...options };
  }

  async open(): Promise<void> {
    const { path, mode = 0o660 } = this.#options;
    this.#listener = await this.#system.listen(path, { mode, accept: (stream) => this.#accept(stream) });
  }

  get counters(): RpcSocketCounters {
    return {
      ...this.#counters,
      connections: this.#conversations.size,
      denied: this.#denied,
      crowded: this.#crowded,
    };
  }

  /** Stops listening, and closes every connection. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#listener?.close();
    for (const conversation of this.#conversations.keys()) conversation.close();
  }

  #accept(stream: Stream): Conversation | undefined {
    const { peer } = stream;
    if (this.#isClosed) return undefined;
    if (peer === undefined) {
      this.#denied++;
      return undefined;
    }
    const { maxConnections = 64, maxPerUid = 32 } = this.#options;
    const ofUid = this.#byUid.get(peer.uid) ?? 0;
    if (this.#conversations.size >= maxConnections || ofUid >= maxPerUid) {
      this.#crowded++;
      return undefined;
    }
    const conversation: Conversation = new Conversation(this.#system, stream, {
      rpc: this.#rpc,
      limits: this.#limits,
      counters: this.#counters,
      closed: () => this.#forget(conversation, peer.uid),
    });
    this.#conversations.set(conversation, peer.uid);
    this.#byUid.set(peer.uid, ofUid + 1);
    this.#cancelTick ??= this.#system.every(tickMs, () => this.#tick());
    void this.#check(conversation, peer);
    return conversation;
  }

  async #check(conversation: Conversation, peer: Credentials): Promise<void> {
    if (await this.#mayTalk(peer)) return conversation.admit();
    this.#denied++;
    conversation.close();
  }

  async #mayTalk({ uid, gid }: Credentials): Promise<boolean> {
    const { path, uids = [], gids = [] } = this.#options;
    if (uid === 0 || uid === this.#system.self.uid || uids.includes(uid) || gids.includes(gid)) return true;
    if (path.startsWith("@")) return false;
    // Asked each time: who installs us may hand the file to a group after we made it.
    const file = await this.#system.stat(path).catch(() => undefined);
    return file !== undefined && (file.uid === uid || file.gid === gid);
  }

  #tick(): void {
    const now = this.#system.now();
    for (const conversation of this.#conversations.keys()) conversation.tick(now);
  }

  #forget(conversation: Conversation, uid: number): void {
    this.#conversations.delete(conversation);
    const left = this.#byUid.get(uid)! - 1;
    if (left > 0) this.#byUid.set(uid, left);
    else this.#byUid.delete(uid);
    if (this.#conversations.size > 0) return;
    this.#cancelTick?.();
    this.#cancelTick = undefined;
  }
}
