/**
 * The HTTP door: core-network's REST interface (container-manager's view of it), mapped to what isolation does.
 *
 *     POST /connect     {"name", "peers": […]}                 GET /status       active
 *     POST /disconnect  {"name", "ip": "a.b.c.d/len"}          GET /connections  what the original lacks
 *     POST /restart     {"name", "old_ip", "new_ip"}
 *     POST /privileged  {"src_ip"}                             every success of a POST: 200 {}
 *
 * Keeps nothing. The key is asked for at every request, so a new one counts at once; both forms of it that clients
 * send (base64 of the file, as it is and trimmed) are taken, and compared in a time that does not depend on where
 * they differ. A request that names a host which cannot be us was led here by somebody else's name (DNS rebinding,
 * pages of other origins): it is refused before anything else is looked at.
 */

import { parseAddress, parsePrefix } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type JsonObject } from "../lib/json.ts";
import type { WebHandler, WebReply, WebRequest } from "../system/system.ts";
import { base64, base64Text } from "./base64.ts";
import { renderPair } from "./explain.ts";
import type { Isolation } from "./isolation.ts";
import { canonicalName } from "./name.ts";

export interface DoorOptions {
  readonly isolation: Isolation;
  /** The bytes of the key file. @throws Fault if it cannot be read: then nobody gets in */
  readKey(): Promise<Uint8Array>;
  /** Names, beside addresses and localhost, that clients may know us by. */
  readonly hosts: readonly string[];
  /** What of a request was left out, for the log. */
  report?(line: string): void;
}

type Body = Readonly<Record<string, unknown>>;
type Call = (body: Body) => Promise<void>;

/** Bytes of a key file; it is compared at every request. */
const maxKeyBytes = 4_096;
const text = { "Content-Type": "text/plain; charset=utf-8" } as const;
const json = { "Content-Type": "application/json" } as const;

export function isolationDoor(options: DoorOptions): WebHandler {
  const hosts = new Set(["localhost", ...options.hosts.flatMap((name) => canonicalName(name) ?? [])]);
  const calls = callsOf(options);
  return async (request) => {
    if (!isForUs(request, hosts))
      return { status: 403, headers: text, body: "Forbidden: foreign Host or Origin" };
    const refusal = await refusalOf(request, options);
    if (refusal !== undefined) return { status: 401, headers: text, body: refusal };
    const path = request.path.split("?")[0]!;
    if (request.method === "GET") return readingOf(path, options.isolation);
    const call = request.method === "POST" ? calls.get(path) : undefined;
    if (!call) return notFound;
    try {
      await call(bodyOf(request.body));
    } catch (thrown) {
      return { status: 500, headers: text, body: `${path} server err: ${messageOf(thrown)}` };
    }
    return { status: 200, headers: json, body: "{}" };
  };
}

const notFound: WebReply = { status: 404, headers: text, body: "Not found" };

function callsOf({ isolation, report }: DoorOptions): ReadonlyMap<string, Call> {
  return new Map<string, Call>([
    [
      "/privileged",
      async (body) => {
        await isolation.privilege(addressIn(body, "src_ip"));
      },
    ],
    [
      "/connect",
      async (body) => {
        const name = textIn(body, "name");
        const peers = textsIn(body, "peers");
        // As ever: a peer that can never be there does not keep the others from being connected.
        const usable = peers.filter((peer) => isolation.parts.commands.accepts(name, peer));
        if (usable.length < peers.length) {
          report?.(
            `Cannot connect ${JSON.stringify(name.slice(0, 64))}: ${peers.length - usable.length} peers make no sense`,
          );
        }
        await isolation.connect({ name, peers: usable });
      },
    ],
    [
      "/disconnect",
      async (body) => {
        const [name, prefix] = [textIn(body, "name"), textIn(body, "ip")];
        if (!prefix.includes("/") || parsePrefix(prefix) === undefined)
          throw new SyntaxError(`ip: ${shown(prefix)} is no CIDR`);
        const address = parseAddress(prefix.slice(0, prefix.indexOf("/")))!;
        await isolation.disconnect({ name });
        // A party that was privileged by its address alone goes with it.
        if (isolation.parts.privileged.isClient(address)) await isolation.unprivilege(address);
      },
    ],
    [
      "/restart",
      async (body) => {
        const name = textIn(body, "name");
        await isolation.restart({ name, old: addressIn(body, "old_ip"), new: addressIn(body, "new_ip") });
      },
    ],
  ]);
}

