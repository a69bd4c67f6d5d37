/**
 * One client as the bus holds it: who it is, what it may still send, what waits for it.
 *
 * Messages to a client are collected while the bus works through what came in, and handed to the kernel
 * together: one write, not one per message. What the kernel does not take waits in the stream. A connection with
 * more waiting than `highBytes` is *full*: clients whose next message would go to it wait in its `waiters`, not
 * read from, until all has been taken, or it is closed for taking too long.
 */

import type { Cancel, Stream } from "../system/system.ts";
import type { Identity } from "./accounts.ts";
import type { Subject } from "./acl.ts";
import { encodeName, joined } from "./compose.ts";
import { FrameReader } from "./frame.ts";
import { Attribute } from "./message.ts";
import type { BusObject } from "./objects.ts";

/** More than this is written at once, not collected further. */
const gatherBytes = 65536;

/** A lookup that waits for room in the queue of who asked. */
export interface Lookup {
  readonly seq: number;
  readonly peer: number;
  /** What paths have to begin with. */
  readonly prefix: string;
  /** The path told last; undefined at the beginning. */
  told: string | undefined;
}

export class Connection implements Subject {
  readonly uid: number;
  readonly gid: number;
  readonly stream: Stream;
  readonly reader: FrameReader;
  /** In the order they were added. */
  readonly objects = new Set<BusObject<Connection>>();
  /** Zero until the client has been told its id. */
  id = 0;
  user = "";
  group = "";
  moreGids: readonly number[] = [];
  /** Its USER and GROUP attributes, as servers get them. */
  caller: Uint8Array = new Uint8Array(0);
  /** Closed, or about to be; nothing is sent or taken any more. */
  gone = false;
  subscriptions = 0;
  patterns = 0;
  /** Bytes of paths, signatures and patterns that it has us keep. */
  keptBytes = 0;
  /** Messages told to it as a monitor. */
  sightings = 0;
  lookup: Lookup | undefined;
  /** Whose queue was full after the last request; the next one waits for it. */
  filled: Connection | undefined;
  /** Whose queue its next message waits for. */
  waitsFor: Connection | undefined;
  readonly waiters: Connection[] = [];
  /** Set while somebody waits. */
  deadline: Cancel | undefined;
  /** Memory that was last counted for it. */
  countedBytes = 0;
  readonly #highBytes: number;
  #pieces: Uint8Array[] = [];
  #pieceBytes = 0;

  constructor(
    stream: Stream,
    options: { uid: number; gid: number; messageBytes: number; highBytes: number },
  ) {
    this.stream = stream;
    this.uid = options.uid;
    this.gid = options.gid;
    this.reader = new FrameReader(options.messageBytes);
    this.#highBytes = options.highBytes;
  }

  /** Sets who it is, as far as servers are told. */
  introduce({ user, group, moreGids }: Identity): void {
    this.user = user;
    this.group = group;
    this.moreGids = moreGids;
    this.caller = joined([encodeName(Attribute.User, user), encodeName(Attribute.Group, group)]);
  }

  /** Whether something is collected and not yet written. */
  get dirty(): boolean {
    return this.#pieceBytes > 0;
  }

  /** Bytes collected, and written but not taken by the kernel. */
  get pendingBytes(): number {
    return this.#pieceBytes + this.stream.queuedBytes;
  }

  /** Whether the kernel leaves more waiting than it should; what was collected is written to find out. */
  get full(): boolean {
    if (this.pendingBytes <= this.#highBytes) return false;
    this.flush();
    return this.stream.queuedBytes > this.#highBytes;
  }

  /** Collects a message. */
  put(bytes: Uint8Array): void {
    this.#pieces.push(bytes);
    this.#pieceBytes += bytes.length;
    if (this.#pieceBytes > gatherBytes) this.flush();
  }

  /** Writes what was collected. */
  flush(): void {
    const pieces = this.#pieces;
    if (pieces.length === 0) return;
    this.#pieces = [];
    this.#pieceBytes = 0;
    this.stream.write(pieces.length === 1 ? pieces[0]! : joined(pieces));
  }

  /** Stops waiting for somebody's queue. */
  leaveQueue(): void {
    const waiters = this.waitsFor?.waiters;
    if (waiters) waiters.splice(waiters.indexOf(this), 1);
    this.waitsFor = undefined;
  }
}
