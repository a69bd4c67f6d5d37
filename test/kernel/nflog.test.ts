/** NFLOG: decoding packets that rules log, and getting real ones. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type AttributeList, concat, encodeAttributes, network } from "../../src/kernel/attribute.ts";
import {
  decodePacket,
  type LoggedPacket,
  type Nflog,
  type NflogOptions,
  openNflog,
} from "../../src/kernel/nflog.ts";
import { Fault } from "../../src/lib/fault.ts";
import {
  addHost,
  forward,
  madeUpMachine,
  messageOf,
  nft,
  openSystem,
  pause,
  recorded,
  recordedElsewhere,
  script,
  sh,
  start,
  stopAll,
  toUs,
  until,
} from "./yard.ts";

const system = openSystem();
const bytes = (...values: number[]) => Uint8Array.from(values);
const hex = (value: Uint8Array) => Buffer.from(value).toString("hex");

// ── decoding ──

const header = [1, bytes(0x08, 0x00, 2, 0)] as const;
const payload = [9, bytes(0x45, 0, 0, 20)] as const;
const message = (list: AttributeList) => concat([bytes(2, 0, 0, 5), encodeAttributes(list)]);

test("decodePacket: packets recorded from a kernel", () => {
  const rows = recorded().filter((row) => row.kind === "packet");
  for (const { hex: text, type, expected } of rows) {
    const packet = decodePacket(messageOf(type, Buffer.from(text, "hex")))!;
    assert.equal({ ...packet, payload: hex(packet.payload) }, expected);
  }
  assert.is(rows.length, recordedElsewhere ? 0 : 2);
});

test("decodePacket: row by row", () => {
  const nothing = { inIfindex: undefined, outIfindex: undefined, prefix: undefined, mac: undefined };
  const plain = { family: 4, protocol: 0x0800, hook: 2, payload: payload[1], ...nothing };
  const rows: readonly (readonly [string, AttributeList, unknown])[] = [
    ["no more than needed", [header, payload], plain],
    [
      "all of it",
      [
        header,
        [4, network.bytes32(7)],
        [5, network.bytes32(8)],
        [8, bytes(0, 6, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0)],
        [10, Buffer.from("dns\0")],
        payload,
      ],
      { ...plain, inIfindex: 7, outIfindex: 8, mac: "02:00:00:00:00:09", prefix: "dns" },
    ],
    [
      "a link address that is no MAC",
      [header, [8, bytes(0, 8, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0)], payload],
      plain,
    ],
    ["a MAC that is not all there", [header, [8, bytes(0, 6, 0, 0, 2, 0, 0, 0)], payload], plain],
    ["an empty packet", [header, [9, bytes()]], { ...plain, payload: bytes() }],
    ["IPv6", [[1, bytes(0x86, 0xdd, 1, 0)], payload], { ...plain, family: 6, protocol: 0x86dd, hook: 1 }],
    ["ARP", [[1, bytes(0x08, 0x06, 1, 0)], payload], undefined],
    ["no header", [payload], undefined],
    ["half a header", [[1, bytes(0x08, 0x00)], payload], undefined],
    ["no packet", [header], undefined],
  ];
  for (const [what, list, expected] of rows) {
    const packet = decodePacket(messageOf(0x400, message(list)));
    assert.equal(
      packet && { ...packet, payload: hex(packet.payload) },
      expected && { ...(expected as LoggedPacket), payload: hex((expected as LoggedPacket).payload) },
      what,
    );
  }
});

test("decodePacket: cut short or with bytes flipped it never throws, and never reads past the end", () => {
  const samples = [
    ...recorded()
      .filter((row) => row.kind === "packet")
      .map((row) => Buffer.from(row.hex, "hex")),
    message([header, [8, bytes(0, 6, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0)], [10, Buffer.from("dns\0")], payload]),
  ];
  for (const sample of samples) {
    const whole = decodePacket(messageOf(0x400, sample))!;
    let last = 0;
    for (let end = 0; end < sample.length; end++) {
      const packet = decodePacket({ ...messageOf(0x400, sample), end });
      if (!packet) continue;
      // Only padding may be missing.
      assert.is(hex(packet.payload), hex(whole.payload));
      last++;
    }
    assert.ok(last <= 3);
    for (let at = 0; at < sample.length; at++) {
      for (const flip of [1, 0x80, 0xff]) {
        const changed = Uint8Array.from(sample);
        changed[at]! ^= flip;
        const packet = decodePacket(messageOf(0x400, changed));
        if (packet) assert.ok(packet.payload.length <= sample.length);
      }
    }
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (noise) => {
      decodePacket(messageOf(0x400, noise));
    }),
  );
});

// ── a made-up kernel ──

async function madeUp(options: Partial<NflogOptions> = {}) {
  const { fake, system: clock } = madeUpMachine();
  const packets: string[] = [];
  const acknowledge = async () => {
    fake.answer([toUs(2, fake.sent.at(-1)!.sequence, { payload: new Uint8Array(20) })]);
    await pause(0);
  };
  const opening = openNflog(clock as unknown as typeof system, {
    group: 5,
    onPacket: (packet) => packets.push(hex(packet.payload)),
    ...options,
  });
  await acknowledge();
  await acknowledge();
  const nflog = await opening;
  const packet = (sequence: number) =>
    fake.answer([
      toUs(0x400, 0, { payload: message([header, [12, network.bytes32(sequence)], payload]), to: 0 }),
    ]);
  return { nflog, fake, packets, packet, acknowledge };
}

test("openNflog binds the group, whole packets, none held back, numbered", async () => {
  const { nflog, fake } = await madeUp();
  const told = fake.sent.map(({ type, bytes: all, start: from, end }) => [
    type,
    hex(all.subarray(from, end)),
  ]);
  assert.equal(told, [
    [0x401, hex(concat([bytes(0, 0, 0, 5), encodeAttributes([[1, bytes(1)]])]))],
    [
      0x401,
      hex(
        concat([
          bytes(0, 0, 0, 5),
          encodeAttributes([
            [2, bytes(0, 0, 0xff, 0xff, 2, 0)],
            [4, bytes(0, 0, 0, 1)],
            [5, bytes(0, 0, 0, 1)],
            [6, bytes(0, 1)],
          ]),
        ]),
      ),
    ],
  ]);
  nflog.close();
});

test("openNflog refuses a group that there cannot be", async () => {
  for (const group of [-1, 65_536, 1.5]) {
    try {
      await openNflog(system, { group, onPacket: () => undefined });
      assert.unreachable();
    } catch (thrown) {
      assert.instance(thrown, RangeError);
    }
  }
});

test("Nflog counts by their numbers the packets that did not come, also where the numbers begin anew", async () => {
  const { nflog, packet } = await madeUp();
  for (const sequence of [7, 8, 11, 0xffffffff - 1, 0xffffffff, 0, 2]) packet(sequence);
  assert.is(nflog.counters.packets, 7);
  assert.is(nflog.counters.lost, 2 + (0xffffffff - 1 - 12) + 1);
  nflog.close();
});

test("Nflog: garbage is counted, an overrun is told, a broken socket is bound again", async () => {
  let overruns = 0;
  const faults: Fault[] = [];
  const { nflog, fake, packets, packet, acknowledge } = await madeUp({
    onOverrun: () => overruns++,
    onFault: (fault) => faults.push(fault),
  });
  fake.answer([toUs(0x400, 0, { payload: bytes(2, 0, 0, 5, 1), to: 0 })]);
  assert.equal([nflog.counters.malformed, packets.length], [1, 0]);
  fake.overrun();
  assert.is(overruns, 1);
  packet(1);
  const before = fake.sent.length;
  fake.fail(new Fault("closed", "Cannot read: gone"));
  assert.equal([faults.length, overruns], [1, 2]);
  fake.advance(1_000);
  await acknowledge();
  await acknowledge();
  assert.is(fake.sent.length, before + 2);
  packet(1);
  assert.equal([packets.length, nflog.counters.lost], [2, 0]);
  nflog.close();
});

// ── the real kernel ──

const logs: Nflog[] = [];

/** A listener that keeps copies. */
async function listen(options: Partial<NflogOptions> & { group: number }) {
  const packets: (Omit<LoggedPacket, "payload"> & { payload: Buffer })[] = [];
  const log = await openNflog(system, {
    onPacket: (packet) => packets.push({ ...packet, payload: Buffer.from(packet.payload) }),
    ...options,
  });
  logs.push(log);
  return { log, packets };
}

