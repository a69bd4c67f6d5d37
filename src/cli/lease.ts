/**
 * `gatehouse lease`: Table Allocator's client, by the same flags, without a daemon.
 *
 * Prints the table, or 0 if there is none to be had, and returns at once: the agent keeps the rules, renews the
 * lease while the address is there and ends it when the address or the interface goes. So a script that asks twice
 * gets the same answer twice. The status is 0 in both cases; only a wrong command line is 1, with nothing printed.
 */

import { type Address, familyOf, parseAddress } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import type { System } from "../system/system.ts";
import { connectUbus } from "../ubus/ubus.ts";
import type { Context, Verb } from "./verb.ts";

interface Order {
  readonly verb: "request" | "release";
  readonly key: {
    readonly family: "inet" | "inet6";
    readonly interface: string;
    readonly address: Address;
    readonly tag?: string;
  };
  readonly netmask: string | undefined;
  /** Where to say what happened: standard error, syslog, or a file. */
  readonly log: "stderr" | "syslog" | { readonly path: string };
}

/** As long as the original tries. */
const timeoutMs = 10_000;
const object = "gatehouse.tables";
const maxNameLength = 15;
const maxTagLength = 127;

/** Letter → long name, and whether a value follows. */
const flags: ReadonlyMap<string, { readonly long: string; readonly value: boolean; readonly doc: string }> =
  new Map([
    ["4", { long: "", value: false, doc: "an IPv4 table (default: the address's family)" }],
    ["6", { long: "", value: false, doc: "an IPv6 table" }],
    ["s", { long: "syslog", value: false, doc: "say what happens to syslog" }],
    [
      "l",
      { long: "log_path", value: true, doc: "or to a file, which is replaced (default: standard error)" },
    ],
    ["a", { long: "address", value: true, doc: "address to lease a table for; needed" }],
    ["n", { long: "netmask", value: true, doc: "its netmask or prefix length (default: the kernel's)" }],
    ["i", { long: "ifname", value: true, doc: "interface that it is on; needed" }],
    ["t", { long: "tag", value: true, doc: "tells leases of one address apart" }],
    ["r", { long: "release", value: false, doc: "end the lease" }],
    ["d", { long: "destination", value: true, doc: "taken and not needed: the bus is asked" }],
    ["f", { long: "foreground", value: false, doc: "taken and not needed: nothing stays behind" }],
    ["h", { long: "help", value: false, doc: "print this" }],
  ]);

export const leaseVerb: Verb = {
  synopsis: "lease -a ADDRESS -i DEVICE [-46r] [-n NETMASK] [-t TAG] …",
  summary: "lease a routing table, as table_allocator_client does; -h tells more",
  async run(args, context) {
    const { io } = context;
    let order: Order | "help";
    try {
      order = await orderOf(args, context);
    } catch (thrown) {
      if (!(thrown instanceof SyntaxError)) throw thrown;
      io.stderr(`gatehouse: ${messageOf(thrown)}\n${usage()}`);
      return 1;
    }
    if (order === "help") {
      io.stdout(usage());
      return 0;
    }
    try {
      io.stdout(`${await carryOut(order, context)}\n`);
    } catch (thrown) {
      if (!(thrown instanceof Fault)) throw thrown;
      io.stdout("0\n");
      await say(order.log, thrown.message, context);
    }
    return 0;
  },
};

/** @returns the table, or 0 of a release. @throws Fault */
async function carryOut(
  { verb, key, netmask }: Order,
  { system, flags: { socket } }: Context,
): Promise<number> {
  const ubus = connectUbus(system, { path: socket, retry: false, timeoutMs });
  try {
    if (verb === "release") {
      await ubus.call(object, verb, key);
      return 0;
    }
    const wish: JsonObject = { ...key, follow: true, rules: true, ...(netmask !== undefined && { netmask }) };
    const { table } = await ubus.call(object, verb, wish);
    if (typeof table !== "number") throw new Fault("invalid", "Cannot lease table: the answer has none");
    return table;
  } finally {
    ubus.close();
  }
}

