/** openNfqueue: packets that wait for a verdict, on a kernel that says what the test wants and on the real one. */

import { spawn } from "node:child_process";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { concat, encodeAttributes, network } from "../../src/kernel/attribute.ts";
import { decodeHeld, Nfqueue, type NfqueueOptions, openNfqueue } from "../../src/kernel/nfqueue.ts";
import { Fault } from "../../src/lib/fault.ts";
import {
  addHost,
  faultOf,
  forward,
  madeUpMachine,
  messageOf,
  openSystem,
  pause,
  script,
  sh,
  stopAll,
  toUs,
  until,
} from "./yard.ts";

/** Set for a process that listens and gives no verdict. */
const asListener = "NFQUEUE_LISTENER";

const bytes = (...values: number[]) => Uint8Array.from(values);
const hex = (given: Uint8Array) => Buffer.from(given).toString("hex");

/** A message with a packet, as the kernel sends it. */
function packetPayload(
  id: number,
  parts: { protocol?: number; payload?: Uint8Array; mac?: Uint8Array } = {},
) {
  const {
    protocol = 0x0800,
    payload = bytes(0x45, 1, 2, 3),
    mac = bytes(0, 6, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0),
  } = parts;
  return concat([
    bytes(2, 0, 0, 5),
    encodeAttributes([
      [1, concat([network.bytes32(id), network.bytes16(protocol), bytes(2)])],
      [5, network.bytes32(3)],
      [6, network.bytes32(4)],
      [9, mac],
      [10, payload],
    ]),
  ]);
}

test("decodeHeld: id, interfaces, hook, MAC and the packet", () => {
  const { id, packet } = decodeHeld(messageOf(0x300, packetPayload(0xfffffffe)))!;
  assert.is(id, 0xfffffffe);
  assert.equal(
    { ...packet!, payload: hex(packet!.payload) },
    {
      ...{ payload: "45010203", family: 4, protocol: 0x0800, hook: 2, prefix: undefined },
      ...{ inIfindex: 3, outIfindex: 4, mac: "02:00:00:00:00:09" },
    },
  );
  const six = decodeHeld(messageOf(0x300, packetPayload(1, { protocol: 0x86dd, mac: bytes(0, 8, 0, 0) })))!;
  assert.equal([six.packet!.family, six.packet!.mac], [6, undefined]);
  const foreign = decodeHeld(messageOf(0x300, packetPayload(7, { protocol: 0x0806 })))!;
  assert.equal([foreign.id, foreign.packet], [7, undefined]);
});

test("decodeHeld: cut at every length and with bytes turned over, it never throws and reads no further", () => {
  const whole = packetPayload(9);
  for (let length = 0; length < whole.length; length++) {
    const decoded = decodeHeld(messageOf(0x300, whole.slice(0, length)));
    if (decoded?.packet) assert.is(decoded.id, 9);
  }
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), fc.nat(whole.length), (at, value, length) => {
      const damaged = whole.slice(0, length);
      if (at < damaged.length) damaged[at] = value;
      const decoded = decodeHeld(messageOf(0x300, damaged));
      assert.ok((decoded?.packet?.payload.length ?? 0) <= damaged.length);
    }),
    { numRuns: 2_000 },
  );
});

const verdicts = (fake: ReturnType<typeof madeUpMachine>["fake"]) =>
  fake.sent
    .filter(({ type }) => type === 0x301 || type === 0x303)
    .map(({ type, bytes: all, end }) => `${type === 0x301 ? "one" : "upto"} ${network.read32(all, end - 4)}`);

async function madeUp(options: Partial<NfqueueOptions> = {}) {
  const { fake, system } = madeUpMachine();
  const waiting = new Map<number, () => void>();
  const opening = openNfqueue({ ...system, read: async () => undefined } as never, {
    queue: 5,
    onPacket: (packet, verdict) => void waiting.set(packet.payload[1]!, verdict),
    ...options,
  });
  const acknowledge = async () => {
    const { sequence } = fake.sent.filter(({ type }) => type === 0x302).at(-1)!;
    fake.answer([toUs(2, sequence, { payload: bytes(0, 0, 0, 0) })]);
    await pause(0);
  };
  await pause(0);
  await acknowledge();
  const queue = await opening;
  const come = (...ids: number[]) =>
    fake.answer(
      ids.map((id) =>
        toUs(0x300, 0, { payload: packetPayload(id, { payload: bytes(0x45, id & 255) }), to: 0 }),
      ),
    );
  return { fake, queue, waiting, come, acknowledge };
}

