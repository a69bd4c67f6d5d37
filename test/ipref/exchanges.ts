/** Recorded exchanges on the mapper socket of the Go gateway: requests with what it answered. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Exchange {
  readonly title: string;
  readonly request: Uint8Array;
  /** undefined: nothing within a second. */
  readonly answer: Uint8Array | undefined;
}

const read = (name: string) => readFileSync(join("test/ipref/fixtures/v1", name), "utf8");
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));

/** Through a proxy between an unmodified program and the gateway. */
export function recorded(name: string): Exchange[] {
  const lines = read(name).trim().split("\n");
  const exchanges: Exchange[] = [];
  for (let at = 0; at + 3 < lines.length; at += 4) {
    exchanges.push({
      title: `${name} ${lines[at]!.trim()}`,
      request: bytesOf(lines[at + 1]!),
      answer: bytesOf(lines[at + 3]!),
    });
  }
  return exchanges;
}

/** Written by hand; the number is that in front of its title. */
export function handMade(): Map<number, Exchange> {
  const found = new Map<number, Exchange>();
  for (const part of read("hand-made-requests.txt").split(/^## /m).slice(1)) {
    const lines = part.split("\n");
    if (lines[1]?.startsWith("->") !== true) continue;
    const answer = bytesOf(lines[4] ?? "");
    found.set(Number.parseInt(part, 10), {
      title: lines[0]!,
      request: bytesOf(lines[2]!),
      answer: answer.length > 0 ? answer : undefined,
    });
  }
  return found;
}
