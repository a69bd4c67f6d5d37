/** ARP and neighbour discovery: rows both ways, every cut, every flipped bit, and what may not be believed. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, decodeAddress, decodeMac, type Mac } from "../../src/lib/address.ts";
import {
  decodeSpoken,
  encodeAdvertisement,
  encodeArpReply,
  encodeArpRequest,
  encodeSolicitation,
  linkLocalOf,
  type Spoken,
  solicitedNode,
} from "../../src/lib/arp.ts";

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replace(/\s/g, ""), "hex"));
const toHex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const [asker, owner] = ["02:00:00:00:00:01" as Mac, "02:00:00:00:00:0a" as Mac];
const [near, far] = ["192.0.2.1" as Address, "192.0.2.10" as Address];
const [near6, far6] = ["fe80::1" as Address, "2001:db8::10" as Address];
const known = { solicited: false, override: false, router: false };

const rows: readonly [name: string, packet: Uint8Array, bytes: string, spoken: Spoken][] = [
  [
    "an ARP request",
    encodeArpRequest({ senderMac: asker, sender: near, target: far }),
    "0001 0800 06 04 0001 020000000001 c0000201 000000000000 c000020a",
    { kind: "question", about: far, sender: near, receiver: far, mac: asker, ...known },
  ],
  [
    "an ARP probe",
    encodeArpRequest({ senderMac: asker, sender: "0.0.0.0" as Address, target: far }),
    "0001 0800 06 04 0001 020000000001 00000000 000000000000 c000020a",
    { kind: "question", about: far, sender: "0.0.0.0" as Address, receiver: far, mac: asker, ...known },
  ],
  [
    "an ARP reply",
    encodeArpReply({ senderMac: owner, sender: far, targetMac: asker, target: near }),
    "0001 0800 06 04 0002 02000000000a c000020a 020000000001 c0000201",
    {
      ...{ kind: "answer", about: far, sender: far, receiver: near, mac: owner },
      ...{ solicited: true, override: true, router: false },
    },
  ],
  [
    "a solicitation to all who may be meant",
    encodeSolicitation({ source: near6, sourceMac: asker, target: far6 }),
    `60000000 0020 3a ff fe800000000000000000000000000001 ff0200000000000000000001ff000010
     87 00 4b43 00000000 20010db8000000000000000000000010 01 01 020000000001`,
    {
      ...{ kind: "question", about: far6, sender: near6, receiver: "ff02::1:ff00:10" as Address, mac: asker },
      ...known,
    },
  ],
  [
    "a solicitation to one owner",
    encodeSolicitation({ source: near6, sourceMac: asker, target: far6, destination: far6 }),
    `60000000 0020 3a ff fe800000000000000000000000000001 20010db8000000000000000000000010
     87 00 1b8f 00000000 20010db8000000000000000000000010 01 01 020000000001`,
    { kind: "question", about: far6, sender: near6, receiver: far6, mac: asker, ...known },
  ],
  [
    "a question of somebody without address, who tells no MAC",
    encodeSolicitation({ source: "::" as Address, sourceMac: asker, target: far6 }),
    `60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff000010
     87 00 4ccf 00000000 20010db8000000000000000000000010`,
    {
      ...{ kind: "question", about: far6, sender: "::" as Address, receiver: "ff02::1:ff00:10" as Address },
      ...known,
    },
  ],
  [
    "an advertisement with all flags",
    encodeAdvertisement({
      ...{ source: far6, destination: near6, target: far6, mac: owner },
      ...{ router: true, solicited: true, override: true },
    }),
    `60000000 0020 3a ff 20010db8000000000000000000000010 fe800000000000000000000000000001
     88 00 3985 e0000000 20010db8000000000000000000000010 02 01 02000000000a`,
    {
      ...{ kind: "answer", about: far6, sender: far6, receiver: near6, mac: owner },
      ...{ solicited: true, override: true, router: true },
    },
  ],
  [
    "an advertisement to all, without MAC",
    encodeAdvertisement({ source: far6, target: far6 }),
    `60000000 0018 3a ff 20010db8000000000000000000000010 ff020000000000000000000000000001
     88 00 1d17 00000000 20010db8000000000000000000000010`,
    { kind: "answer", about: far6, sender: far6, receiver: "ff02::1" as Address, ...known },
  ],
];

/** Writes 16 bits somewhere, and makes the ICMPv6 checksum right again. */
function changed(packet: Uint8Array, at: number, ...values: number[]): Uint8Array {
  const copy = packet.slice();
  copy.set(values, at);
  copy.set([0, 0], 42);
  let sum = copy.length - 40 + 58;
  for (let index = 8; index < copy.length; index += 2) sum += (copy[index]! << 8) | (copy[index + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  copy.set([(~sum >> 8) & 255, ~sum & 255], 42);
  return copy;
}

for (const [name, packet, bytes, spoken] of rows) {
  test(`${name}, both ways`, () => {
    assert.is(toHex(packet), toHex(hex(bytes)));
    assert.equal(decodeSpoken(packet), spoken);
  });

  test(`${name}, with padding behind it as short frames have`, () => {
    assert.equal(decodeSpoken(Uint8Array.from([...packet, ...new Uint8Array(18)])), spoken);
  });

  test(`${name}, cut at every length, is nothing`, () => {
    for (let end = 0; end < packet.length; end++) {
      assert.is(decodeSpoken(packet.slice(0, end)), "short", `${end} bytes`);
    }
  });

  test(`${name}, with any bit flipped: another word, or a reason`, () => {
    for (let bit = 0; bit < packet.length * 8; bit++) {
      const copy = packet.slice();
      copy[bit >> 3] = copy[bit >> 3]! ^ (1 << (bit & 7));
      const outcome = decodeSpoken(copy);
      assert.ok(typeof outcome === "string" || typeof outcome === "object");
      // The checksum covers all of an ICMPv6 message: nothing of it is believed.
      if (packet[0] === 0x60 && bit >= 64) assert.type(outcome, "string", `bit ${bit}`);
    }
  });
}

const [request, reply, solicit, , , advertise] = rows.map(([, packet]) => packet) as [
  Uint8Array,
  ...Uint8Array[],
];
const told = rows[6]![1];
const set = (packet: Uint8Array, at: number, ...values: number[]) => {
  const copy = packet.slice();
  copy.set(values, at);
  return copy;
};

const refusals: readonly [name: string, packet: Uint8Array, reason: string][] = [
  ["of another hardware", set(request, 0, 0, 6), "foreign"],
  ["of another protocol", set(request, 2, 0x86, 0xdd), "foreign"],
  ["with longer hardware addresses", set(request, 4, 8), "foreign"],
  ["with longer protocol addresses", set(request, 5, 16), "foreign"],
  ["an ARP operation 0", set(request, 7, 0), "foreign"],
  ["a reverse ARP request", set(request, 7, 3), "foreign"],
  ["a reply about nobody", set(rows[2]![1], 14, 0, 0, 0, 0), "address"],
  ["a reply about a group", set(rows[2]![1], 14, 224, 0, 0, 1), "address"],
  ["a reply about everybody", set(rows[2]![1], 14, 255, 255, 255, 255), "address"],
  ["a reply about the speaker's own loopback", set(rows[2]![1], 14, 127, 0, 0, 1), "address"],
  ["a question of a group", set(request, 14, 224, 0, 0, 1), "address"],
  ["a hop limit under 255", set(told, 7, 254), "hops"],
  ["a wrong checksum", set(told, 42, 0, 0), "checksum"],
  ["an ICMPv6 code", changed(told, 41, 1), "foreign"],
  ["a router advertisement", changed(told, 40, 134), "foreign"],
  ["TCP", set(told, 6, 6), "foreign"],
  ["an extension header", set(told, 6, 0), "foreign"],
  ["a payload longer than what is there", set(told, 4, 0, 200), "short"],
  ["a payload shorter than an advertisement", set(told, 4, 0, 20), "short"],
  ["an option without length", changed(told, 65, 0), "option"],
  ["an option past the end", changed(told, 65, 2), "option"],
  ["about a group", changed(told, 48, 0xff, 2), "address"],
  ["about nobody", changed(told, 48, ...new Uint8Array(16)), "address"],
  ["a solicited answer to all", changed(told, 24, 0xff, 2, ...new Uint8Array(13), 1), "address"],
  ["an answer of nobody", changed(told, 8, ...new Uint8Array(16)), "address"],
  ["a question of nobody that tells a MAC", changed(rows[3]![1], 8, ...new Uint8Array(16)), "address"],
];

for (const [name, packet, reason] of refusals) {
  test(`decodeSpoken refuses ${name}`, () => assert.is(decodeSpoken(packet), reason));
}

test("of options only those that tell a link-layer address count, and of the wrong kind none does", () => {
  // An unknown option (14, a nonce) before the one that counts.
  const withNonce = Uint8Array.from([...told.slice(0, 64), 14, 1, 1, 2, 3, 4, 5, 6, ...told.slice(64)]);
  const spoken = decodeSpoken(changed(set(withNonce, 4, 0, 40), 40, 136)) as Spoken;
  assert.is(spoken.mac, owner);
  const wrongKind = decodeSpoken(changed(told, 64, 1)) as Spoken;
  assert.is(wrongKind.mac, undefined);
});

test("the flags of an advertisement, each by itself", () => {
  for (const router of [false, true]) {
    for (const solicited of [false, true]) {
      for (const override of [false, true]) {
        const flags = { router, solicited, override };
        const destination = solicited ? { destination: near6 } : {};
        const packet = encodeAdvertisement({
          source: far6,
          target: far6,
          mac: owner,
          ...destination,
          ...flags,
        });
        const { router: r, solicited: s, override: o } = decodeSpoken(packet) as Spoken;
        assert.equal({ router: r, solicited: s, override: o }, flags);
      }
    }
  }
});

test("solicitedNode and linkLocalOf, as the RFCs give them", () => {
  assert.is(solicitedNode("4037::1:800:200e:8c6c" as Address), "ff02::1:ff0e:8c6c");
  assert.is(linkLocalOf("34:56:78:9a:bc:de" as Mac), "fe80::3656:78ff:fe9a:bcde");
});

test("whatever is encoded is decoded as it was meant", () => {
  const mac = fc.uint8Array({ minLength: 6, maxLength: 6 }).map((bytes) => decodeMac(bytes));
  const v4 = fc.tuple(fc.integer({ min: 1, max: 126 }), fc.nat(255), fc.nat(255), fc.nat(255));
  const address4 = v4.map((bytes) => decodeAddress(Uint8Array.from(bytes), 0, 4));
  const v6 = fc.uint8Array({ minLength: 15, maxLength: 15 });
  const address6 = v6.map((bytes) => decodeAddress(Uint8Array.from([0x20, ...bytes]), 0, 6));
  fc.assert(
    fc.property(mac, address4, address4, (senderMac, sender, target) => {
      const answer = decodeSpoken(encodeArpReply({ senderMac, sender, target })) as Spoken;
      assert.equal([answer.about, answer.receiver, answer.mac], [sender, target, senderMac]);
    }),
  );
  fc.assert(
    fc.property(mac, address6, address6, (sourceMac, source, target) => {
      const question = decodeSpoken(encodeSolicitation({ source, sourceMac, target })) as Spoken;
      assert.equal([question.about, question.sender, question.mac], [target, source, sourceMac]);
      assert.is(question.receiver, solicitedNode(target));
    }),
  );
});

test("any bytes at all are a word or a reason", () => {
  const start = fc.constantFrom([], [0x60], [...request.slice(0, 8)], [...solicit!.slice(0, 48)]);
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 120 }), (head, tail) => {
      const outcome = decodeSpoken(Uint8Array.from([...head, ...tail]));
      assert.ok(typeof outcome === "string" || outcome.about.length > 0);
    }),
    { numRuns: 2_000 },
  );
  assert.ok(reply && advertise);
});

test.run();
