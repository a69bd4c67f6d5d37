/**
 * The users and groups of this machine, by number and by name: the bus tells servers the names of their caller,
 * and ACL files name who may do what.
 *
 * Keeps the content of /etc/passwd and /etc/group, read again when they change and when a number is asked for
 * that is not in them. Names have one character per byte. Other sources of accounts (LDAP, …) are not asked.
 */

import type { Cancel, Credentials, Disk } from "../system/system.ts";
import { readName } from "./frame.ts";

const maxFileBytes = 4 << 20;
/** The kernel allows 65,536 groups for a process; nobody on a router has that many. */
const maxGroups = 1024;

interface Table {
  readonly names: ReadonlyMap<number, string>;
  readonly numbers: ReadonlyMap<string, number>;
}

export interface AccountFiles {
  /** Default /etc/passwd. */
  readonly passwd?: string;
  /** Default /etc/group. */
  readonly group?: string;
}

/** Names that the bus vouches for, and the groups that count beside the first. */
export interface Identity {
  readonly user: string;
  readonly group: string;
  readonly moreGids: readonly number[];
}

export class Accounts {
  readonly #disk: Disk;
  readonly #files: Required<AccountFiles>;
  readonly #watches: Cancel[];
  #users: Table = parseTable(new Uint8Array(0));
  #groups: Table = parseTable(new Uint8Array(0));
  #loading: Promise<void> | undefined;

  private constructor(disk: Disk, { passwd = "/etc/passwd", group = "/etc/group" }: AccountFiles) {
    this.#disk = disk;
    this.#files = { passwd, group };
    // A file that cannot be read leaves what was known; the next stranger has it read again.
    const changed = () => void this.load().catch(() => {});
    this.#watches = [passwd, group].map((path) => disk.watch(path, changed));
  }

  /** Reads the files and keeps them current until closed. @throws Fault if one is there and unreadable. */
  static async open(disk: Disk, files: AccountFiles = {}): Promise<Accounts> {
    const accounts = new Accounts(disk, files);
    try {
      await accounts.load();
    } catch (thrown) {
      accounts.close();
      throw thrown;
    }
    return accounts;
  }

  /** Reads the files again; calls that overlap share one reading. */
  load(): Promise<void> {
    this.#loading ??= this.#read().finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  /** The number of a user; undefined if there is no such user. */
  uidOf(name: string): number | undefined {
    return this.#users.numbers.get(name);
  }

  gidOf(name: string): number | undefined {
    return this.#groups.numbers.get(name);
  }

  /** Who is at the other end, without looking anything up; undefined if that is not possible. */
  known(peer: Credentials): Identity | undefined {
    // Root may do everything: its groups do not matter.
    return peer.uid === 0 ? this.#identity(peer, []) : undefined;
  }

  /** Who is at the other end; undefined if its user or its group has no name. */
  async identify(peer: Credentials): Promise<Identity | undefined> {
    if (!this.#identity(peer, [])) await this.load();
    return this.#identity(peer, peer.uid === 0 ? [] : await readGroups(this.#disk, peer));
  }

  close(): void {
    for (const cancel of this.#watches) cancel();
  }

  #identity(peer: Credentials, moreGids: readonly number[]): Identity | undefined {
    const user = this.#users.names.get(peer.uid);
    const group = this.#groups.names.get(peer.gid);
    return user === undefined || group === undefined ? undefined : { user, group, moreGids };
  }

  async #read(): Promise<void> {
    const [passwd, group] = await Promise.all([
      this.#disk.read(this.#files.passwd, maxFileBytes),
      this.#disk.read(this.#files.group, maxFileBytes),
    ]);
    this.#users = parseTable(passwd ?? new Uint8Array(0));
    this.#groups = parseTable(group ?? new Uint8Array(0));
  }
}

/** Lines `name:password:number:…`; of repeated names and numbers the first counts, as for getpwuid(3). */
function parseTable(bytes: Uint8Array): Table {
  const names = new Map<number, string>();
  const numbers = new Map<string, number>();
  for (const line of textOf(bytes).split("\n")) {
    const [name, , digits] = line.split(":");
    if (!name || name.startsWith("#") || digits === undefined || !/^\d{1,10}$/.test(digits)) continue;
    const number = Number(digits);
    if (!names.has(number)) names.set(number, name);
    if (!numbers.has(name)) numbers.set(name, number);
  }
  return { names, numbers };
}

/**
 * The supplementary groups of a process.
 *
 * The process may be gone and its number taken by another one: the groups count only if the file still tells
 * of the user that connected.
 */
async function readGroups(disk: Disk, { pid, uid }: Credentials): Promise<number[]> {
  const bytes = await disk.read(`/proc/${pid}/status`, 1 << 20).catch(() => undefined);
  const text = bytes ? textOf(bytes) : "";
  const uids = /^Uid:((?:[ \t]+\d+)+)$/m.exec(text)?.[1]?.trim().split(/\s+/) ?? [];
  if (!uids.includes(String(uid))) return [];
  const gids = /^Groups:([ \t\d]*)$/m.exec(text)?.[1]?.trim() ?? "";
  return gids === "" ? [] : gids.split(/\s+/).slice(0, maxGroups).map(Number);
}

function textOf(bytes: Uint8Array): string {
  const closed = new Uint8Array(bytes.length + 1);
  closed.set(bytes.map((byte) => (byte === 0 ? 0x20 : byte)));
  return readName(closed, 0, closed.length)!;
}
