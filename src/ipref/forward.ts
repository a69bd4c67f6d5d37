/**
 * The forwarders: packets of the LAN become tunnel packets and back, as pure functions over bytes.
 *
 * `Outward` takes what the kernel routes into the TUN device, `Inward` what comes in by UDP. Neither has a clock, a
 * socket or a memory of flows; both read mappings through a `Lookup`, make none, allocate nothing per packet, and
 * never throw whatever the bytes are. Results are numbers in their fields, valid until the next call.
 *
 * A plain packet takes one call:
 *
 *     const verdict = outward.forward(arena, offset, length);
 *
 * which rewrites it where it lies: the IP header makes way for the tunnel header (`headroomBytes` before `offset`
 * may be written), `resultOffset` and `resultLength` tell where the result is, and `lookup.bytes` has the peer's
 * address at `peer`. A super-packet takes two steps, because the add-on does the copying:
 *
 *     outward.gsoBytes = gsoSize;  outward.partial = needsChecksum;     // both are 0 and false again afterwards
 *     if (outward.decide(arena, offset, length) === Verdict.send) {
 *       if (outward.templated) {
 *         // netio.split(arena, target, outward.frame(), numbers) with offset: transportOffset,
 *         // length: transportLength, protocol, size: segmentBytes, ip: -1, seedOut: seedOut
 *       } else verdict = outward.place(arena);
 *     }
 *
 * `decide` looks at the packet and leaves it as it is (but for the MSS of a SYN, which is lowered to the same value
 * however often it is looked at), `place` writes; `forward` is both. Inward, likewise, where a UDP_GRO batch has
 * several tunnel packets of one length:
 *
 *     inward.from(names, addressOffset);                                     // the UDP source address of the batch
 *     if (inward.decide(arena, offset, segmentBytes) === Verdict.send && inward.templated) {
 *       // netio.join(arena, target, inward.frameBehindVnet(), numbers) with offset, length: the rest of the batch,
 *       // protocol, size: segmentBytes, strip: stripBytes, ip: 10, vnet: 1, seedIn: seedIn, seedOut: seedOut;
 *       // answers 0 where the first cannot be joined: inward.place(arena) then
 *     }
 *
 * A super-packet is never placed: that would make one tunnel packet of it.
 *
 * On `Verdict.ask` the missing mapping is: outward, a reference for the local host at `asked` of the arena; inward,
 * an encoded address for `askedContext` and `askedReference`. It is asked for only once everything else about the
 * packet is right, above all its destination.
 *
 * Errors (`Verdict.answer`) are bytes in `answer`, `answerLength` of them: outward a whole IP packet for the LAN, whose
 * source is the gateway's encoded address; inward a tunnel packet for the address that the packet came from. Each takes
 * one of `tokens`, which the caller refills. Linux takes packets with an own address as their source from a TUN only
 * where accept_local is set for it (IPv4).
 *
 * What the tunnel has no room for is lost: TOS with ECN, flow labels, IPv4 options, IPv6 extension headers but
 * fragments, and the id of IPv4 packets that are not fragmented.
 */

export { Drop, type DropName, dropNames } from "./drops.ts";
export { Pieces } from "./fragment.ts";
export { Inward, type InwardParts } from "./inward.ts";
export { Outward, type OutwardParts } from "./outward.ts";
export { Paths } from "./paths.ts";
export type { ForwardSettings, Peers } from "./settings.ts";
export { headroomBytes, longestHeaderBytes, Verdict } from "./verdict.ts";
