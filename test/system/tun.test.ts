/** TUN and UDP batches on the real kernel: packets in and out, and super-packets both ways. */

import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, parseAddress } from "../../src/lib/address.ts";
import {
  AF,
  batchLength,
  decodeInet,
  decodeVnet,
  inetAddress,
  nameLength,
  Offload,
  Ready,
  Row,
  rowLength,
  Segment,
  SOCK,
  segmentLength,
  Tun,
  vnetLength,
} from "../../src/system/native.ts";
import { native, until } from "./until.ts";

const netio = native();
const ip = (words: string) => execFileSync("ip", words.split(" "));
const [EAGAIN, TCP, UDP] = [11, 6, 17];
const [SOL_UDP, UDP_GRO] = [17, 104];
const strideBytes = 70_000;

function must(answer: number): number {
  if (answer < 0) throw new Error(`errno ${-answer}`);
  return answer;
}

function openTun(name: string, flags = 0, offloads = 0): { handle: number; name: string } {
  const bytes = new Uint8Array(16);
  bytes.set(new TextEncoder().encode(name));
  const handle = must(netio.tun(bytes, flags, offloads));
  return { handle, name: new TextDecoder().decode(bytes).replace(/\0.*$/, "") };
}

/** A table for batches of whole super-packets. */
class Batch {
  readonly arena: Uint8Array;
  readonly names = new Uint8Array(batchLength * nameLength);
  readonly rows = new Int32Array(batchLength * rowLength);

  constructor(slots = 16) {
    this.arena = new Uint8Array(slots * strideBytes);
  }

  receive(handle: number): number {
    const count = netio.receive(handle, this.arena, strideBytes, this.names, this.rows);
    return count === -EAGAIN ? 0 : must(count);
  }

  row(index: number): Int32Array {
    return this.rows.subarray(index * rowLength, (index + 1) * rowLength);
  }

  message(index: number): Uint8Array {
    const row = this.row(index);
    return this.arena.subarray(row[Row.offset]!, row[Row.offset]! + row[Row.length]!);
  }
}

const swap = (packet: Uint8Array, at: number, size: number) => {
  const first = packet.slice(at, at + size);
  packet.copyWithin(at, at + size, at + 2 * size);
  packet.set(first, at + size);
};

test("a ping into a TUN is read, turned round and written, v4 and v6", async () => {
  const { handle, name } = openTun("gh%d");
  assert.match(name, /^gh[0-9]+$/);
  ip(`addr add 192.0.2.1/24 dev ${name}`);
  ip(`addr add fd00:2::1/64 dev ${name} nodad`);
  ip(`link set ${name} up`);
  const batch = new Batch();
  let echoes = 0;
  const pings = ["192.0.2.7", "fd00:2::7"].map((to) =>
    spawn("ping", ["-c", "3", "-i", "0.05", "-W", "20", to]),
  );
  const statuses = pings.map((each) => new Promise<number | null>((resolve) => each.on("close", resolve)));
  let over = false;
  void Promise.all(statuses).then(() => {
    over = true;
  });
  await until(() => {
    const count = batch.receive(handle);
    for (let index = 0; index < count; index++) {
      const packet = batch.message(index);
      const six = packet[0]! >> 4 === 6;
      const at = six ? 40 : 20;
      if (packet[at] !== (six ? 128 : 8)) {
        batch.row(index)[Row.length] = 0;
        continue;
      }
      swap(packet, six ? 8 : 12, six ? 16 : 4);
      packet[at] = six ? 129 : 0;
      // The type is a byte of the checksum: a word that shrinks by n lets its sum grow by n.
      const sum = ((packet[at + 2]! << 8) | packet[at + 3]!) + (six ? -0x100 : 0x800);
      const folded = sum < 0 ? sum + 0xffff : sum > 0xffff ? sum - 0xffff : sum;
      packet[at + 2] = folded >> 8;
      packet[at + 3] = folded;
      const row = batch.row(index);
      const one = Int32Array.from([row[0]!, row[1]!, 0, 0, 0, 0, 0, 0]);
      assert.is(netio.send(handle, batch.arena, batch.names, one, 1), 1);
      echoes++;
    }
    return over;
  }, "both pings");
  assert.equal(await Promise.all(statuses), [0, 0]);
  assert.ok(echoes >= 6);
  netio.close(handle);
  assert.not.match(execFileSync("ip", ["-br", "link"], { encoding: "utf8" }), new RegExp(`\\b${name}\\b`));
});

test("two queues of one TUN share its packets; a second single one is refused", () => {
  const first = openTun("multi", Tun.multiQueue);
  const second = openTun("multi", Tun.multiQueue);
  assert.is(second.name, "multi");
  const bytes = new Uint8Array(16);
  bytes.set(new TextEncoder().encode("multi"));
  assert.ok(netio.tun(bytes, 0, 0) < 0);
  netio.close(first.handle);
  netio.close(second.handle);
  const bad = new Uint8Array(16).fill(47);
  assert.ok(netio.tun(bad, 0, 0) < 0);
});

