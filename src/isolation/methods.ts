/**
 * What the outside may ask of isolation: the object `gatehouse.isolation`.
 *
 * Who writes gets the answer when the kernel does so and the disk knows; what makes no sense is refused as a whole.
 */

import { type Address, parseAddress } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import { answerBytes, type Methods, maxAnswerBytes } from "../ubus/methods.ts";
import { type Direction, directions } from "./connects.ts";
import { knownNames, renderExplanation, renderPair, renderParty, renderStatus } from "./explain.ts";
import type { Isolation } from "./isolation.ts";
import { shown } from "./name.ts";

export function isolationMethods(isolation: Isolation, clock: { now(): number }): Methods {
  return {
    connect: {
      args: { name: "String", peers: "Array", ports: "Array", direction: "String" },
      access: "write",
      doc:
        "Lets a service and its peers talk: all ports, or those given (tcp/443, udp/1-9, 53, icmp), in direction both, " +
        "out or in. Peers are services or names outside, such as *.example.com. Who is not there yet is waited for.",
      async call(args) {
        const peers = listOf(args.peers, "peers") ?? [];
        if (peers.length === 0) throw new Fault("invalid", "Cannot connect: no peers are given");
        const ports = listOf(args.ports, "ports");
        const direction = directionOf(args.direction);
        const connected = await isolation.connect({ name: args.name, peers, ports, direction });
        return { connected: connected.map(({ peer, state }) => ({ peer, state })) };
      },
    },
    disconnect: {
      args: { name: "String", peer: "String" },
      access: "write",
      doc: "Ends the pair of a service with one peer, or without one all that it was given, and flows that run.",
      async call({ name, peer }) {
        return { disconnected: await isolation.disconnect({ name, ...(peer !== undefined && { peer }) }) };
      },
    },
    restart: {
      args: { name: "String", old_ip: "String", new_ip: "String" },
      access: "write",
      doc: "Says that a service is at another address now, before anybody has seen it there.",
      async call(args) {
        const old = args.old_ip === undefined ? undefined : addressOf(args.old_ip, "Cannot follow restart");
        const now = addressOf(args.new_ip, "Cannot follow restart");
        const name = await isolation.restart({ name: args.name, old, new: now });
        if (name === undefined) throw new Fault("not-found", "Cannot follow restart: nobody was there");
        return { name };
      },
    },
    privileged: {
      args: { name: "String", address: "String", remove: "Boolean" },
      access: "write",
      doc: "Lets a party, by name or address, resolve and reach every service, or with remove no longer.",
      async call(args): Promise<Json> {
        const { name, address } = args;
        if ((name === undefined) === (address === undefined)) {
          throw new Fault("invalid", "Cannot make privileged: name it, or give its address");
        }
        const who = name === undefined ? addressOf(address, "Cannot make privileged") : String(name);
        if (args.remove === true || args.remove === 1) return { changed: await isolation.unprivilege(who) };
        return { name: await isolation.privilege(who) };
      },
    },
    status: {
      args: {},
      access: "read",
      doc: "How many services and pairs there are, which wait for somebody, and who is privileged.",
      call: () => renderStatus(isolation, clock.now()),
    },
    list: {
      args: { name: "String", after: "String" },
      access: "read",
      doc: "Services and pairs, of one name or of all names after one; more: there are some, after next.",
      call(args) {
        const now = clock.now();
        if (args.name !== undefined) {
          const name = isolation.parts.naming.canonical(args.name, "Cannot list");
          return page(isolation, [name], now);
        }
        const after = args.after === undefined ? "" : String(args.after);
        return page(
          isolation,
          knownNames(isolation, now).filter((name) => name > after),
          now,
        );
      },
    },
    explain: {
      args: { from: "String", to: "String" },
      access: "read",
      doc: "Whether one service, by name or address, may begin to talk to another, by name or stand-in, and why.",
      call({ from, to }) {
        if (typeof from !== "string" || typeof to !== "string") {
          throw new Fault("invalid", "Cannot explain: from and to are needed");
        }
        const canonical = (text: string) => parseAddress(text) ?? text;
        return renderExplanation(isolation, { from: canonical(from), to: canonical(to) }, clock.now());
      },
    },
  };
}

/** Names with their pairs, as many as fit into one answer. A pair is listed with the first of its names. */
function page(isolation: Isolation, names: readonly string[], now: number): Json {
  const services: Json[] = [];
  const pairs: Json[] = [];
  let bytes = 64;
  for (const [at, name] of names.entries()) {
    const service = renderParty(isolation, name, now);
    const own = [...isolation.parts.connects.of(name)]
      .filter(
        ({ one, other }) =>
          names.length === 1 || one === name || (isolation.parts.naming.isOutside(one) && other === name),
      )
      .map((pair) => renderPair(isolation, pair));
    const size = answerBytes(service) + own.reduce((sum, each) => sum + answerBytes(each), 0);
    // The first name is shown whatever it takes, as far as it fits.
    if (bytes + size > maxAnswerBytes && at > 0) return { services, pairs, more: true, next: names[at - 1]! };
    services.push(service);
    for (const pair of own) {
      bytes += answerBytes(pair);
      if (bytes > maxAnswerBytes) return { services, pairs, more: true, next: name };
      pairs.push(pair);
    }
    bytes += answerBytes(service);
  }
  return { services, pairs };
}

function listOf(value: Json | undefined, what: string): readonly Json[] | undefined {
  if (value === undefined) return undefined;
  if (!Array.isArray(value)) throw new Fault("invalid", `Cannot connect: ${what} are no list`);
  return value as readonly Json[];
}

function directionOf(value: Json | undefined): Direction {
  const direction = directions.find((each) => each === (value ?? "both"));
  if (direction === undefined)
    throw new Fault("invalid", `Cannot connect: direction is ${directions.join(", ")}`);
  return direction;
}

function addressOf(value: Json | undefined, what: string): Address {
  const address = typeof value === "string" ? parseAddress(value) : undefined;
  if (address === undefined) throw new Fault("invalid", `${what}: ${shown(value)} is no address`);
  return address;
}
