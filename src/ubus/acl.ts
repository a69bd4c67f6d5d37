/**
 * Who may do what on the bus: the rules of /usr/share/acl.d.
 *
 * Each file there speaks of one user or one group:
 *
 *     { "user": "nobody",                           or "group", also a supplementary one
 *       "access":    { "system": { "methods": ["board"] }, "ref.*": { "methods": ["*"], "acl": { … } } },
 *       "publish":   ["my.*"],                      paths of objects
 *       "subscribe": ["network.interface"],         paths of objects
 *       "listen":    ["ubus.object.*"],             patterns of events, compared without their own star
 *       "send":      ["my.*"] }                     names of events
 *
 * Root may do everything; everybody else only what a rule grants. A name that ends in `*` stands for all that
 * begin so. Rules are kept by the name they are about and replaced as a whole by `load`, which the bus calls
 * when it starts and when it is told to. A file counts only if root alone can have written it.
 *
 * Names have one character per byte.
 */

import { messageOf } from "../lib/fault.ts";
import { isObject, type JsonObject } from "../lib/json.ts";
import type { Disk, Level } from "../system/system.ts";
import type { Accounts } from "./accounts.ts";
import { encodeFields, fieldsOf } from "./blob.ts";
import { nameOf } from "./frame.ts";
import { PrefixMap } from "./prefix.ts";

/** Where OpenWrt's packages put their rules. */
export const defaultAclDirectory = "/usr/share/acl.d";

const maxFileBytes = 1 << 20;
const maxFiles = 1024;
const maxRules = 65536;
/** Writable by the group or by others, or executable by others. */
const badModeBits = 0o023;

/** Somebody on the bus, as far as rules tell people apart. */
export interface Subject {
  readonly uid: number;
  readonly gid: number;
  readonly moreGids: readonly number[];
}

/** What may be granted for a name, beside calling methods. */
export type Right = "publish" | "subscribe" | "listen" | "send";

/** An `acl` table that a file attaches to objects; the server of the object interprets it. */
export interface Grant {
  /** As the file says; one of them is there. */
  readonly user: string | undefined;
  readonly group: string | undefined;
  /** The fields of the table, encoded. */
  readonly table: Uint8Array;
}

interface Rule {
  readonly partial: boolean;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  readonly right: Right | undefined;
  /** Methods that may be called. */
  readonly methods: ReadonlySet<string> | undefined;
  readonly grant: Grant | undefined;
}

export interface AclOptions {
  readonly disk: Disk;
  readonly accounts: Accounts;
  readonly directory: string;
  log(level: Level, line: string): void;
}

export class Acl {
  readonly #options: AclOptions;
  #rules: PrefixMap<Rule> = new PrefixMap();
  #count = 0;

  constructor(options: AclOptions) {
    this.#options = options;
  }

  /** Rules in force. */
  get count(): number {
    return this.#count;
  }

  /** Reads all files again; what is wrong with one goes to the log and leaves that one out. */
  async load(): Promise<void> {
    const { disk, directory, log } = this.#options;
    const rules = new PrefixMap<Rule>();
    const names = (await disk.list(directory)).filter((name) => /^[^.].*\.json$/.test(name));
    if (names.length > maxFiles) log("error", `Cannot read all of ${directory}: more than ${maxFiles} files`);
    let count = 0;
    for (const name of names.slice(0, maxFiles)) {
      try {
        for (const [key, rule] of await this.#readFile(`${directory}/${name}`)) {
          if (++count > maxRules) throw new SyntaxError(`more than ${maxRules} rules in all`);
          rules.add(key, rule);
        }
      } catch (thrown) {
        log("error", `Cannot use ${directory}/${name}: ${messageOf(thrown)}`);
      }
    }
    this.#rules = rules;
    this.#count = Math.min(count, maxRules);
  }

  /** Whether somebody may use a right on a name. */
  allows(subject: Subject, right: Right, name: string): boolean {
    if (subject.uid === 0) return true;
    return this.#rules.matching(name).some((rule) => rule.right === right && concerns(rule, subject));
  }

