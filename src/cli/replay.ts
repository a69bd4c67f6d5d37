/**
 * `gatehouse replay`: what a capture file tells, without touching this machine's network.
 *
 * With -e it tells an external source's socket what passed, at the capture's own pace or with -R as fast as can
 * be; that may be the running agent's socket, or SPIN's. Without -e it works the file out by itself and prints
 * nodes and flows. Either way an answer of DNS counts only if the file shows its question, and what was read
 * before damage counts.
 */

import { type Conversation, Conversations } from "../capture/capture.ts";
import { type Address, type Mac, type Prefix, parsePrefix } from "../lib/address.ts";
import type { ExternalMessage } from "../lib/extsrc.ts";
import type { JsonObject } from "../lib/json.ts";
import { PcapReader } from "../lib/pcap.ts";
import type { TapOutcome } from "../nodes/nodes.ts";
import type { System } from "../system/system.ts";
import { fieldsOf } from "../ubus/ubus.ts";
import { formatFields } from "./print.ts";
import { Review } from "./review.ts";
import { Sender } from "./sender.ts";
import { formatReview } from "./table.ts";
import type { Context, Verb } from "./verb.ts";

/** Bytes from outside, piece by piece. */
export interface ByteInput {
  /** A piece is valid until the next is asked for. */
  readonly pieces: AsyncIterable<Uint8Array>;
  /** No more are wanted: a piece that is waited for ends or fails. */
  close(): void;
}

interface Wish {
  /** "-" is standard input. */
  readonly file: string;
  readonly socket: string | undefined;
  readonly isFast: boolean;
  readonly prefixes: readonly Prefix[];
  readonly isJson: boolean;
}

const synopsis = "replay FILE [-e SOCKET [-R]] [-l PREFIX]… [--json]";
const privatePrefixes = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
/** What has been seen is told before a pause of the capture that is longer. */
const pauseMs = 1_000;

/** The verb, with where standard input comes from. */
export function replayVerb(stdin: () => ByteInput): Verb {
  return {
    synopsis,
    summary: "what a capture file tells: nodes and flows, or messages to an external source's socket",
    async run(args, context) {
      const wish = parseWish(args);
      const { system } = context;
      const sender = wish.socket === undefined ? undefined : new Sender(system, wish.socket);
      try {
        const input = wish.file === "-" ? stdin() : { pieces: system.readPieces(wish.file), close: () => {} };
        return await new Replay(wish, { context, sender, input }).run();
      } finally {
        sender?.close();
      }
    },
  };
}

class Replay {
  readonly #wish: Wish;
  readonly #context: Context;
  readonly #sender: Sender | undefined;
  readonly #input: ByteInput;
  readonly #review: Review;
  readonly #conversations: Conversations;
  readonly #reader = new PcapReader();
  readonly #stop: Promise<void>;
  #isStopped = false;
  #cancelSignal = () => {};
  /** Where the capture's clock and ours were together. */
  #start: { readonly date: number; readonly now: number } | undefined;

