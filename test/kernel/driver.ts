/** Whoever runs party.ts in a namespace: starts it, tells it what to try, and gets the outcomes. */

import { type ChildProcess, spawn } from "node:child_process";
import { LineReader } from "../lab/children.ts";
import type { Outcome, Try } from "./party.ts";

export class Party {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (outcome: Outcome) => void>();
  readonly ready: Promise<Outcome>;
  #count = 0;

  constructor(name: string, program: string) {
    this.#child = spawn("ip", ["netns", "exec", name, process.execPath, program, "party"], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.ready = new Promise((resolve) => this.#waiting.set(0, resolve));
    const lines = new LineReader((line) => {
      const outcome = JSON.parse(line) as Outcome;
      this.#waiting.get(outcome.id)?.(outcome);
      this.#waiting.delete(outcome.id);
    });
    this.#child.stdout!.setEncoding("utf8").on("data", (chunk: string) => lines.push(chunk));
  }

  try(given: Omit<Try, "id">): Promise<Outcome> {
    const id = ++this.#count;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#child.stdin!.write(`${JSON.stringify({ id, ...given })}\n`);
    });
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#child.on("exit", () => resolve());
      this.#child.stdin!.end();
    });
  }
}
