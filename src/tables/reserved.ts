/**
 * Numbers of tables that are somebody else's by the machine's configuration, whether in use now or not.
 *
 * Kept: the numbers in iproute2's rt_tables and in the network configuration (`ip4table`, `ip6table`, `lookup`), read
 * again when the files change. Always: those of the kernel (0, 253 to 255), of mwan3 (1 to 250), of strongSwan (220),
 * and, where pbr is, those that it takes next: it counts on from the highest number in rt_tables.
 */

import type { Cancel, Disk } from "../system/system.ts";

const directories = ["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/iproute2"];
const networkConfig = "/etc/config/network";
const maxFileBytes = 1024 * 1024;
/** mwan3's are 1 to 250, strongSwan's 220, the kernel's 253 to 255; 251 and 252 have names in some places. */
const lowest = 256;
/** Tables that pbr may make before we look again. */
const pbrAhead = 32;

export class Reserved {
  readonly #disk: Disk;
  readonly #root: string;
  readonly #cancels: Cancel[] = [];
  #numbers: ReadonlySet<number> = new Set();
  #changed = false;

  /** @param root where the machine's files are; "" but for tests. */
  constructor(disk: Disk, root = "") {
    this.#disk = disk;
    this.#root = root;
  }

  /** Reads the files, now and whenever they change. Files that are not there or make no sense reserve nothing. */
  async open(): Promise<void> {
    await this.#read();
    const reread = () => {
      this.#changed = true;
      void this.#read();
    };
    for (const path of [...directories, networkConfig]) {
      this.#cancels.push(this.#disk.watch(`${this.#root}${path}`, reread));
    }
  }

  close(): void {
    for (const cancel of this.#cancels.splice(0)) cancel();
  }

  has(table: number): boolean {
    return table < lowest || this.#numbers.has(table);
  }

  async #read(): Promise<void> {
    this.#changed = false;
    const names = new Map<string, number>();
    for (const directory of directories.map((each) => `${this.#root}${each}`)) {
      const more = await this.#disk.list(`${directory}/rt_tables.d`).catch(() => []);
      const files = [
        "rt_tables",
        ...more.filter((name) => name.endsWith(".conf")).map((name) => `rt_tables.d/${name}`),
      ];
      for (const file of files) {
        for (const [name, number] of parseTableNames(await this.#text(`${directory}/${file}`))) {
          names.set(name, number);
        }
      }
    }
    const numbers = new Set(names.values());
    for (const number of parseNetworkTables(await this.#text(`${this.#root}${networkConfig}`), names)) {
      numbers.add(number);
    }
    if ([...names.keys()].some((name) => name.startsWith("pbr_"))) {
      const highest = Math.max(...names.values());
      for (let ahead = 1; ahead <= pbrAhead; ahead++) numbers.add(highest + ahead);
    }
    // A later reading knows better.
    if (!this.#changed) this.#numbers = numbers;
  }

  async #text(path: string): Promise<string> {
    const bytes = await this.#disk.read(path, maxFileBytes).catch(() => undefined);
    return bytes ? new TextDecoder().decode(bytes) : "";
  }
}

/** Lines of rt_tables: a number, decimal or hexadecimal, and a name. */
export function parseTableNames(text: string): Map<string, number> {
  const names = new Map<string, number>();
  for (const line of text.split("\n")) {
    const match = /^\s*(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})\s+([^\s#]+)/.exec(line);
    if (match) names.set(match[2]!, Number(match[1]));
  }
  return names;
}

/** Tables that the network configuration speaks of, by number or by a name that is known. */
export function parseNetworkTables(text: string, names: ReadonlyMap<string, number>): Set<number> {
  const numbers = new Set<number>();
  for (const line of text.split("\n")) {
    const match = /^\s*option\s+['"]?(?:ip4table|ip6table|lookup|table)['"]?\s+['"]?([^\s'"#]+)/.exec(line);
    if (!match) continue;
    const number = /^[0-9]{1,10}$/.test(match[1]!) ? Number(match[1]) : names.get(match[1]!);
    if (number !== undefined) numbers.add(number);
  }
  return numbers;
}
