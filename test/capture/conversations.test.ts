/** What a capture file tells: who opened what, how much passed, who is where, and what is nobody's. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Conversation, Conversations } from "../../src/capture/capture.ts";
import { type Address, encodeAddress, familyOf, parseAddress } from "../../src/lib/address.ts";
import { LinkType } from "../../src/lib/pcap.ts";

const camera = { address: "10.77.0.11", mac: "027700000011" };
const router = { address: "10.77.0.1", mac: "027700000001" };
const server = { address: "198.51.100.10", mac: router.mac };

const hex = (text: string) => [...Buffer.from(text.replace(/\s/g, ""), "hex")];
const u16 = (value: number) => [value >> 8, value & 255];

interface Ends {
  readonly from: { readonly address: string; readonly mac: string };
  readonly to: { readonly address: string; readonly mac: string };
}

interface Details {
  readonly hops?: number;
  /** IPv4 only: offset in bytes, and whether more follow. */
  readonly fragment?: readonly [number, boolean];
}

/** An Ethernet frame with an IP packet. */
function frame(
  { from, to }: Ends,
  protocol: number,
  payload: readonly number[],
  details: Details = {},
): Uint8Array {
  const { hops = 64, fragment = [0, false] } = details;
  const [source, destination] = [from, to].map(({ address }) => [...encodeAddress(parseAddress(address)!)]);
  const isV4 = familyOf(from.address as Address) === 4;
  const bits = (fragment[0] >> 3) | (fragment[1] ? 0x2000 : 0);
  const header = isV4
    ? [
        0x45,
        0,
        ...u16(20 + payload.length),
        0,
        7,
        ...u16(bits),
        hops,
        protocol,
        0,
        0,
        ...source!,
        ...destination!,
      ]
    : [0x60, 0, 0, 0, ...u16(payload.length), protocol, hops, ...source!, ...destination!];
  return Uint8Array.from([
    ...hex(to.mac),
    ...hex(from.mac),
    ...hex(isV4 ? "0800" : "86dd"),
    ...header,
    ...payload,
  ]);
}

const udp = (source: number, destination: number, length = 4) => [
  ...[...u16(source), ...u16(destination), ...u16(8 + length), 0, 0],
  ...new Array<number>(length).fill(1),
];
const tcp = (source: number, destination: number, flags: number) => [
  ...[...u16(source), ...u16(destination), 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0],
];
const [syn, synAck, ack] = [2, 18, 16];

function open(isLocal = (address: Address) => address.startsWith("10.77.") || address.startsWith("fd77:")) {
  const told: string[] = [];
  const conversations: Conversation[] = [];
  const taker = new Conversations({
    isLocal,
    neighbour: ({ address, mac }) => told.push(`${address} at ${mac}`),
    dns: (packet) => told.push(`dns ${packet.length}`),
    conversation(each) {
      conversations.push(each);
      told.push(`${each.source} ${each.sourcePort} to ${each.destination} ${each.destinationPort}`);
    },
  });
  let date = 1_000;
  const take = (
    bytes: Uint8Array,
    more: { linkType?: number; date?: number; originalBytes?: number } = {},
  ) => {
    date = more.date ?? date;
    taker.take({ linkType: LinkType.ethernet, originalBytes: bytes.length, ...more, date, bytes });
  };
  return { taker, told, conversations, take };
}

const out: Ends = { from: camera, to: server };
const back: Ends = { from: server, to: camera };

test("both directions are one conversation, opened by who was seen first, in sizes of whole IP packets", () => {
  const { taker, conversations, take } = open();
  take(frame(out, 17, udp(5000, 123, 40)));
  take(frame(back, 17, udp(123, 5000, 100), { hops: 63 }));
  take(frame(out, 17, udp(5000, 123, 40)));
  taker.flush();
  assert.equal(conversations, [
    {
      ...{ source: "10.77.0.11", destination: "198.51.100.10", protocol: 17, icmpType: 0 },
      ...{ sourcePort: 5000, destinationPort: 123 },
      ...{ bytesOut: 136, packetsOut: 2, bytesIn: 128, packetsIn: 1 },
    },
  ]);
  taker.flush();
  assert.is(conversations.length, 1);
});

