/** What a broker remembers: one subscriber that stays, and is told of each change, in place of many that ask. */

import type { ChildProcess } from "node:child_process";
import { LineReader } from "./children.ts";
import type { Lab } from "./network.ts";

export class Retained {
  /** Topic → payload. */
  readonly messages = new Map<string, string>();
  readonly #lab: Lab;
  readonly #topic: string;
  #child: ChildProcess;

  constructor(lab: Lab, topic: string) {
    this.#lab = lab;
    this.#topic = topic;
    this.#child = this.#subscribe();
  }

  /** Asks a broker that was started anew, and forgets what the one before remembered. */
  again(): void {
    this.end();
    this.messages.clear();
    this.#child = this.#subscribe();
  }

  end(): void {
    this.#child.stdout!.removeAllListeners("data");
    this.#child.kill("SIGKILL");
  }

  #subscribe(): ChildProcess {
    // The protocol's fifth version says of what is published now, too, whether it is to be remembered.
    const argv = ["mosquitto_sub", "-V", "5", "--retain-as-published", "-F", "%r %t %p", "-t", this.#topic];
    const child = this.#lab.spawn("router", argv, { stdio: ["ignore", "pipe", "ignore"] });
    const lines = new LineReader((line) => {
      const [, flag, topic, payload] = /^([01]) (\S+) (.*)$/.exec(line) ?? [];
      if (flag !== "1") return;
      if (payload === "") this.messages.delete(topic!);
      else this.messages.set(topic!, payload!);
    });
    child.stdout!.setEncoding("utf8").on("data", (text: string) => lines.push(text));
    return child;
  }
}