const checksumOffsets: Readonly<Record<number, number>> = { [TCP]: 16, [UDP]: 6 };

/** The sum of a packet's pseudo header without its length. */
function seedOf(packet: Uint8Array): number {
  const six = packet[0]! >> 4 === 6;
  const [from, size] = six ? [8, 32] : [12, 8];
  const addresses = ~netio.checksum(packet, from, size, 0) & 0xffff;
  return addresses + packet[six ? 6 : 9]!;
}

interface Counters {
  superIn: number;
  superOut: number;
  segments: number;
  failures: number;
}

/**
 * Carries what comes out of one TUN into another as a tunnel does: super-packets are split into segments
 * behind a header of ours, as they would travel in datagrams, and joined again on the other side.
 */
function carry(
  from: number,
  to: number,
  work: { batch: Batch; wire: Uint8Array; out: Uint8Array; counters: Counters },
): number {
  const { batch, wire, out, counters } = work;
  const tunnel = Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]);
  const none = new Uint8Array(0);
  const count = batch.receive(from);
  for (let index = 0; index < count; index++) {
    const message = batch.message(index);
    const vnet = decodeVnet(message, 0);
    const packet = message.subarray(vnetLength);
    const six = packet[0]! >> 4 === 6;
    const protocol = packet[six ? 6 : 9]!;
    const size = six ? 40 : (packet[0]! & 15) * 4;
    if (checksumOffsets[protocol] === undefined) {
      write(to, message);
      continue;
    }
    if (vnet.kind !== 0) counters.superIn++;
    const seed = seedOf(packet);
    const header = protocol === TCP ? (packet[size + 12]! >> 4) * 4 : 8;
    const share = vnet.segmentBytes || Math.max(1, packet.length - size - header);
    const numbers = new Int32Array(segmentLength);
    numbers[Segment.offset] = size;
    numbers[Segment.length] = packet.length - size;
    numbers[Segment.protocol] = protocol;
    numbers[Segment.size] = share;
    numbers[Segment.ip] = -1;
    numbers[Segment.seedOut] = seed;
    const length = netio.split(packet, wire, tunnel, numbers);
    counters.segments += numbers[Segment.count]!;
    const step = tunnel.length + header + share;
    const frame = new Uint8Array(vnetLength + size);
    frame.set(packet.subarray(0, size), vnetLength);
    for (let at = 0; at < length; ) {
      numbers[Segment.offset] = at;
      numbers[Segment.length] = length - at;
      numbers[Segment.size] = step;
      numbers[Segment.strip] = tunnel.length;
      numbers[Segment.ip] = vnetLength;
      numbers[Segment.vnet] = 1;
      numbers[Segment.seedIn] = seed;
      numbers[Segment.most] = protocol === UDP ? 1 : 64;
      const written = netio.join(wire, out, frame, numbers);
      if (written === 0) {
        counters.failures++;
        break;
      }
      if (numbers[Segment.count]! > 1) counters.superOut++;
      write(to, out.subarray(0, written));
      at += numbers[Segment.count]! * step;
    }
  }
  return count;

  function write(handle: number, bytes: Uint8Array): void {
    if (netio.send(handle, bytes, none, Int32Array.from([0, bytes.length, 0, 0, 0, 0, 0, 0]), 1) !== 1) {
      counters.failures++;
    }
  }
}