test("TCP's handshake names the opener, whoever is seen first, and a new one with the same ports begins anew", () => {
  const { taker, told, conversations, take } = open();
  take(frame(back, 6, tcp(80, 4000, synAck), { hops: 63 }));
  take(frame(out, 6, tcp(4000, 80, ack)));
  take(frame(back, 6, tcp(80, 4000, syn), { hops: 63 }));
  take(frame(out, 6, tcp(4000, 80, synAck)));
  taker.flush();
  assert.equal(
    told.filter((line) => line.includes(" to ")),
    ["10.77.0.11 4000 to 198.51.100.10 80", "198.51.100.10 80 to 10.77.0.11 4000"],
  );
  assert.equal(
    conversations.map(({ packetsOut, packetsIn }) => [packetsOut, packetsIn]),
    [
      [1, 1],
      [1, 1],
    ],
  );
});

test("conversations are told after each second of the capture's time, the last ones at the end", () => {
  const { taker, told, take } = open();
  const lines = () => told.filter((line) => line.includes(" to ")).length;
  take(frame(out, 17, udp(1, 2)), { date: 5_000 });
  take(frame(out, 17, udp(1, 2)), { date: 5_900 });
  assert.is(lines(), 0);
  take(frame(out, 17, udp(3, 2)), { date: 6_000 });
  assert.is(lines(), 1);
  // The clock was set back: that must not stop the telling.
  take(frame(out, 17, udp(3, 2)), { date: 100 });
  assert.is(lines(), 2);
  taker.flush();
  assert.is(lines(), 3);
});

test("an answered echo is one conversation, other ICMP one for each type", () => {
  const { taker, conversations, take } = open();
  take(frame(out, 1, hex("0800000000010001")));
  take(frame(back, 1, hex("0000000000010001"), { hops: 63 }));
  take(frame(back, 1, hex("0301000000000000"), { hops: 63 }));
  const six: Ends = {
    from: { address: "fd77::11", mac: camera.mac },
    to: { address: "2001:db8::1", mac: router.mac },
  };
  take(frame(six, 58, hex("8000000000010001")));
  take(frame({ from: six.to, to: six.from }, 58, hex("8100000000010001"), { hops: 60 }));
  taker.flush();
  assert.equal(
    conversations.map(({ icmpType, packetsOut, packetsIn }) => [icmpType, packetsOut, packetsIn]),
    [
      [8, 1, 1],
      [3, 1, 0],
      [128, 1, 1],
    ],
  );
});

test("later fragments belong to the conversation of the first", () => {
  const { taker, conversations, take } = open();
  take(frame(out, 17, udp(5000, 123, 32), { fragment: [0, true] }));
  take(frame(out, 17, new Array(64).fill(9), { fragment: [40, true] }));
  take(frame(out, 17, new Array(10).fill(9), { fragment: [104, false] }));
  taker.flush();
  assert.equal(
    conversations.map(({ sourcePort, bytesOut, packetsOut }) => [sourcePort, bytesOut, packetsOut]),
    [[5000, 60 + 84 + 30, 3]],
  );
});

test("a frame tells the MAC of its sender before all else, once, but not for what a router passed on", () => {
  const { taker, told, take } = open();
  take(frame(out, 17, udp(40000, 53)));
  take(frame(back, 17, udp(53, 40000), { hops: 63 }));
  take(frame(out, 17, udp(40000, 53)));
  // From another LAN behind the router: its MAC is not this device's.
  take(frame({ from: { address: "10.77.1.5", mac: router.mac }, to: camera }, 17, udp(1, 2), { hops: 63 }));
  take(frame({ from: { address: "10.77.0.1", mac: router.mac }, to: camera }, 17, udp(1, 2)));
  assert.equal(told, [
    "10.77.0.11 at 02:77:00:00:00:11",
    "dns 32",
    "dns 32",
    "dns 32",
    "10.77.0.1 at 02:77:00:00:00:01",
  ]);
  taker.flush();
});

