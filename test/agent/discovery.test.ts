/** Discovery on the real kernel: who hears whom, by which address the answer comes back, and who hears nothing. */

import { readdirSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Discovery, type DiscoverySystem } from "../../src/agent/discovery.ts";
import { type Address, encodeAddress, parseMac } from "../../src/lib/address.ts";
import { type DnsRecord, encodeMessage } from "../../src/lib/dns.ts";
import { Fault } from "../../src/lib/fault.ts";
import { Machine } from "../fake/machine.ts";
import { eventually } from "../lab/children.ts";
import {
  address,
  app,
  buildParlour,
  db,
  type Host,
  hosts,
  mum,
  openRouter,
  type Router,
  raised,
  repeated,
  sh,
  spy,
  system,
  type Talker,
} from "./parlour.ts";

const flags = {
  ...{ response: false, opcode: 0, authoritative: false, truncated: false, recursionDesired: false },
  ...{ recursionAvailable: false, authenticData: false, checkingDisabled: false, rcode: 0 },
};
const groups = { 4: "224.0.0.251", 6: "ff02::fb%eth0" } as const;
const ssdp = { 4: "239.255.255.250", 6: "ff02::c%eth0" } as const;
const text = (word: string) => new TextEncoder().encode(word);
const families = [4, 6] as const;

const question = (name: string): Uint8Array =>
  encodeMessage({ id: 0, flags, questions: [{ name, type: 12, class: 1 }], answers: [] });

function answer(name: string, of: Host): Uint8Array {
  const answers = families.map(
    (family): DnsRecord => ({
      ...{ name, type: family === 4 ? 1 : 28, class: 0x8001, ttlSeconds: 120, address: of[family] },
    }),
  );
  return encodeMessage({
    id: 0,
    flags: { ...flags, response: true, authoritative: true },
    questions: [],
    answers,
  });
}

let talkers: ReadonlyMap<Host, Talker>;
let router: Router;
const talker = (host: Host): Talker => talkers.get(host)!;
const standIn = (host: Host) => router.isolation.parts.standIns.get(host.name)!;

/** UDP datagrams with a wrong checksum that a host got, both families. */
async function wrongSums(host: Host): Promise<number> {
  const texts = await sh(`ip netns exec ${host.name} cat /proc/net/snmp /proc/net/snmp6`);
  const lines = texts.split("\n").filter((line) => line.startsWith("Udp: "));
  const at = lines[0]!.split(" ").indexOf("InCsumErrors");
  return Number(lines[1]!.split(" ")[at]) + Number(/Udp6InCsumErrors\s+(\d+)/.exec(texts)![1]);
}

/** Another program of the router that has the port for itself. */
const other = system.udp(
  { address: address("0.0.0.0"), port: 5353 },
  { onMessage() {}, onOverrun() {}, onClose() {} },
);

test.before(async () => {
  talkers = await buildParlour();
  router = await openRouter("nft");
  await router.isolation.connect({ name: "app", peers: ["db", "mum"] });
});

test.after(async () => {
  other.close();
  router.close();
  await Promise.all([...talkers.values()].map((each) => each.close()));
});