test("openNfqueue binds the queue in one message: whole packets, a length, and open when it is full", async () => {
  const { queue, fake } = await madeUp({ maxHeld: 77 });
  const told = fake.sent.map(({ type, bytes: all, start: from, end }) => [
    type,
    hex(all.subarray(from, end)),
  ]);
  assert.equal(told, [
    [
      0x302,
      hex(
        concat([
          bytes(0, 0, 0, 5),
          encodeAttributes([
            [1, bytes(1, 0, 0, 0)],
            [2, bytes(0, 0, 0xff, 0xff, 2)],
            [3, bytes(0, 0, 0, 77)],
            [4, bytes(0, 0, 0, 1)],
            [5, bytes(0, 0, 0, 1)],
          ]),
        ]),
      ),
    ],
  ]);
  void queue.close();
});

test("Nfqueue: a verdict is given once, whenever it is asked for, and late ones go together", async () => {
  const { queue, fake, waiting, come } = await madeUp({ holdMs: 100 });
  come(1, 2, 3);
  assert.is(queue.held, 3);
  waiting.get(2)!();
  waiting.get(2)!();
  assert.equal(verdicts(fake), ["one 2"]);
  fake.advance(99);
  come(4);
  assert.equal([verdicts(fake).length, queue.held], [1, 3]);
  fake.advance(1);
  assert.equal(verdicts(fake), ["one 2", "upto 3"]);
  assert.equal([queue.held, queue.counters.late], [1, 2]);
  waiting.get(3)!();
  fake.advance(98);
  assert.is(queue.held, 1);
  fake.advance(1);
  assert.equal(verdicts(fake), ["one 2", "upto 3", "upto 4"]);
  assert.equal([queue.held, queue.counters.packets, queue.counters.late], [0, 4, 3]);
  void queue.close();
});

test("Nfqueue: what cannot be read passes: at once with an id, without one when its time is over", async () => {
  const { queue, fake, come } = await madeUp({ holdMs: 100 });
  come(1);
  fake.answer([toUs(0x300, 0, { payload: packetPayload(2, { protocol: 0x0806 }), to: 0 })]);
  fake.answer([toUs(0x300, 0, { payload: bytes(2, 0, 0, 5, 1), to: 0 })]);
  assert.equal(verdicts(fake), ["one 2"]);
  assert.is(queue.counters.malformed, 2);
  fake.advance(100);
  assert.equal(verdicts(fake), ["one 2", "upto 3"]);
  void queue.close();
});

test("Nfqueue: whatever comes, everything gets its verdict in time, and nothing twice", async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("come" as const), value: fc.integer({ min: 1, max: 4 }) }),
    fc.record({ kind: fc.constant("verdict" as const), value: fc.nat(20) }),
    fc.record({ kind: fc.constant("wait" as const), value: fc.integer({ min: 1, max: 70 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { fake, queue, waiting, come } = await madeUp({ holdMs: 100 });
      let [id, now] = [0, 0];
      const open = new Map<number, number>();
      let read = 0;
      const settle = () => {
        const list = verdicts(fake);
        for (const verdict of list.slice(read)) {
          const [kind, text] = verdict.split(" ");
          if (kind === "one") assert.ok(open.delete(Number(text)), verdict);
          else for (const each of [...open.keys()]) if (each <= Number(text)) open.delete(each);
        }
        read = list.length;
      };
      for (const { kind, value } of steps) {
        if (kind === "come") {
          for (let count = 0; count < value; count++) {
            come(++id);
            open.set(id, now);
          }
        } else if (kind === "verdict") waiting.get(value)?.();
        else {
          // One step at a time, as a clock does.
          for (let ms = 0; ms < value; ms++) {
            now++;
            fake.advance(1);
            settle();
            for (const since of open.values()) assert.ok(now - since < 100, "in time");
          }
        }
        settle();
        assert.is(queue.held, open.size);
      }
      void queue.close();
    }),
    { numRuns: 100 },
  );
});

