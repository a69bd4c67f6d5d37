/**
 * Boot texts: what the boot script loads without us, each with a copy, in the state directory.
 *
 * Keeps by path the text that lies there, as far as it was read or written here: what lay there at start is looked at
 * once, and what is there already is not written again.
 */

import { sameBytes } from "../lib/bytes.ts";
import type { System } from "../system/system.ts";

/** Without it at its end, the boot script takes a boot text for cut off and loads the copy. */
const lastLine = "# complete";
const copySuffix = ".copy";

export class BootTexts {
  readonly #system: System;
  readonly #directory: string;
  readonly #stored = new Map<string, string>();

  /** @param directory absolute; made when it is needed. */
  constructor(system: System, directory: string) {
    this.#system = system;
    this.#directory = directory;
  }

  /** Writes those that differ from what lies there. @throws Fault if the disk refuses. */
  async save(texts: ReadonlyMap<string, string>): Promise<void> {
    await this.#system.makeDirectory(this.#directory, 0o700);
    for (const [name, rules] of texts) {
      const text = `${rules}${lastLine}\n`;
      for (const path of this.#paths(name)) {
        if (this.#stored.get(path) === text) continue;
        const bytes = new TextEncoder().encode(text);
        const known = this.#stored.delete(path);
        const present = known ? undefined : await this.#system.read(path).catch(() => undefined);
        if (!present || !sameBytes(present, bytes)) await this.#system.replace(path, bytes, { mode: 0o600 });
        this.#stored.set(path, text);
      }
    }
  }

  /** What lies there under a name, or else in its copy; "" if nothing does. */
  async read(name: string): Promise<string> {
    for (const path of this.#paths(name)) {
      const bytes = await this.#system.read(path).catch(() => undefined);
      const text = bytes ? new TextDecoder().decode(bytes) : "";
      if (text.endsWith(`${lastLine}\n`)) return text;
    }
    return "";
  }

  /** @throws Fault if the disk refuses. */
  async remove(name: string): Promise<void> {
    for (const path of this.#paths(name)) {
      this.#stored.delete(path);
      await this.#system.remove(path);
    }
  }

  #paths(name: string): readonly string[] {
    const path = `${this.#directory}/${name}`;
    return [path, `${path}${copySuffix}`];
  }
}