const ifindexOf = (device: string) =>
  (JSON.parse(sh(`ip -json link show ${device}`)) as [{ ifindex: number }])[0].ifindex;

test.before(async () => {
  addHost({ name: "lan", device: "lan0", net: 1 });
  addHost({ name: "wan", device: "wan0", net: 2 });
  forward();
  nft(`table inet test {
    chain forward {
      type filter hook forward priority 0;
      udp dport 53 log group 5 prefix "question"
      udp sport 53 log group 5 prefix "answer"
      udp dport 54 log group 6
    }
    chain input { type filter hook input priority 0; udp dport 53 log group 5 prefix "own"; }
  }`);
  // A name server: all names have the same two addresses.
  start(
    "ip netns exec wan dnsmasq --keep-in-foreground --no-resolv --no-hosts --conf-file=/dev/null --user=root --address=/example.org/192.0.2.7 --address=/example.org/2001:db8::7",
  );
  await until("the name server", () => sh("ip netns exec wan ss -Hlnu").includes(":53"));
});
test.after(async () => {
  for (const log of logs) log.close();
  await stopAll();
});

test("openNflog: DNS questions and answers of both families, with interfaces, hook, MAC and prefix", async () => {
  const { log, packets } = await listen({ group: 5 });
  const mac = sh("ip netns exec lan cat /sys/class/net/eth0/address").trim();
  const [lan, wan] = [ifindexOf("lan0"), ifindexOf("wan0")];
  for (const [server, family, type, protocol] of [
    ["10.9.2.2", 4, "A", 0x0800],
    ["fd09:2::2", 6, "AAAA", 0x86dd],
  ] as const) {
    packets.length = 0;
    const shown = sh(`ip netns exec lan dig +short +tries=1 @${server} example.org ${type}`).trim();
    assert.is(shown, type === "A" ? "192.0.2.7" : "2001:db8::7");
    await until("question and answer", () => packets.length === 2);
    const [question, answer] = packets as [(typeof packets)[0], (typeof packets)[0]];
    assert.equal(
      [question.family, question.protocol, question.hook, question.inIfindex, question.outIfindex],
      [family, protocol, 2, lan, wan],
    );
    assert.equal([question.prefix, question.mac], ["question", mac]);
    assert.equal([answer.prefix, answer.inIfindex, answer.outIfindex], ["answer", wan, lan]);
    assert.is(question.payload[0]! >> 4, family);
    const addressAt = (at: number) =>
      question.payload.subarray(at, at + (family === 4 ? 4 : 16)).toString("hex");
    assert.is(
      addressAt(family === 4 ? 12 : 8),
      family === 4 ? "0a090102" : "fd090001000000000000000000000002",
    );
    // UDP ports, then the whole of the message with its name.
    const udp = family === 4 ? 20 : 40;
    assert.is(question.payload.readUInt16BE(udp + 2), 53);
    assert.is(question.payload.readUInt16BE(udp + 4), question.payload.length - udp);
    assert.ok(question.payload.includes(Buffer.from("\x07example\x03org\0", "latin1")));
    assert.ok(answer.payload.includes(family === 4 ? "c0000207" : "20010db8", 0, "hex"));
  }
  script("lan", "echo > /dev/udp/10.9.1.1/53");
  const own = await until("one to the router itself", () =>
    packets.find((packet) => packet.prefix === "own"),
  );
  assert.equal([own.hook, own.inIfindex, own.outIfindex], [1, lan, undefined]);
  assert.equal([log.counters.malformed, log.counters.lost, log.counters.overruns], [0, 0, 0]);
  log.close();
});