  /** Which methods of the object at a path somebody may call. */
  callsOf(subject: Subject, path: string): (method: string) => boolean {
    if (subject.uid === 0) return () => true;
    const rules = this.#rules.matching(path).filter((rule) => rule.methods && concerns(rule, subject));
    return (method) => rules.some(({ methods }) => methods?.has(method) || methods?.has("*"));
  }

  /** The `acl` tables that files attach to the object at a path. */
  grantsFor(path: string): Grant[] {
    return this.#rules.matching(path).flatMap((rule) => rule.grant ?? []);
  }

  async #readFile(path: string): Promise<[string, Rule][]> {
    const { disk, accounts } = this.#options;
    const status = await disk.stat(path);
    if (!status || status.isDirectory) return [];
    if (status.uid !== 0 || status.gid !== 0) throw new SyntaxError("it does not belong to root");
    if ((status.mode & badModeBits) !== 0) {
      throw new SyntaxError(`others may write or run it (mode ${(status.mode & 0o7777).toString(8)})`);
    }
    const bytes = await disk.read(path, maxFileBytes);
    return bytes ? parseAcl(new TextDecoder().decode(bytes), accounts) : [];
  }
}

function concerns(rule: Rule, subject: Subject): boolean {
  if (rule.uid !== undefined) return rule.uid === subject.uid;
  return rule.gid !== undefined && (rule.gid === subject.gid || subject.moreGids.includes(rule.gid));
}

/**
 * Reads the rules of one file, each with the name it is about.
 *
 * @throws SyntaxError if it is no JSON object or speaks of nobody who exists.
 */
export function parseAcl(text: string, accounts: Pick<Accounts, "uidOf" | "gidOf">): [string, Rule][] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (thrown) {
    throw new SyntaxError(messageOf(thrown));
  }
  if (!isObject(json)) throw new SyntaxError("it is no JSON object");
  const user = typeof json.user === "string" ? json.user : undefined;
  const group = user === undefined && typeof json.group === "string" ? json.group : undefined;
  if (user === undefined && group === undefined) throw new SyntaxError("it names neither user nor group");
  const uid = user === undefined ? undefined : accounts.uidOf(nameOf(user));
  const gid = group === undefined ? undefined : accounts.gidOf(nameOf(group));
  // ubusd takes root for somebody it does not know, and so grants the group root what nobody should have.
  if (uid === undefined && gid === undefined) throw new SyntaxError(`there is no ${user ?? group}`);

  const rules: [string, Rule][] = [];
  const none = { uid, gid, right: undefined, methods: undefined, grant: undefined };
  const add = (name: string, rule: Omit<Rule, "partial">) => {
    const partial = name.endsWith("*");
    if (name !== "") rules.push([nameOf(partial ? name.slice(0, -1) : name), { ...rule, partial }]);
  };
  for (const [name, access] of Object.entries(isObject(json.access) ? json.access : {})) {
    if (!isObject(access)) continue;
    const methods = Array.isArray(access.methods) ? new Set(textsOf(access.methods).map(nameOf)) : undefined;
    const grant = isObject(access.acl) ? grantOf(access.acl as JsonObject, user, group) : undefined;
    if (methods ?? grant) add(name, { ...none, methods, grant });
  }
  for (const right of ["subscribe", "publish", "listen", "send"] as const) {
    const names = json[right];
    for (const name of Array.isArray(names) ? textsOf(names) : []) add(name, { ...none, right });
  }
  return rules;
}

function grantOf(table: JsonObject, user: string | undefined, group: string | undefined): Grant {
  try {
    return {
      user: user && nameOf(user),
      group: group && nameOf(group),
      table: encodeFields(fieldsOf(table)),
    };
  } catch (thrown) {
    throw new SyntaxError(messageOf(thrown));
  }
}

function textsOf(values: readonly unknown[]): string[] {
  return values.filter((value): value is string => typeof value === "string");
}