for (const family of families) {
  test(`v${family}: a question of multicast DNS reaches the peer, its answer comes back with the stand-in, which works`, async () => {
    const asked = question(`_db${family}._tcp.local.`);
    const [heard] = await repeated(
      "the question",
      () => talker(app).say({ family, from: 5353, to: groups[family], port: 5353 }, asked),
      () => talker(db).with(asked)[0] && talker(db).with(asked),
    );
    assert.equal([heard!.from, heard!.fromPort, heard!.port], ["10.32.0.1", 5353, 5353]);
    const said = answer(`db${family}.local.`, db);
    const told = await repeated(
      "the answer",
      () => talker(db).say({ family, from: 5353, to: groups[family], port: 5353 }, said),
      () =>
        talker(app).heard.find(
          ({ hex }) => Buffer.from(hex, "hex").includes(`db${family}`) && hex.startsWith("00008400"),
        ),
    );
    assert.is(told.from, "10.31.0.1");
    const hexOf = (at: Address) => Buffer.from(encodeAddress(at)).toString("hex");
    for (const each of families) {
      assert.ok(told.hex.includes(hexOf(standIn(db)[each])));
      assert.not.ok(told.hex.includes(hexOf(db[each])), "its real address");
    }
    const hello = text(`hello${family}`);
    const met = await repeated(
      "a datagram to the stand-in",
      () => talker(app).say({ family, from: 9999, to: standIn(db)[family], port: 9999 }, hello),
      () => talker(db).with(hello)[0],
    );
    assert.equal([met.from, met.fromPort], [standIn(app)[family], 9999]);
  });

  test(`v${family}: an answer to the router alone is passed on like one to all`, async () => {
    const said = answer(`alone${family}.local.`, db);
    const to = family === 4 ? "10.32.0.1" : "fd32::1";
    await repeated(
      "the answer",
      () => talker(db).say({ family, from: 5353, to, port: 5353 }, said),
      () => talker(app).heard.find(({ hex }) => Buffer.from(hex, "hex").includes(`alone${family}`)),
    );
  });

  test(`v${family}: SSDP is heard from the stand-in and the port of who asks, and answered there`, async () => {
    const search = text(`M-SEARCH ${family}`);
    const heard = await repeated(
      "the search",
      () => talker(app).say({ family, from: 9999, to: ssdp[family], port: 1900 }, search),
      () => talker(db).with(search)[0],
    );
    // By IPv6 a host speaks to its link from an address that is good there alone, but it is known by its MAC.
    assert.equal([heard.from, heard.fromPort, heard.port], [standIn(app)[family], 9999, 1900]);
    const reply = text(`HTTP/1.1 200 OK ${family}`);
    const back = await repeated(
      "the answer",
      () => talker(db).say({ family, from: 1900, to: heard.from, port: heard.fromPort }, reply),
      () => talker(app).with(reply)[0],
    );
    assert.equal([back.from, back.fromPort, back.port], [standIn(db)[family], 1900, 9999]);
  });
}

for (const to of ["10.31.0.255", "255.255.255.255"]) {
  test(`a broadcast to ${to} is heard from the sender's stand-in, and the answer comes back`, async () => {
    const call = text(`who is there? ${to}`);
    const heard = await repeated(
      "the broadcast",
      () => talker(app).say({ family: 4, from: 1900, to, port: 9999 }, call),
      () => talker(db).with(call)[0],
    );
    assert.equal([heard.from, heard.fromPort], [standIn(app)[4], 1900]);
    const reply = text(`I am ${to}`);
    const back = await repeated(
      "the answer",
      () => talker(db).say({ family: 4, from: 9999, to: heard.from, port: heard.fromPort }, reply),
      () => talker(app).with(reply)[0],
    );
    assert.equal([back.from, back.fromPort, back.port], [standIn(db)[4], 9999, 1900]);
  });
}

test("who is not connected hears nothing, and nobody hears him", async () => {
  const before = router.discovery.counters;
  const words = families.map((family) => question(`_spy${family}._udp.local.`));
  for (const [at, family] of families.entries())
    talker(spy).say({ family, from: 5353, to: groups[family], port: 5353 }, words[at]!);
  talker(spy).say({ family: 4, from: 9999, to: "255.255.255.255", port: 9999 }, text("spy"));
  await eventually("the spy's words", () => router.discovery.counters.strangers >= before.strangers + 3);
  // What came of them, if anything, came before this.
  const call = text("after the spy");
  await repeated(
    "a broadcast",
    () => talker(app).say({ family: 4, from: 9999, to: "10.31.0.255", port: 9999 }, call),
    () => talker(db).with(call)[0],
  );
  // A host hears its own broadcasts.
  assert.equal(
    talker(spy).heard.filter(({ from }) => from !== spy[4]),
    [],
  );
  assert.equal(talker(mum).heard, [], "connected, but on a segment without discovery");
  for (const word of [...words, text("spy")])
    for (const host of [app, db, mum]) assert.equal(talker(host).with(word), [], host.name);
});

test("a broadcast to a port that was not given is not heard, to one that was it is", async () => {
  await router.isolation.connect({ name: "spy", peers: ["app"], ports: ["udp/9999", "tcp/1900"] });
  const [secret, open] = [text("not for you"), text("for you")];
  const say = (port: number, bytes: Uint8Array) =>
    talker(spy).say({ family: 4, from: 9999, to: "10.32.0.255", port }, bytes);
  await repeated(
    "what may be heard",
    () => {
      say(1900, secret);
      say(9999, open);
    },
    () => talker(app).with(open)[0],
  );
  assert.equal(talker(app).with(secret), []);
  await router.isolation.disconnect({ name: "spy" });
});