test("openNflog: copyBytes cuts what is copied", async () => {
  const { log, packets } = await listen({ group: 6, copyBytes: 30 });
  script("lan", "printf '%0500d' 0 > /dev/udp/10.9.2.2/54");
  await until("the packet", () => packets.length === 1);
  assert.is(packets[0]!.payload.length, 30);
  log.close();
});

test("openNflog: whatever is in a packet, it is handed over as it is", async () => {
  const { log, packets } = await listen({ group: 6 });
  script(
    "lan",
    "for n in {1..50}; do head -c $((n * 20)) /dev/urandom > /dev/udp/10.9.2.2/54; done; : | head -c 0",
  );
  await until("all", () => packets.length === 50);
  assert.equal(
    packets.map((packet) => packet.payload.length),
    Array.from({ length: 50 }, (_, at) => 28 + (at + 1) * 20),
  );
  assert.is(log.counters.malformed, 0);
  log.close();
});

test("openNflog: a group has one listener, and is free again when it closes", async () => {
  const { log } = await listen({ group: 6 });
  try {
    await openNflog(system, { group: 6, onPacket: () => undefined });
    assert.unreachable();
  } catch (thrown) {
    assert.instance(thrown, Fault);
    assert.is((thrown as Fault).code, "conflict");
  }
  log.close();
  // The kernel frees it with the socket, a moment later.
  await pause(0);
  const again = await listen({ group: 6 });
  script("lan", "echo > /dev/udp/10.9.2.2/54");
  await until("the packet", () => again.packets.length === 1);
  again.log.close();
});

test("openNflog leaves the machine's other loggers as they are", async () => {
  const before = sh("sysctl net.netfilter");
  const { log } = await listen({ group: 6 });
  assert.is(
    sh("sysctl net.netfilter").replace(/nf_conntrack_count.*/, ""),
    before.replace(/nf_conntrack_count.*/, ""),
  );
  log.close();
});

test("openNflog: packets that do not fit are counted and told, and later ones come", async () => {
  let overruns = 0;
  const { log, packets } = await listen({ group: 6, receiveBytes: 4_096, onOverrun: () => overruns++ });
  // While this runs, nothing is read.
  script("lan", "for n in {1..300}; do echo $n > /dev/udp/10.9.2.2/54; done");
  await until("some, and the news that some are missing", () => packets.length > 0 && overruns > 0);
  script("lan", "echo last > /dev/udp/10.9.2.2/54");
  await until("the last", () => packets.some((packet) => packet.payload.includes("last")));
  assert.is(log.counters.packets + log.counters.lost, 301);
  assert.is(log.counters.packets, packets.length);
  assert.ok(log.counters.lost > 0);
  log.close();
});

test("Nflog.close: nothing is handed over afterwards", async () => {
  const { log, packets } = await listen({ group: 6 });
  log.close();
  script("lan", "echo > /dev/udp/10.9.2.2/54");
  await pause(50);
  assert.is(packets.length, 0);
});

test.run();