function readingOf(path: string, isolation: Isolation): WebReply {
  if (path === "/status") return { status: 200, headers: text, body: "active" };
  if (path !== "/connections") return notFound;
  const connections: JsonObject[] = [];
  for (const pair of isolation.parts.connects.all()) connections.push(renderPair(isolation, pair));
  return { status: 200, headers: json, body: JSON.stringify({ connections }) };
}

// Who asks.

/** An address in `Host` was typed or configured: names can be made to lead here, addresses cannot. */
function isForUs({ headers }: WebRequest, hosts: ReadonlySet<string>): boolean {
  const host = headers.get("host");
  const origin = headers.get("origin");
  if (host === undefined || !isOurHost(host, hosts)) return false;
  if (origin === undefined) return true;
  const match = /^https?:\/\/([^/?#@]+)$/i.exec(origin);
  return match !== null && isOurHost(match[1]!, hosts);
}

function isOurHost(host: string, hosts: ReadonlySet<string>): boolean {
  const match = /^(?:\[([0-9a-fA-F:.]{2,45})\]|([^:[\]]{1,254}))(?::[0-9]{1,5})?$/.exec(host);
  if (!match) return false;
  if (match[1] !== undefined) return parseAddress(match[1]) !== undefined;
  if (parseAddress(match[2]!) !== undefined) return true;
  const name = canonicalName(match[2]!);
  return name !== undefined && hosts.has(name);
}

/** Why a request does not get in, or undefined. */
async function refusalOf({ headers }: WebRequest, { readKey }: DoorOptions): Promise<string | undefined> {
  let key: Uint8Array;
  try {
    key = await readKey();
  } catch (thrown) {
    return messageOf(thrown);
  }
  const given = headers.get("x-api-key") ?? basicUser(headers.get("authorization"));
  if (given === undefined) return "Missing API key/token";
  const trimmed = trim(key);
  if (trimmed.length === 0 || key.length > maxKeyBytes) return "Unauthorized: CM key invalid";
  // Both are compared, whatever comes of the first.
  const [isKey, isTrimmedKey] = [sameText(given, base64(key)), sameText(given, base64(trimmed))];
  return isKey || isTrimmedKey ? undefined : "Unauthorized: CM key invalid";
}

/** RFC 7617: the user name, of which the password is no part. */
function basicUser(header: string | undefined): string | undefined {
  const match = /^basic +([A-Za-z0-9+/]+={0,2}) *$/i.exec(header ?? "");
  const pair = match ? base64Text(match[1]!) : undefined;
  if (pair === undefined) return undefined;
  const colon = pair.indexOf(":");
  return colon < 0 ? pair : pair.slice(0, colon);
}

/** Takes as long for any text of a length, wherever it differs. */
export function sameText(given: string, wanted: string): boolean {
  let difference = given.length ^ wanted.length;
  for (let at = 0; at < wanted.length; at++) {
    difference |= (at < given.length ? given.charCodeAt(at) : 0) ^ wanted.charCodeAt(at);
  }
  return difference === 0;
}

/** Without white space at either end, as the original trims its key file. */
function trim(key: Uint8Array): Uint8Array {
  const isSpace = (byte: number | undefined) =>
    byte === 32 || (byte !== undefined && byte >= 9 && byte <= 13);
  let [from, to] = [0, key.length];
  while (from < to && isSpace(key[from])) from++;
  while (to > from && isSpace(key[to - 1])) to--;
  return key.subarray(from, to);
}

// What it says.

/** @throws SyntaxError */
function bodyOf(bytes: Uint8Array): Body {
  let body: unknown;
  try {
    body = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new SyntaxError(`${bytes.length} bytes that are no JSON text`);
  }
  if (!isObject(body)) throw new SyntaxError("the body is no object");
  return body;
}

function textIn(body: Body, name: string): string {
  const value = Object.hasOwn(body, name) ? body[name] : undefined;
  if (typeof value !== "string")
    throw new SyntaxError(`${name} is ${value === undefined ? "missing" : "no text"}`);
  return value;
}

function textsIn(body: Body, name: string): readonly string[] {
  const value = Object.hasOwn(body, name) ? body[name] : undefined;
  if (!Array.isArray(value) || !value.every((each) => typeof each === "string")) {
    throw new SyntaxError(`${name} is ${value === undefined ? "missing" : "no list of texts"}`);
  }
  return value;
}

function addressIn(body: Body, name: string) {
  const value = textIn(body, name);
  const address = parseAddress(value);
  if (address === undefined) throw new Fault("invalid", `${name}: ${shown(value)} is no address`);
  return address;
}

function shown(value: string): string {
  return JSON.stringify(value.slice(0, 64));
}