test("Nfqueue: a verdict that the kernel has no room for is given with the next", async () => {
  const { fake, system } = madeUpMachine();
  let full = false;
  const machine = {
    ...system,
    read: async () => undefined,
    netlink: (...given: Parameters<typeof system.netlink>) => {
      const socket = system.netlink(...given);
      return {
        ...socket,
        send: (message: Uint8Array) => {
          if (full) throw new Fault("kernel", "Cannot send: no room");
          socket.send(message);
        },
      };
    },
  };
  let verdict: () => void = () => undefined;
  const opening = openNfqueue(machine as never, {
    queue: 5,
    holdMs: 100,
    onPacket: (_, give) => (verdict = give),
  });
  await pause(0);
  fake.answer([toUs(2, fake.sent.at(-1)!.sequence, { payload: bytes(0, 0, 0, 0) })]);
  const queue = await opening;
  fake.answer([toUs(0x300, 0, { payload: packetPayload(1), to: 0 })]);
  full = true;
  verdict();
  fake.advance(100);
  fake.advance(10);
  assert.equal([queue.held, verdicts(fake).length], [1, 0]);
  full = false;
  fake.advance(10);
  assert.equal([queue.held, verdicts(fake)], [0, ["upto 1"]]);
  void queue.close();
});

test("Nfqueue: a broken socket is bound again, and verdicts from before it are not given to others", async () => {
  const faults: Fault[] = [];
  const { queue, fake, waiting, come, acknowledge } = await madeUp({
    onFault: (fault) => faults.push(fault),
  });
  come(1);
  const former = waiting.get(1)!;
  fake.fail(new Fault("closed", "Cannot read: gone"));
  assert.equal([faults.length, queue.held], [1, 0]);
  fake.advance(1_000);
  await acknowledge();
  come(1);
  former();
  assert.equal([queue.held, verdicts(fake)], [1, []]);
  waiting.get(1)!();
  assert.equal(verdicts(fake), ["one 1"]);
  void queue.close();
});

test("Nfqueue.close: the queue takes no more, and all that is in it passes", async () => {
  const { queue, fake, come, acknowledge } = await madeUp();
  come(6, 7);
  const closing = queue.close();
  await pause(0);
  await acknowledge();
  await closing;
  assert.equal(verdicts(fake), [`upto ${7 + 0x100000}`]);
  assert.is(queue.held, 0);
});

test("openNfqueue refuses numbers that cannot be", () => {
  const onPacket = () => undefined;
  const wrong = [
    { queue: -1 },
    { queue: 65_536 },
    { queue: 1.5 },
    { queue: 1, maxHeld: 0 },
    { queue: 1, maxHeld: 1_025 },
  ];
  for (const options of [...wrong, { queue: 1, holdMs: 0 }, { queue: 1, holdMs: Number.NaN }]) {
    assert.throws(
      () => new Nfqueue(openSystem(), { ...options, onPacket }),
      (error: unknown) => error instanceof RangeError,
    );
  }
});

// ── the real kernel ──

const system = openSystem();
const open: Nfqueue[] = [];

async function listen(options: Partial<NfqueueOptions> = {}) {
  const packets: { text: string; verdict: () => void; family: number }[] = [];
  const queue = await openNfqueue(system, {
    queue: 6,
    onPacket: ({ payload, family }, verdict) => {
      const text = Buffer.from(payload.subarray(family === 4 ? 28 : 48)).toString();
      packets.push({ text, verdict, family });
    },
    ...options,
  });
  open.push(queue);
  return { queue, packets };
}

/** Datagrams from port 53 that have come to the LAN host. */
const arrived = () => Number(/packets (\d+)/.exec(sh("ip netns exec lan nft list table inet seen"))![1]);

