/**
 * rpcd's object `uci` for one configuration file, as far as LuCI's forms use it.
 *
 * Kept: what is staged and not applied, and after an apply the text of before until somebody confirms that the router
 * can still be reached. `applied` is called after the file was written: it does what procd does then.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { parseUci, quoteUci } from "../../src/config/uci.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";

interface Section {
  readonly type: string;
  /** Anonymous ones get one as libuci makes it. */
  readonly id: string;
  readonly isAnonymous: boolean;
  readonly options: Map<string, string | readonly string[]>;
}

export interface UciOptions {
  readonly name: string;
  readonly path: string;
  applied(): Promise<void>;
}

type Args = Readonly<Record<string, Json>>;

const nameOf = /^[A-Za-z0-9_]{1,64}$/;

export class Uci {
  readonly #options: UciOptions;
  #staged: Section[] | undefined;
  #changes: Json[] = [];
  #before: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: UciOptions) {
    this.#options = options;
  }

  /** @throws Fault */
  async call(method: string, args: Args): Promise<JsonObject> {
    const { config } = args;
    if (config !== undefined && config !== this.#options.name)
      throw new Fault("denied", `Cannot use configuration ${String(config)}: it is not ours`);
    switch (method) {
      case "get":
        return { values: this.#values() };
      case "changes":
        return { changes: this.#changes.length > 0 ? { [this.#options.name]: this.#changes } : {} };
      case "add":
        return { section: this.#add(args) };
      case "set":
        for (const [option, value] of Object.entries((args.values ?? {}) as JsonObject))
          this.#set(textOf(args, "section"), option, value);
        return {};
      case "delete":
        this.#delete(args);
        return {};
      case "revert":
        this.#forget();
        return {};
      case "apply":
        await this.#apply(Number(args.timeout ?? 30), args.rollback === true);
        return {};
      case "confirm":
        clearTimeout(this.#timer);
        this.#before = undefined;
        return {};
      default:
        throw new Fault("not-found", `Cannot call uci ${method}: it is not offered`);
    }
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #sections(): Section[] {
    return (
      this.#staged ??
      parseUci(readFileSync(this.#options.path, "utf8")).sections.map(({ type, name, options }, at) => ({
        type,
        id: name ?? `cfg${(at + 1).toString(16).padStart(2, "0")}${type.slice(0, 4)}`,
        isAnonymous: name === undefined,
        options: new Map(options),
      }))
    );
  }

  /** What is staged from now on. */
  #stage(): Section[] {
    this.#staged = this.#sections();
    return this.#staged;
  }

  #forget(): void {
    this.#staged = undefined;
    this.#changes = [];
  }

  #values(): JsonObject {
    return Object.fromEntries(
      this.#sections().map(({ type, id, isAnonymous, options }, at) => [
        id,
        {
          ...Object.fromEntries([...options].filter(([, value]) => value !== "")),
          ...{ ".type": type, ".name": id, ".anonymous": isAnonymous, ".index": at },
        },
      ]),
    );
  }

  #section(id: string): Section {
    const found = this.#stage().find((each) => each.id === id);
    if (!found) throw new Fault("not-found", `Cannot find section ${id}: there is none`);
    return found;
  }

  #add(args: Args): string {
    const type = textOf(args, "type");
    const sections = this.#stage();
    const isAnonymous = args.name === undefined;
    const id = isAnonymous ? `cfg${(sections.length + 1).toString(16)}new` : textOf(args, "name");
    if (!nameOf.test(type) || !nameOf.test(id)) throw new Fault("invalid", `Cannot add ${id}: no such name`);
    sections.push({ type, id, isAnonymous, options: new Map() });
    this.#changes.push(["add", id, type]);
    for (const [option, value] of Object.entries((args.values ?? {}) as JsonObject))
      this.#set(id, option, value);
    return id;
  }

  #set(id: string, option: string, value: Json): void {
    if (!nameOf.test(option)) throw new Fault("invalid", `Cannot set ${option}: no such name`);
    const { options } = this.#section(id);
    // As libuci has it, an empty option is none.
    if (value === "" || (Array.isArray(value) && value.length === 0)) options.delete(option);
    else options.set(option, Array.isArray(value) ? value.map(String) : String(value));
    this.#changes.push(["set", id, option, String(value)]);
  }

  #delete(args: Args): void {
    const id = textOf(args, "section");
    const section = this.#section(id);
    const options = args.options ?? (args.option === undefined ? undefined : [args.option]);
    if (Array.isArray(options)) for (const each of options) section.options.delete(String(each));
    else this.#staged = this.#staged!.filter((each) => each !== section);
    this.#changes.push(["remove", id]);
  }

  async #apply(seconds: number, canRollBack: boolean): Promise<void> {
    const { path } = this.#options;
    if (this.#staged === undefined) return;
    const before = readFileSync(path, "utf8");
    writeFileSync(path, render(this.#staged));
    this.#forget();
    if (canRollBack) {
      this.#before = before;
      this.#timer = setTimeout(() => void this.#rollBack(), seconds * 1_000);
      this.#timer.unref();
    }
    await this.#options.applied();
  }

  async #rollBack(): Promise<void> {
    if (this.#before === undefined) return;
    writeFileSync(this.#options.path, this.#before);
    this.#before = undefined;
    await this.#options.applied();
  }
}

function render(sections: readonly Section[]): string {
  return sections
    .map(({ type, id, isAnonymous, options }) =>
      [
        `config ${type}${isAnonymous ? "" : ` ${quoteUci(id)}`}`,
        ...[...options].flatMap(([name, value]) =>
          typeof value === "string"
            ? [`\toption ${name} ${quoteUci(value)}`]
            : value.map((each) => `\tlist ${name} ${quoteUci(each)}`),
        ),
        "",
      ].join("\n"),
    )
    .join("\n");
}

function textOf(args: Args, name: string): string {
  const value = args[name];
  if (typeof value !== "string" || value === "")
    throw new Fault("invalid", `Cannot change uci: ${name} is missing`);
  return value;
}