  constructor(
    wish: Wish,
    parts: { readonly context: Context; readonly sender: Sender | undefined; readonly input: ByteInput },
  ) {
    this.#wish = wish;
    this.#context = parts.context;
    this.#sender = parts.sender;
    this.#input = parts.input;
    this.#review = new Review(wish.prefixes);
    this.#conversations = new Conversations({
      isLocal: (address) => this.#review.isLocal(address),
      neighbour: (neighbour) => this.#neighbour(neighbour),
      dns: (packet) => this.#tellNames(this.#review.dns(packet)),
      conversation: (each) => this.#conversation(each),
    });
    this.#stop = new Promise((resolve) => {
      this.#cancelSignal = parts.context.io.onSignal(() => {
        this.#isStopped = true;
        this.#input.close();
        resolve();
      });
    });
  }

  /** @returns the exit status. @throws Fault of the file or the socket. */
  async run(): Promise<number> {
    let damage: SyntaxError | undefined;
    try {
      await this.#read();
    } catch (thrown) {
      if (!(thrown instanceof SyntaxError)) throw thrown;
      damage = thrown;
    } finally {
      this.#cancelSignal();
    }
    this.#conversations.flush();
    await this.#sender?.drain();
    await this.#report();
    if (damage) this.#context.io.stderr(`gatehouse: ${damage.message}\n`);
    return damage ? 1 : 0;
  }

  async #read(): Promise<void> {
    try {
      for await (const piece of this.#input.pieces) {
        for (const packet of this.#reader.read(piece)) {
          if (packet.date !== undefined) {
            await this.#wait(packet.date);
            this.#review.setDate(packet.date);
          }
          if (this.#isStopped) return;
          this.#conversations.take(packet);
          await this.#sender?.drain();
        }
      }
    } catch (thrown) {
      // Whoever was waited for has been sent away.
      if (this.#isStopped) return;
      throw thrown;
    }
    if (!this.#isStopped) this.#reader.end();
  }

  /** Until it is time for a packet of this date. */
  async #wait(date: number): Promise<void> {
    const { system } = this.#context;
    if (!this.#sender || this.#wish.isFast) return;
    // Where the capture's clock was set back, it goes on from there.
    if (!this.#start || date < this.#start.date) this.#start = { date, now: system.now() };
    const waitMs = date - this.#start.date - (system.now() - this.#start.now);
    if (waitMs < 1) return;
    if (waitMs > pauseMs) {
      this.#conversations.flush();
      await this.#sender.drain();
    }
    await Promise.race([pause(system, waitMs), this.#stop]);
  }

  #neighbour(neighbour: { readonly address: Address; readonly mac: Mac }): void {
    this.#review.neighbour(neighbour);
    this.#sender?.tell({ kind: "neighbour", neighbour });
  }

  #tellNames(outcomes: readonly TapOutcome[]): void {
    for (const outcome of outcomes) {
      for (const message of messagesOf(outcome)) this.#sender?.tell(message);
    }
  }

  #conversation(each: Conversation): void {
    if (!this.#sender) {
      this.#review.conversation(each);
      return;
    }
    const { source, destination, protocol, sourcePort, destinationPort, icmpType } = each;
    const ends = { source, destination, protocol, sourcePort, destinationPort, icmpType };
    const bytes = BigInt(each.bytesOut + each.bytesIn);
    const packets = BigInt(each.packetsOut + each.packetsIn);
    this.#sender.tell({ kind: "packet", packet: { ...ends, bytes, packets } });
  }

  async #report(): Promise<void> {
    const { io, flags } = this.#context;
    const { packets, unspoken } = this.#conversations.counters;
    if (this.#sender) {
      io.stderr(`${packets} packets read, ${this.#sender.sent} messages sent\n`);
      return;
    }
    const { strangers, flowCount } = this.#review;
    const [nodes, flows] = [await this.#review.nodes(), await this.#review.flows()];
    const answer: JsonObject = { nodes, flows, total: flowCount, packets, unspoken, strangers };
    if (this.#wish.isJson) io.stdout(`${formatFields(fieldsOf(answer), { indent: !flags.simple })}\n`);
    else io.stdout(formatReview({ nodes, flows }));
    const silent = Object.values(unspoken).reduce((sum, each) => sum + each, 0);
    io.stderr(`${packets} packets read, ${silent} of them in no conversation\n`);
    if (strangers > 0) io.stderr(`${strangers} conversations of other networks left out: see -l\n`);
  }
}

/** Questions of clients, and the answers to them that were seen to fit. */
function messagesOf(outcome: TapOutcome): ExternalMessage[] {
  if (outcome.kind === "query" && outcome.nodes) {
    const { client, name } = outcome.query;
    return [{ kind: "query", query: { client, name } }];
  }
  if (outcome.kind !== "answer" || outcome.became !== "taken") return [];
  const { name, answers } = outcome.answer;
  return answers.map((each) => ({ kind: "answer", answer: { name, ...each } }));
}

function pause(system: System, delayMs: number): Promise<void> {
  return new Promise((resolve) => system.after(delayMs, resolve));
}

/** @throws SyntaxError with one line for the user. */
function parseWish(args: readonly string[]): Wish {
  const files: string[] = [];
  const prefixes: Prefix[] = [];
  let socket: string | undefined;
  let isFast = false;
  let isJson = false;
  for (let at = 0; at < args.length; at++) {
    const arg = args[at]!;
    const value = () => {
      const text = args[++at];
      if (text === undefined) throw new SyntaxError(`${arg} needs a value`);
      return text;
    };
    if (arg === "-R") isFast = true;
    else if (arg === "--json") isJson = true;
    else if (arg === "-e") socket = value();
    else if (arg === "-l") prefixes.push(prefix(value()));
    else if (/^-./.test(arg)) throw new SyntaxError(`there is no flag ${arg}`);
    else files.push(arg);
  }
  const [file] = files;
  if (file === undefined || files.length > 1) throw new SyntaxError("replay wants one file");
  if (socket !== undefined && isJson) throw new SyntaxError("--json prints what -e sends away");
  if (prefixes.length === 0) prefixes.push(...privatePrefixes.map(prefix));
  return { file, socket, isFast, prefixes, isJson };
}

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text);
  if (parsed === undefined) throw new SyntaxError(`-l wants a prefix, not "${text}"`);
  return parsed;
}