/** Datagrams of nine letters: answer001, answer002, … */
const send = (count: number) =>
  script(
    "wan",
    `printf 'answer%03d' $(seq ${count}) | socat -b 9 -u - UDP4-SENDTO:10.9.1.2:4000,sourceport=53`,
  );

test.before(async () => {
  addHost({ name: "lan", device: "lan0", net: 1 });
  addHost({ name: "wan", device: "wan0", net: 2 });
  forward();
  sh(
    "ip netns exec lan nft -f -",
    "table inet seen { chain c { type filter hook prerouting priority -300; udp sport 53 counter; }\n}\n",
  );
  for (const tool of ["iptables", "ip6tables"])
    sh(`${tool} -t mangle -A FORWARD -p udp --sport 53 -j NFQUEUE --queue-num 6 --queue-bypass`);
});
test.after(async () => {
  await Promise.all(open.map((each) => each.close()));
  await stopAll();
});

test("openNfqueue: a packet waits until its verdict, of either family", async () => {
  const { queue, packets } = await listen({ holdMs: 10_000 });
  const before = arrived();
  send(1);
  script("wan", "echo -n six | socat -u - UDP6-SENDTO:[fd09:1::2]:4000,sourceport=53");
  await until("both", () => packets.length === 2);
  assert.equal(
    packets.map(({ text, family }) => `${family} ${text}`),
    ["4 answer001", "6 six"],
  );
  assert.equal([arrived(), queue.held], [before, 2]);
  for (const { verdict } of packets) verdict();
  await until("both at their goal", () => arrived() === before + 2);
  assert.equal([queue.held, queue.counters.late], [0, 0]);
  await queue.close();
});

test("openNfqueue: a packet that nobody speaks of passes when its time is over", async () => {
  const { queue, packets } = await listen({ holdMs: 30 });
  const before = arrived();
  send(3);
  await until("all at their goal", () => arrived() === before + 3);
  assert.equal([packets.length, queue.held, queue.counters.late], [3, 0, 3]);
  await queue.close();
});

test("openNfqueue: past the length of the queue, packets pass", async () => {
  const { queue, packets } = await listen({ holdMs: 10_000, maxHeld: 4 });
  const before = arrived();
  send(9);
  await until("those that have no room", () => arrived() === before + 5);
  await until("those that have", () => packets.length === 4);
  // Everything that waits is let go by the end.
  await queue.close();
  await until("all", () => arrived() === before + 9);
});

test("openNfqueue: a flood that overruns the socket passes", async () => {
  const { queue } = await listen({ holdMs: 50, maxHeld: 1_024, receiveBytes: 4_096 });
  const before = arrived();
  // While this runs, nothing is read.
  send(600);
  await until("all at their goal", () => arrived() === before + 600);
  assert.ok(queue.counters.overruns > 0, "there was an overrun");
  await queue.close();
});

test("openNfqueue: a queue has one listener; without any, packets pass", async () => {
  const before = arrived();
  send(1);
  await until("without a listener", () => arrived() === before + 1);
  const { queue } = await listen();
  const second = await faultOf(openNfqueue(system, { queue: 6, onPacket: () => undefined }));
  assert.is(second.code, "conflict");
  await queue.close();
  const again = await listen({ holdMs: 10_000 });
  send(1);
  await until("a packet", () => again.packets.length === 1);
  await again.queue.close();
  await until("it", () => arrived() === before + 2);
});

test("openNfqueue: when its process is killed, packets pass", async () => {
  const child = spawn(process.execPath, [process.argv[1]!], {
    env: { ...process.env, [asListener]: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
  await until("a listener", () => said.includes("listening"));
  const before = arrived();
  send(1);
  await until("a packet that waits", () => said.includes("held"));
  assert.is(arrived(), before);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
  await until("the end of the queue", () => sh("cat /proc/net/netfilter/nfnetlink_queue") === "");
  send(3);
  await until("packets", () => arrived() >= before + 3);
});

if (process.env[asListener] === undefined) test.run();
else {
  const onPacket = () => void process.stdout.write("held\n");
  void openNfqueue(system, { queue: 6, holdMs: 10_000, onPacket }).then(() =>
    process.stdout.write("listening\n"),
  );
  setInterval(() => undefined, 1_000);
}