test("a TCP transfer through two TUNs arrives whole, and travels in super-packets", async () => {
  // Each TUN in a namespace of its own; the descriptors stay here.
  const sides = ["alpha", "beta"].map((name, index) => {
    ip(`netns add ${name}`);
    const tun = openTun(name, Tun.vnetHeader, Offload.checksum | Offload.tso4 | Offload.tso6 | Offload.ecn);
    ip(`link set ${name} netns ${name}`);
    ip(`-n ${name} link set lo up`);
    ip(`-n ${name} addr add 10.9.0.${index + 1}/24 dev ${name}`);
    ip(`-n ${name} addr add fd00:9::${index + 1}/64 dev ${name} nodad`);
    ip(`-n ${name} link set ${name} up`);
    return tun.handle;
  }) as [number, number];
  const totalBytes = 30_000_000;
  const serve = (port: number, host: string) => `
    const data = require("node:crypto").createHash("sha256").update("seed").digest();
    let block = Buffer.alloc(0);
    while (block.length < 100000) block = Buffer.concat([block, require("node:crypto").createHash("sha256").update(block).update(data).digest(), block]);
    const hash = require("node:crypto").createHash("sha256");
    const server = require("node:net").createServer((socket) => {
      let left = ${totalBytes};
      const more = () => {
        while (left > 0) {
          const part = block.subarray(left % 5000, left % 5000 + Math.min(left, 50000));
          left -= part.length; hash.update(part);
          if (!socket.write(part)) return socket.once("drain", more);
        }
        socket.end(); console.log(hash.digest("hex")); server.close();
      };
      more();
    }).listen(${port}, "${host}", () => console.log("ready"));`;
  for (const [port, host] of [
    [5001, "10.9.0.2"],
    [5002, "fd00:9::2"],
  ] as const) {
    const counters: Counters = { superIn: 0, superOut: 0, segments: 0, failures: 0 };
    const work = { batch: new Batch(), wire: new Uint8Array(200_000), out: new Uint8Array(80_000), counters };
    const server = spawn("ip", ["netns", "exec", "beta", process.execPath, "-e", serve(port, host)]);
    let told = "";
    server.stdout.on("data", (chunk) => (told += chunk));
    server.stderr.on("data", (chunk) => (told += chunk));
    await until(() => told.includes("ready"), `the server: ${told}`);
    const client = spawn("ip", ["netns", "exec", "alpha", "nc", "-d", host, String(port)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const hash = createHash("sha256");
    let received = 0;
    let over = false;
    client.stdout.on("data", (chunk: Buffer) => {
      hash.update(chunk);
      received += chunk.length;
    });
    client.on("close", () => {
      over = true;
    });
    const endAt = performance.now() + 180_000;
    const ready = Int32Array.from([sides[0], Ready.in, 0, sides[1], Ready.in, 0]);
    while (!over && performance.now() < endAt) {
      for (let round = 0; round < 20; round++) {
        netio.wait(ready, 1);
        carry(sides[0], sides[1], work);
        carry(sides[1], sides[0], work);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.is(received, totalBytes, host);
    assert.ok(told.includes(hash.digest("hex")), `${host}: the data differ`);
    assert.ok(counters.superIn > 50, `${host}: ${JSON.stringify(counters)}`);
    assert.ok(counters.superOut > 50 && counters.segments > totalBytes / 1500, JSON.stringify(counters));
    assert.is(counters.failures, 0);
    server.kill();
  }
  for (const handle of sides) netio.close(handle);
});

function openUdp(address: string): { handle: number; port: number; address: Address } {
  const parsed = parseAddress(address)!;
  const handle = must(netio.open(parsed.includes(":") ? AF.inet6 : AF.inet, SOCK.datagram, 0));
  must(netio.bind(handle, inetAddress(parsed, 0)));
  const name = new Uint8Array(nameLength);
  const own = decodeInet(name.subarray(0, must(netio.address(handle, name))))!;
  return { handle, ...own };
}

test("one send with a segment size becomes many datagrams, and one receive takes them joined, v4 and v6", async () => {
  for (const loop of ["127.0.0.1", "::1"]) {
    const [near, far] = [openUdp(loop), openUdp(loop)];
    must(netio.option(far.handle, SOL_UDP, UDP_GRO, 1));
    const batch = new Batch(4);
    const length = 40 * 1000 + 300;
    const data = Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8)) & 255);
    const to = new Uint8Array(nameLength);
    const target = inetAddress(far.address, far.port);
    to.set(target);
    const row = Int32Array.from([0, length, 1000, 0, target.length, 0, 0, 0]);
    assert.is(netio.send(near.handle, data, to, row, 1), 1);
    const got: number[] = [];
    let messages = 0;
    let joined = 0;
    await until(() => {
      const count = batch.receive(far.handle);
      for (let index = 0; index < count; index++) {
        const row = batch.row(index);
        if (row[Row.segment]! > 0) {
          joined++;
          assert.is(row[Row.segment], 1000);
        }
        const at = index * nameLength;
        const from = decodeInet(batch.names.subarray(at, at + row[Row.name]!));
        assert.equal(from, { address: near.address, port: near.port });
        got.push(...batch.message(index));
        messages++;
      }
      return got.length >= length;
    }, "all data");
    assert.equal(Uint8Array.from(got), data);
    assert.ok(joined > 0, "joined on the way");
    assert.ok(messages < 41, `${messages} messages`);
    // Without the option the same send arrives as datagrams.
    must(netio.option(far.handle, SOL_UDP, UDP_GRO, 0));
    const plain = new Batch(batchLength);
    assert.is(netio.send(near.handle, data, to, row, 1), 1);
    let datagrams = 0;
    await until(() => {
      const count = plain.receive(far.handle);
      for (let index = 0; index < count; index++) assert.is(plain.row(index)[Row.segment], 0);
      datagrams += count;
      return datagrams >= 41;
    }, "each datagram");
    assert.is(datagrams, 41);
    netio.close(near.handle);
    netio.close(far.handle);
  }
});

test("a batch to a closed port reports, and the socket goes on", async () => {
  const [near, far] = [openUdp("127.0.0.1"), openUdp("127.0.0.1")];
  netio.close(far.handle);
  must(netio.connect(near.handle, inetAddress(far.address, far.port)));
  const rows = Int32Array.from([0, 1, 0, 0, 0, 0, 0, 0]);
  const send = () => netio.send(near.handle, new Uint8Array(1), new Uint8Array(0), rows, 1);
  assert.is(send(), 1);
  await until(() => send() === -111, "connection refused");
  assert.ok(send() === 1 || send() === -111);
  netio.close(near.handle);
});

test.run();
