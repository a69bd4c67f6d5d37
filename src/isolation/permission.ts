/**
 * What somebody may begin: everything, or some ports.
 *
 * Ports are written `tcp/443`, `udp/5000-5010`, `443` (TCP and UDP) and `icmp`. A permission is kept in one form,
 * sorted and without overlaps, so that equal ones have equal texts.
 */

import type { Ports } from "../kernel/kernel.ts";
import { Fault } from "../lib/fault.ts";
import { shown } from "./name.ts";

export type Permission = "all" | readonly Ports[];

/** Ranges that one direction of a pair may have. */
const maxRanges = 64;

/** Reads the `ports` of a call; none at all means everything. @throws Fault "invalid" or "limit" */
export function parsePorts(texts: readonly unknown[] | undefined): Permission {
  if (texts === undefined || texts.length === 0) return "all";
  if (texts.length > maxRanges) throw tooMany();
  return settled(texts.flatMap(parseRange));
}

/** What `parsePorts` reads. */
export function formatPorts(permission: Permission): readonly string[] | undefined {
  if (permission === "all") return undefined;
  return permission.map((each) => {
    if (each.protocol === "icmp") return "icmp";
    const range = each.first === each.last ? `${each.first}` : `${each.first}-${each.last}`;
    return `${each.protocol}/${range}`;
  });
}

/** What either allows. @throws Fault "limit" */
export function united(before: Permission | undefined, more: Permission): Permission {
  if (before === undefined) return more;
  return before === "all" || more === "all" ? "all" : settled([...before, ...more]);
}

export function samePermission(left: Permission | undefined, right: Permission | undefined): boolean {
  if (left === right) return true;
  if (left === undefined || right === undefined || left === "all" || right === "all") return false;
  return formatPorts(left)!.join() === formatPorts(right)!.join();
}

/** Whether a datagram may go to a port. */
export function allowsUdp(permission: Permission | undefined, port: number): boolean {
  if (permission === undefined || permission === "all") return permission === "all";
  return permission.some((each) => each.protocol === "udp" && each.first <= port && port <= each.last);
}

function parseRange(text: unknown): Ports[] {
  const word = typeof text === "number" ? String(text) : text;
  if (word === "icmp") return [{ protocol: "icmp" }];
  const match =
    typeof word === "string" ? /^(?:(tcp|udp)\/)?([0-9]{1,5})(?:-([0-9]{1,5}))?$/.exec(word) : null;
  const first = Number(match?.[2]);
  const last = match?.[3] === undefined ? first : Number(match[3]);
  if (!match || first < 1 || last > 65_535 || first > last) {
    throw new Fault(
      "invalid",
      `Cannot connect: ${shown(text)} are no ports, such as tcp/443, udp/1-9 or icmp`,
    );
  }
  const protocols = match[1] === undefined ? (["tcp", "udp"] as const) : [match[1] as "tcp" | "udp"];
  return protocols.map((protocol) => ({ protocol, first, last }));
}

/** Sorted, with neighbouring and overlapping ranges as one. @throws Fault "limit" */
function settled(ranges: readonly Ports[]): readonly Ports[] {
  const out: Ports[] = ranges.some(({ protocol }) => protocol === "icmp") ? [{ protocol: "icmp" }] : [];
  for (const protocol of ["tcp", "udp"] as const) {
    const own = ranges
      .flatMap((each) => (each.protocol === protocol ? [{ first: each.first, last: each.last }] : []))
      .sort((one, other) => one.first - other.first);
    for (let at = 0; at < own.length; ) {
      const { first } = own[at]!;
      let { last } = own[at]!;
      for (at++; at < own.length && own[at]!.first <= last + 1; at++) last = Math.max(last, own[at]!.last);
      out.push({ protocol, first, last });
    }
  }
  if (out.length > maxRanges) throw tooMany();
  return out;
}

function tooMany(): Fault {
  return new Fault("limit", `Cannot connect: more than ${maxRanges} ranges of ports`);
}