test("ARP and neighbour advertisements tell MACs of whatever address", () => {
  const { taker, told, take } = open(() => false);
  const arp = (operation: number, sender: string) =>
    Uint8Array.from(
      hex(`ffffffffffff ${camera.mac} 0806 0001 0800 0604 000${operation} ${camera.mac} ${sender}
      000000000000 0a4d0001`),
    );
  take(arp(1, "cb007105"));
  take(arp(2, "cb007106"));
  // A probe has no address yet.
  take(arp(1, "00000000"));
  const six: Ends = {
    from: { address: "fe80::11", mac: camera.mac },
    to: { address: "ff02::1", mac: "333300000001" },
  };
  const advertisement = (target: string, option: string) => hex(`88000000 20000000 ${target} ${option}`);
  take(frame(six, 58, advertisement("20010db8000000000000000000000011", ""), { hops: 255 }));
  take(frame(six, 58, advertisement("20010db8000000000000000000000012", "0201027700000099"), { hops: 255 }));
  take(frame(six, 58, advertisement("20010db8000000000000000000000013", ""), { hops: 64 }));
  assert.equal(told, [
    "203.0.113.5 at 02:77:00:00:00:11",
    "203.0.113.6 at 02:77:00:00:00:11",
    "2001:db8::11 at 02:77:00:00:00:11",
    "2001:db8::12 at 02:77:00:00:00:99",
  ]);
  assert.equal(taker.counters, { packets: 6, unspoken: { link: 0, other: 3, packet: 0, nobody: 3 } });
});

test("what is from or to nobody, or no packet, is counted and in no conversation", () => {
  const { taker, conversations, take } = open();
  const everybody = { address: "10.77.0.255", mac: "ffffffffffff" };
  take(frame({ from: camera, to: everybody }, 17, udp(68, 67)));
  take(frame({ from: camera, to: { address: "224.0.0.251", mac: "01005e0000fb" } }, 17, udp(5353, 5353)));
  take(frame({ from: { address: "0.0.0.0", mac: camera.mac }, to: router }, 17, udp(68, 67)));
  take(frame({ from: camera, to: { address: "255.255.255.255", mac: router.mac } }, 17, udp(68, 67)));
  take(Uint8Array.from(hex(`${router.mac} ${camera.mac} 0800 55`)));
  take(Uint8Array.from(hex(`${router.mac} ${camera.mac} 88cc 0000`)));
  take(new Uint8Array(3));
  take(frame(out, 17, udp(1, 2)), { linkType: 999 });
  taker.flush();
  assert.equal(conversations, []);
  assert.equal(taker.counters, { packets: 8, unspoken: { link: 2, other: 1, packet: 1, nobody: 4 } });
});

test("a cut packet counts in full, an offloaded one by what the link carried", () => {
  const { taker, conversations, take } = open();
  const long = frame(out, 17, udp(1, 2, 1000));
  take(long.slice(0, 60), { originalBytes: long.length });
  const offloaded = frame(out, 6, tcp(3, 4, ack));
  offloaded.set([0, 0], 16);
  take(offloaded, { originalBytes: 14 + 40_000 });
  taker.flush();
  assert.equal(
    conversations.map(({ bytesOut }) => bytesOut),
    [1028, 40_000],
  );
});

test("however many ends there are, what is kept is bounded, and nothing that passed is lost", () => {
  const { taker, conversations, take } = open();
  const many = 40_000;
  for (let number = 0; number < many; number++) {
    take(frame(out, 17, udp(number & 0xffff, 100 + (number >> 15))));
  }
  taker.flush();
  assert.is(
    conversations.reduce((sum, each) => sum + each.packetsOut, 0),
    many,
  );
});

test("cut at every length or with a byte changed, a frame is counted and nothing throws", () => {
  const frames = [
    frame(out, 6, tcp(1, 80, syn)),
    frame(out, 17, udp(1, 53)),
    frame({ from: { address: "fd77::11", mac: camera.mac }, to: router }, 17, udp(1, 53)),
    frame(
      { from: { address: "fe80::11", mac: camera.mac }, to: { address: "fe80::1", mac: router.mac } },
      58,
      hex(`8800000020000000 20010db8000000000000000000000012 0201027700000099`),
      { hops: 255 },
    ),
  ];
  const { taker, take } = open();
  let taken = 0;
  for (const bytes of frames) {
    for (let at = 0; at < bytes.length; at++) {
      take(bytes.slice(0, at));
      for (const flip of [1, 0x80, 0xff]) {
        const damaged = bytes.slice();
        damaged[at] = damaged[at]! ^ flip;
        take(damaged);
      }
      taken += 4;
    }
  }
  taker.flush();
  assert.is(taker.counters.packets, taken);
});

test.run();