/** @throws SyntaxError with one line for the user. */
async function orderOf(args: readonly string[], { system }: Context): Promise<Order | "help"> {
  const given = takeFlags(args);
  if (given.has("h")) return "help";
  const [name, text] = [given.get("i"), given.get("a")];
  if (name === undefined || text === undefined) throw new SyntaxError("-a and -i are needed");
  const address = parseAddress(text);
  if (address === undefined) throw new SyntaxError(`${JSON.stringify(text)} is no address`);
  const family = familyOf(address) === 4 ? "inet" : "inet6";
  const isOther = given.has(family === "inet" ? "6" : "4");
  if (isOther) throw new SyntaxError(`${address} is no address of that family`);
  if (!/^[^\s/:]+$/.test(name) || name.length > maxNameLength) {
    throw new SyntaxError(`${JSON.stringify(name)} is no interface name`);
  }
  if (!given.has("r") && !(await isThere(system, name))) {
    throw new SyntaxError(`there is no interface ${name}`);
  }
  const tag = given.get("t") ?? "";
  if (tag.length > maxTagLength) throw new SyntaxError(`the tag is longer than ${maxTagLength} characters`);
  const netmask = given.get("n");
  const isMask = family === "inet" ? parseAddress(netmask ?? "0.0.0.0") : undefined;
  if (netmask !== undefined && isMask === undefined && !/^[0-9]{1,3}$/.test(netmask)) {
    throw new SyntaxError(`${JSON.stringify(netmask)} is no netmask`);
  }
  const path = given.get("l");
  return {
    verb: given.has("r") ? "release" : "request",
    key: { family, interface: name, address, ...(tag !== "" && { tag }) },
    netmask,
    log: path !== undefined ? { path } : given.has("s") ? "syslog" : "stderr",
  };
}

/** Whether this network namespace has an interface; yes, if it cannot be known. */
async function isThere(system: System, name: string): Promise<boolean> {
  const bytes = await system.read("/proc/self/net/dev").catch(() => undefined);
  if (!bytes) return true;
  const lines = new TextDecoder().decode(bytes).split("\n");
  return lines.some((line) => line.trimStart().startsWith(`${name}:`));
}

/** Letters with their values; of a flag given twice the last counts. */
function takeFlags(args: readonly string[]): Map<string, string> {
  const given = new Map<string, string>();
  const byLong = new Map([...flags].map(([letter, { long }]) => [long, letter]));
  let at = 0;
  const next = (flag: string): string => {
    const value = args[at++];
    if (value === undefined) throw new SyntaxError(`${flag} needs a value`);
    return value;
  };
  while (at < args.length) {
    const arg = args[at++]!;
    if (arg.startsWith("--") && arg.length > 2) {
      const [long, ...rest] = arg.slice(2).split("=");
      const letter = byLong.get(long!);
      const flag = letter === undefined ? undefined : flags.get(letter);
      if (!flag) throw new SyntaxError(`there is no flag --${long}`);
      if (!flag.value && rest.length > 0) throw new SyntaxError(`--${long} takes no value`);
      given.set(letter!, flag.value ? (rest.length > 0 ? rest.join("=") : next(arg)) : "");
      continue;
    }
    if (!/^-./s.test(arg) || arg === "--") throw new SyntaxError(`${JSON.stringify(arg)} is no flag`);
    for (let index = 1; index < arg.length; index++) {
      const letter = arg[index]!;
      const flag = flags.get(letter);
      if (!flag) throw new SyntaxError(`there is no flag -${letter}`);
      if (!flag.value) {
        given.set(letter, "");
        continue;
      }
      given.set(letter, index + 1 < arg.length ? arg.slice(index + 1) : next(`-${letter}`));
      break;
    }
  }
  return given;
}

/** Says why there is no table. That it cannot be said is no reason to fail. */
async function say(log: Order["log"], line: string, { system, io }: Context): Promise<void> {
  if (log === "stderr") {
    io.stderr(`gatehouse: ${line}\n`);
    return;
  }
  const said =
    log === "syslog"
      ? system.run(["logger", "-t", "gatehouse", "-p", "daemon.err", line])
      : system.replace(log.path, new TextEncoder().encode(`${line}\n`), { mode: 0o644 });
  await said.then(
    () => {},
    (thrown) => io.stderr(`gatehouse: ${line}; ${messageOf(thrown)}\n`),
  );
}

function usage(): string {
  const lines = [...flags].map(([letter, { long, value, doc }]) => {
    const names = `-${letter}${long === "" ? "" : `, --${long}`}${value ? " VALUE" : ""}`;
    return ` ${names.padEnd(26)}${doc}\n`;
  });
  return `Usage: gatehouse [-s SOCKET] lease [options …]\n\n${lines.join("")}`;
}