for (const family of families) {
  test(`v${family}: who may not begin by himself answers what he was asked, and no more`, async () => {
    await router.isolation.connect({ name: "spy", peers: ["app"], ports: ["udp/1900"], direction: "out" });
    const search = text(`M-SEARCH one way ${family}`);
    const heard = await repeated(
      "the search",
      () => talker(spy).say({ family, from: 9999, to: ssdp[family], port: 1900 }, search),
      () => talker(app).with(search)[0],
    );
    assert.is(heard.from, standIn(spy)[family]);
    const [reply, more] = [text(`HTTP/1.1 ${family}`), text(`more ${family}`)];
    const to = { family, to: heard.from, port: heard.fromPort };
    const back = await repeated(
      "the answer",
      () => {
        talker(app).say({ ...to, from: 9999 }, more);
        talker(app).say({ ...to, port: 1900, from: 1900 }, more);
        talker(app).say({ ...to, from: 1900 }, reply);
      },
      () => talker(spy).with(reply)[0],
    );
    assert.equal([back.from, back.fromPort, back.port], [standIn(app)[family], 1900, 9999]);
    assert.equal(talker(spy).with(more), [], "from or to another port");
    await router.isolation.disconnect({ name: "spy" });
    talker(app).say({ ...to, from: 1900 }, more);
    const fence = text(`fence ${family}`);
    await repeated(
      "what comes after",
      () => talker(app).say({ family, from: 9999, to: standIn(db)[family], port: 9999 }, fence),
      () => talker(db).with(fence)[0],
    );
    assert.equal(talker(spy).with(more), [], "after the end");
  });
}

test("fragments are counted and go nowhere", async () => {
  const long = new Uint8Array(3_000).fill(0x61);
  const before = router.discovery.counters;
  talker(app).say({ family: 4, from: 9999, to: "10.31.0.255", port: 9999 }, long);
  await eventually("three fragments", () => router.discovery.counters.fragments === before.fragments + 3);
  assert.is(router.discovery.counters.relayed, before.relayed);
});

test("multicast DNS from any port but its own is not passed on", async () => {
  const before = router.discovery.counters;
  talker(app).say({ family: 4, from: 9999, to: groups[4], port: 5353 }, question("_legacy._tcp.local."));
  await eventually("it", () => router.discovery.counters.foreign === before.foreign + 1);
  assert.is(router.discovery.counters.relayed, before.relayed);
});

test("of a flood some are passed on, and others are heard all the while", async () => {
  const flood = text("flood");
  const before = router.discovery.counters;
  const startedAt = performance.now();
  const calm = text("calm");
  const shout = () => {
    for (let count = 0; count < 100; count++)
      talker(app).say({ family: 4, from: 9999, to: "10.31.0.255", port: 9999 }, flood);
  };
  await eventually("more than may pass", () => {
    shout();
    return router.discovery.counters.tooMany >= before.tooMany + 500;
  });
  await repeated(
    "the other",
    () => {
      shout();
      talker(db).say({ family: 4, from: 9999, to: "10.32.0.255", port: 9999 }, calm);
    },
    () => talker(app).with(calm)[0],
  );
  const elapsedSeconds = (performance.now() - startedAt) / 1_000;
  assert.ok(talker(db).with(flood).length <= 61 + 20 * elapsedSeconds);
});

test("a device that goes and comes is heard again, and nothing is kept of the one that went", async () => {
  const open = () => readdirSync("/proc/self/fd").length;
  const before = open();
  for (const [going, coming] of [
    // The kernel forgets what IPv6 addresses a device had that is switched off.
    [["link set br-data down"], ["link set br-data up", "addr add fd32::1/64 dev br-data nodad"]],
    [
      ["link del br-data"],
      [
        ...raised("br-data", 32),
        ...[db, spy].flatMap(({ name }) => [
          `link set ${name} master br-data`,
          `link set ${name} type bridge_slave isolated on`,
        ]),
      ],
    ],
  ] as const) {
    await sh("ip -batch -", going);
    await eventually("silence", () => open() < before);
    await sh("ip -batch -", coming);
    // The first may be lost: who is there has to be found out anew.
    const call = text(`again ${coming.length}`);
    for (const family of families) {
      const search = new Uint8Array([...call, family]);
      await repeated(
        `v${family} again`,
        () => talker(app).say({ family, from: 9999, to: ssdp[family], port: 1900 }, search),
        () => talker(db).with(search)[0],
      );
    }
    await repeated(
      "the other way",
      () => talker(db).say({ family: 4, from: 9999, to: "10.32.0.255", port: 9999 }, call),
      () => talker(app).with(call)[0],
    );
  }
  await eventually("as many descriptors", () => open() === before);
});

