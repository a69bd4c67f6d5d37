/**
 * One connection of a recording, with a program of ours in the client's place: the recorded ubusd speaks, and
 * what the program says must be what the real one said, byte for byte.
 */

import * as assert from "uvu/assert";
import { decodeMessage, MessageType } from "../../src/ubus/message.ts";
import { Memory, type Peer, settle, until } from "./memory.ts";
import { hexOf, type Line, readTranscript } from "./transcript.ts";

export interface Scene {
  /** Recording and connection. */
  readonly of: string;
  /** Real messages that our program leaves out. */
  readonly omits?: (line: Line) => boolean;
  /** What our program says instead of a recorded message; undefined or the same bytes: just that. */
  readonly instead?: (line: Line) => Uint8Array | undefined;
  /** How many messages our program says before a recorded one, to count its seq up to there. */
  readonly skips?: (line: Line) => number;
  /** What becomes of our program behind the end of the recording. */
  readonly after?: (peer: Peer, memory: Memory) => Promise<void>;
}

/** A program of ours at work. */
export interface Actor {
  /** Rejects if something else came of it than the recording says. */
  readonly played: Promise<unknown>;
  close(): void;
}

/** How messages that follow each other are cut on their way: a piece is what is read at once. */
export type Cut = (messages: readonly Uint8Array[]) => Iterable<Uint8Array>;

/** A message at a time. */
export const whole: Cut = (messages) => messages;

/** All at once. */
export const joined: Cut = (messages) =>
  messages.length > 0 ? [new Uint8Array(Buffer.concat(messages))] : [];

/** A byte at a time. */
export function* bytewise(messages: readonly Uint8Array[]): Iterable<Uint8Array> {
  for (const bytes of messages) for (let at = 0; at < bytes.length; at++) yield bytes.subarray(at, at + 1);
}

export const cuts: readonly Cut[] = [whole, joined, bytewise];

/** Plays a scene. @param act puts our program to work on a machine that reaches the recorded bus. */
export async function perform(scene: Scene, act: (memory: Memory) => Actor, cut: Cut): Promise<void> {
  const { of, omits, instead, skips, after } = scene;
  const memory = new Memory();
  const { played, close } = act(memory);
  // It is looked at below, which may be after it has failed.
  played.catch(() => {});
  const peer = await memory.peer(0);
  const lines = linesOf(of);
  assert.ok(lines.length > 0, `${of} is recorded`);
  let omitted = 0;
  let replaced = 0;
  let told: Uint8Array[] = [];
  const tell = () => {
    for (const piece of cut(told)) peer.write(piece);
    told = [];
  };
  for (const line of lines) {
    if (line.dir === "S2C") told.push(line.bytes);
    else tell();
    // Nothing of ours goes out that the bus would not take: time to be refused.
    if (line.dir === "C2S_PARTIAL") await settle();
    if (line.dir === "CLOSE_BY_UBUSD") peer.close();
    if (line.dir !== "C2S") continue;
    if (omits?.(line)) {
      omitted++;
      continue;
    }
    if (skips) await skip(peer, skips(line));
    const expected = instead?.(line) ?? line.bytes;
    if (hexOf(expected) !== hexOf(line.bytes)) replaced++;
    assert.is(hexOf(await peer.takeBytes()), hexOf(expected), `message ${line.n}`);
  }
  tell();
  await settle();
  await after?.(peer, memory);
  assert.is(peer.sent.length, 0, "nothing more is said");
  assert.ok(!omits || omitted > 0, "what may be left out is recorded");
  assert.ok(!instead || replaced > 0, "what may be said differently is recorded");
  await played;
  close();
}

async function skip(peer: Peer, count: number): Promise<void> {
  await until("the client has counted", () => peer.sent.length >= count);
  peer.sent.splice(0, count);
}

/** What was recorded of one connection. */
export function linesOf(of: string): readonly Line[] {
  const [name, conn] = of.split(" ");
  return readTranscript(name!).lines.filter((line) => line.conn === conn);
}

/** Real libubus answers events too, to nobody; ubusd drops that. */
export function answersToEvents({ bytes }: Line): boolean {
  const { type, peer } = decodeMessage(bytes);
  return type === MessageType.Status && peer === 0;
}