test("switches learn which groups are wanted, and only where discovery is", async () => {
  const joined = async (device: string) => {
    const listed = await sh(`ip maddr show dev ${device}`);
    return ["224.0.0.251", "239.255.255.250", "ff02::fb", "ff02::c", "ff05::c"].filter((each) =>
      listed.split(/\s+/).includes(each),
    );
  };
  assert.is((await joined("br-apps")).length, 5);
  assert.is((await joined("br-data")).length, 5);
  assert.equal(await joined("br-mute"), []);
});

test("the same with iptables and ipsets, and a new life of the agent", async () => {
  await router.kernel.clear("isolation");
  router.close();
  await eventually(
    "no group",
    async () => !(await sh("ip maddr show dev br-apps")).includes("239.255.255.250"),
  );
  router = await openRouter("ipset");
  await router.isolation.connect({ name: "app", peers: ["db"] });
  const [call, reply] = [text("who, again?"), text("I, again")];
  const heard = await repeated(
    "the broadcast",
    () => talker(app).say({ family: 4, from: 1900, to: "10.31.0.255", port: 9999 }, call),
    () => talker(db).with(call)[0],
  );
  assert.is(heard.from, standIn(app)[4]);
  const back = await repeated(
    "the answer",
    () => talker(db).say({ family: 4, from: 9999, to: heard.from, port: heard.fromPort }, reply),
    () => talker(app).with(reply)[0],
  );
  assert.equal([back.from, back.fromPort, back.port], [standIn(db)[4], 9999, 1900]);
});

test("what cannot be opened is said, and tried again until it can or the device is gone", async () => {
  const machine = new Machine();
  const refusal = { left: 2 };
  const opened: number[] = [];
  const lines: string[] = [];
  const scarce: DiscoverySystem = {
    now: () => machine.now(),
    date: () => machine.date(),
    after: (delayMs, call) => machine.after(delayMs, call),
    every: (periodMs, call) => machine.every(periodMs, call),
    netlink: (options, handlers) => machine.netlink(options, handlers),
    udp: (options, handlers) => machine.udp(options, handlers),
    log: (_, line) => void lines.push(line),
    packet: (options, handlers) => {
      if (refusal.left-- > 0) throw new Fault("limit", "Cannot open packet socket: too many open files");
      opened.push(options.ifindex);
      return machine.packet(options, handlers);
    },
  };
  const discovery = new Discovery(scarce, router.isolation);
  const link = { ifindex: 7, name: "br-apps", mac: parseMac("02:00:00:00:00:01")!, up: true, running: true };
  const own = [{ ifindex: 7, address: address("10.31.0.1"), prefixLength: 24, flags: 0 }];
  discovery.place(link, own);
  assert.equal(lines, ["Cannot relay discovery on br-apps: Cannot open packet socket: too many open files"]);
  await machine.advance(5_000);
  assert.equal([lines.length, opened.length], [2, 0]);
  await machine.advance(5_000);
  assert.equal([lines.length, opened], [2, [7, 7]]);
  discovery.place(link, own);
  assert.is(opened.length, 2, "said again it changes nothing");
  machine.sockets[0]!.close(new Fault("kernel", "Cannot receive: gone"));
  await machine.advance(5_000);
  assert.is(opened.length, 4, "lost, and found again");
  discovery.place({ ...link, name: "br-mute" }, own);
  await machine.advance(20_000);
  assert.is(opened.length, 4, "of a segment without discovery");
  discovery.close();
  discovery.place(link, own);
  assert.is(opened.length, 4, "closed");
});

test("every checksum was right", async () => {
  for (const host of hosts) assert.is(await wrongSums(host), 0, host.name);
});

test.run();
