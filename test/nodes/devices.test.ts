/** Devices: which addresses the evidence ties into one. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Mac } from "../../src/lib/address.ts";
import { address, camera, laptop, mac, phone, prefix, Stage } from "./stage.ts";

const repeater = mac("02:77:00:00:00:aa");

test("neighbours with one MAC on the LAN are one device", () => {
  const stage = new Stage().router();
  const id = stage.neighbour("10.77.0.12", camera);
  assert.is(stage.neighbour("fd77::12", camera, "stale"), id);
  assert.is(stage.neighbour("fe80::77:ff:fe00:12", camera), id);
  assert.equal(stage.nodes.info(id!), {
    id,
    mac: camera,
    lastseen: stage.date / 1000,
    ips: ["10.77.0.12", "fd77::12", "fe80::77:ff:fe00:12"],
    domains: [],
  });
  assert.equal(stage.nodes.end(id!)!.macs, [camera]);
});

test("defect 17: a MAC on the WAN ties nothing, and the gateway is shown as what it is", () => {
  const stage = new Stage().router();
  const hop = mac("02:77:00:00:01:fe");
  stage.neighbour("192.0.2.254", hop, "reachable", { side: "wan" });
  stage.neighbour("192.0.2.7", hop, "reachable", { side: "wan" });
  stage.neighbour("fe80::fe", hop, "reachable", { side: "wan", router: true });
  const gateway = stage.id("192.0.2.254");
  assert.is(stage.kind(gateway), "gateway");
  assert.is(stage.kind(stage.id("fe80::fe")), "gateway");
  assert.is.not(stage.id("fe80::fe"), gateway);
  assert.is(stage.id("192.0.2.7"), undefined, "a neighbour on the WAN is nobody until it has traffic");
  assert.is(stage.nodes.info(gateway!)!.mac, undefined, "it is no device");
  assert.equal(stage.nodes.end(gateway!)!.macs, []);
  stage.neighbour("fe80::fe", undefined, "gone", { side: "wan" });
  assert.is(stage.kind(stage.id("fe80::fe")), "address");
});

test("defect 17: the router's own addresses are one node, and it is no client", () => {
  const stage = new Stage().router();
  const router = stage.id("10.77.0.1");
  assert.is(stage.kind(router), "router");
  assert.equal(stage.ips(router), ["10.77.0.1", "192.0.2.1", "fd77::1", "fe80::77:ff:fe00:1"]);
  assert.is(stage.ask("192.0.2.1", "upstream.example.").ids, undefined);
  assert.is(stage.neighbour("10.77.0.1", camera), router, "nobody takes the router's address");
  stage.own("fd77::1", false);
  assert.equal(stage.ips(router), ["10.77.0.1", "192.0.2.1", "fe80::77:ff:fe00:1"]);
});

test("an address on two interfaces of the router stays until it has left both", () => {
  const stage = new Stage().router();
  const change = { address: address("10.77.0.1"), interface: "br-guest" };
  stage.nodes.ownAddress({ ...change, present: true }, stage.at);
  stage.own("10.77.0.1", false);
  assert.is(stage.kind(stage.id("10.77.0.1")), "router");
  stage.nodes.ownAddress({ ...change, present: false }, stage.at);
  assert.is(stage.id("10.77.0.1"), undefined);
});

test("addresses that name no device never become nodes", () => {
  const stage = new Stage().router();
  for (const each of [
    "224.0.0.251",
    "ff02::fb",
    "255.255.255.255",
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "::",
    "10.77.0.255",
    "10.77.0.0",
  ]) {
    assert.is(stage.traffic(each), undefined, each);
    stage.neighbour(each, each === "10.77.0.255" || each === "10.77.0.0" ? undefined : camera);
    assert.is(stage.id(each), undefined, each);
  }
  for (const each of ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"]) {
    assert.is(stage.neighbour("10.77.0.50", each), undefined, each);
  }
});

test("a bare LAN address becomes the device when its MAC is known, and keeps its id", () => {
  const stage = new Stage().router();
  const id = stage.traffic("10.77.0.12");
  assert.is(stage.kind(id), "local");
  assert.is(stage.neighbour("10.77.0.12", undefined, "incomplete"), id);
  assert.is(stage.neighbour("10.77.0.12", camera), id);
  assert.is(stage.kind(id), "device");
  assert.equal(stage.told, []);
});

test("a bare LAN address of a device that is known is absorbed with its counters, and its id answers on", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const bare = stage.traffic("fd77::12")!;
  assert.is.not(bare, device);
  stage.nodes.count(bare, { bytesIn: 1n, packetsIn: 2n, bytesOut: 3n, packetsOut: 4n });
  stage.nodes.count(device, { bytesIn: 10n, packetsIn: 10n, bytesOut: 10n, packetsOut: 10n });
  stage.nodes.pin(bare, "block");
  assert.is(stage.neighbour("fd77::12", camera), device);
  assert.equal(stage.told, [`merge ${bare} ${device}`, `ends ${device}`]);
  assert.equal(stage.nodes.takeMerged(), [{ id: bare, into: device }]);
  assert.is(stage.nodes.resolve(bare), device);
  assert.equal(stage.nodes.info(bare), stage.nodes.info(device));
  const detail = stage.nodes.detail(device)!;
  assert.equal(
    [detail.bytes_in, detail.packets_in, detail.bytes_out, detail.packets_out],
    [11n, 12n, 13n, 14n],
  );
  assert.equal(detail.aliases, [bare]);
  assert.equal(detail.pinned_by, ["block"]);
});

test("an address taken for far until its prefix is known becomes a local one with the same id", () => {
  const stage = new Stage();
  const id = stage.traffic("10.88.0.5");
  assert.is(stage.kind(id), "address");
  stage.nodes.prefix({ prefix: prefix("10.88.0.0/24"), side: "lan", present: true }, stage.at);
  assert.is(stage.kind(id), "local");
  assert.is(stage.neighbour("10.88.0.5", phone), id);
});

test("defect 14: an address that moves to another device moves there, and traffic with it", () => {
  const stage = new Stage().router();
  const first = stage.lease("10.77.0.11", laptop, { name: "laptop" })!;
  stage.neighbour("10.77.0.11", laptop);
  stage.neighbour("fd77::11", laptop);
  const third = stage.neighbour("10.77.0.13", phone)!;
  stage.pass(120_000);
  stage.neighbour("10.77.0.11", undefined, "gone");
  stage.neighbour("10.77.0.11", phone);
  assert.is(stage.traffic("10.77.0.11"), third);
  assert.equal(stage.ips(first), ["fd77::11"]);
  assert.equal(stage.ips(third), ["10.77.0.11", "10.77.0.13"]);
  assert.is(stage.nodes.info(third)!.name, undefined, "a name does not move with the address");
  assert.equal(stage.told, [], "nobody merges");
});

test("defect 14: a renewed lease brings its address back to the device", () => {
  const stage = new Stage().router();
  const first = stage.lease("10.77.0.11", laptop);
  stage.neighbour("10.77.0.11", laptop);
  stage.pass(120_000);
  const other = stage.neighbour("10.77.0.11", phone);
  assert.is.not(other, first);
  stage.pass(1000);
  assert.is(stage.lease("10.77.0.11", laptop), first);
  assert.is(stage.neighbour("10.77.0.11", laptop), first);
});

test("a lease that DHCP gives to another MAC moves the address, though the old MAC is still remembered", () => {
  const stage = new Stage().router();
  const first = stage.lease("10.77.0.11", laptop, { clientId: `01:${laptop}` });
  stage.neighbour("10.77.0.11", laptop);
  stage.pass(60_000);
  const second = stage.lease("10.77.0.11", phone, { clientId: `01:${phone}`, name: "phone" });
  assert.is.not(second, first);
  assert.is(stage.neighbour("10.77.0.11", laptop, "stale"), second);
  assert.is(stage.neighbour("10.77.0.11", phone), second);
  // The laptop's own MAC was never proven to carry others.
  assert.is(stage.neighbour("fd77::11", laptop), first);
});

test("an address that two MACs fight for stays with whom it is leased, and the conflict is counted", () => {
  const stage = new Stage().router();
  const owner = stage.lease("10.77.0.11", laptop, { name: "laptop" })!;
  stage.neighbour("10.77.0.11", laptop);
  stage.neighbour("10.77.0.12", camera);
  stage.nodes.count(owner, { bytesIn: 5n, packetsIn: 1n, bytesOut: 0n, packetsOut: 0n });
  for (let round = 0; round < 1000; round++) {
    stage.now += 5;
    stage.neighbour("10.77.0.11", round % 2 ? laptop : camera, "stale");
  }
  stage.neighbour("10.77.0.11", camera, "stale");
  assert.is(stage.id("10.77.0.11"), owner);
  assert.is(stage.nodes.info(owner)!.name, "laptop");
  assert.is(stage.nodes.detail(owner)!.bytes_in, 5n);
  assert.equal(stage.nodes.end(owner)!.macs, [laptop]);
  assert.ok(stage.nodes.status.conflicts >= 490, "each claim of the camera");
});

interface Tie {
  readonly title: string;
  /** Leases: address, MAC, client id. */
  readonly leases: readonly (readonly [string, Mac, string])[];
  /** What answers: address, MAC. */
  readonly neighbours: readonly (readonly [string, Mac])[];
  /** Addresses by device. */
  readonly devices: readonly (readonly string[])[];
}

const ties: readonly Tie[] = [
  {
    title: "one MAC, one DHCP identity, two addresses",
    leases: [
      ["10.77.0.11", laptop, "ff:00:01"],
      ["10.77.0.21", laptop, "ff:00:01"],
    ],
    neighbours: [
      ["10.77.0.11", laptop],
      ["10.77.0.21", laptop],
      ["fd77::11", laptop],
    ],
    devices: [["10.77.0.11", "10.77.0.21", "fd77::11"]],
  },
  {
    title: "a repeater that puts its MAC into everything: each DHCP identity is a device",
    leases: [
      ["10.77.0.40", repeater, "ff:00:0a"],
      ["10.77.0.41", repeater, "ff:00:0b"],
      ["10.77.0.42", repeater, `01:${phone}`],
    ],
    neighbours: [
      ["10.77.0.40", repeater],
      ["10.77.0.41", repeater],
      ["10.77.0.42", repeater],
    ],
    devices: [["10.77.0.40"], ["10.77.0.41"], ["10.77.0.42"]],
  },
  {
    title: "a repeater that leaves DHCP alone: the lease's MAC tells the device",
    leases: [
      ["10.77.0.11", laptop, `01:${laptop}`],
      ["10.77.0.13", phone, `01:${phone}`],
      ["10.77.0.40", repeater, `01:${repeater}`],
    ],
    neighbours: [
      ["10.77.0.40", repeater],
      ["10.77.0.11", repeater],
      ["10.77.0.13", repeater],
    ],
    devices: [["10.77.0.11"], ["10.77.0.13"], ["10.77.0.40"]],
  },
  {
    title: "one DHCP identity with a new MAC is the same device",
    leases: [
      ["10.77.0.13", phone, "ff:00:07"],
      ["10.77.0.14", mac("06:77:00:00:00:99"), "ff:00:07"],
    ],
    neighbours: [["10.77.0.14", mac("06:77:00:00:00:99")]],
    devices: [["10.77.0.13", "10.77.0.14"]],
  },
  {
    title: "another's DHCP identity does not tie a MAC that has its own",
    leases: [
      ["10.77.0.11", laptop, "ff:00:01"],
      ["10.77.0.12", camera, "ff:00:02"],
      ["10.77.0.22", camera, "ff:00:01"],
    ],
    neighbours: [
      ["10.77.0.11", laptop],
      ["10.77.0.12", camera],
      ["10.77.0.22", camera],
    ],
    devices: [["10.77.0.11"], ["10.77.0.12", "10.77.0.22"]],
  },
];

for (const { title, leases, neighbours, devices } of ties) {
  for (const order of ["leases first", "neighbours first"]) {
    test(`devices: ${title} (${order})`, () => {
      const stage = new Stage().router();
      const answer = () => {
        for (const [text, who] of neighbours) stage.neighbour(text, who);
      };
      if (order === "neighbours first") answer();
      for (const [text, who, clientId] of leases) stage.lease(text, who, { clientId });
      answer();
      // Once more, as a neighbour table does: nothing may change any more.
      answer();
      const groups = new Map<number, string[]>();
      for (const text of devices.flat())
        groups.set(stage.id(text)!, [...(groups.get(stage.id(text)!) ?? []), text]);
      assert.equal([...groups.values()].map((each) => each.sort()).sort(), devices);
    });
  }
}

for (const [title, owner, clientId] of [
  ["several DHCP identities", repeater, "ff:00:0b"],
  ["a lease of another MAC", phone, `01:${phone}`],
] as const) {
  test(`an address without a lease is nobody's behind a MAC with ${title}`, () => {
    const stage = new Stage().router();
    stage.lease("10.77.0.40", repeater, { clientId: `01:${repeater}` });
    stage.lease("10.77.0.41", owner, { clientId });
    stage.neighbour("10.77.0.40", repeater);
    stage.neighbour("10.77.0.41", repeater);
    const alone = stage.neighbour("fd77::40", repeater);
    assert.is(stage.kind(alone), "local");
    assert.is(new Set([alone, stage.id("10.77.0.40"), stage.id("10.77.0.41")]).size, 3);
    // The lease that proved it ends: the MAC ties again, if it is one device's.
    if (owner === phone) {
      stage.nodes.leases([], stage.at);
      stage.neighbour("fd77::41", repeater);
      assert.is(stage.id("fd77::41"), stage.id("10.77.0.40"));
    }
  });
}

test("a MAC that several devices share stands for none of them", () => {
  const stage = new Stage().router();
  const one = stage.lease("10.77.0.40", repeater, { clientId: "ff:00:0a" })!;
  assert.equal(stage.nodes.end(one)!.macs, [repeater]);
  const two = stage.lease("10.77.0.41", repeater, { clientId: "ff:00:0b" })!;
  assert.equal(stage.nodes.end(one)!.macs, []);
  assert.equal(stage.nodes.end(two)!.macs, []);
  assert.equal(stage.nodes.detail(two)!.macs, [{ mac: repeater, randomised: true, shared: true }]);
});

test("onEnds() tells when a pinned device's MAC comes to be shared, and when it is its own again", () => {
  const stage = new Stage({ limits: { deviceMs: 86_400_000, addressMs: 1e12 } }).router();
  const one = stage.lease("10.77.0.40", repeater, { clientId: "ff:00:0a" })!;
  const two = stage.lease("10.77.0.41", repeater, { clientId: "ff:00:0b" })!;
  stage.nodes.pin(one, "block");
  stage.nodes.leases([], stage.at);
  assert.equal(stage.nodes.end(one)!.macs, []);
  stage.pass(2 * 86_400_000);
  assert.is(stage.nodes.resolve(two), undefined);
  assert.equal(stage.nodes.end(one)!.macs, [repeater]);
  assert.is(stage.told.at(-1), `ends ${one}`);
});

test("defect 3: a pinned device stays itself, whatever it claims by DHCP or takes as address", () => {
  const stage = new Stage().router();
  const id = stage.lease("10.77.0.12", camera, { clientId: `01:${camera}` })!;
  stage.neighbour("10.77.0.12", camera);
  stage.lease("10.77.0.11", laptop, { clientId: "ff:00:01" });
  stage.neighbour("10.77.0.11", laptop);
  stage.nodes.pin(id, "block");
  stage.told.length = 0;
  const taken: string[] = ["10.77.0.12"];
  const take = (text: string) => {
    taken.push(text);
    assert.is(stage.neighbour(text, camera), id, text);
    assert.ok(stage.nodes.end(id)!.addresses.includes(address(text)), text);
    assert.is(stage.told.pop(), `ends ${id}`);
  };
  stage.lease("10.77.0.50", camera, { clientId: "ff:66:66" });
  take("10.77.0.50");
  stage.lease("10.77.0.51", camera, { clientId: "ff:00:01" });
  take("10.77.0.51");
  stage.lease("10.77.0.52", mac("06:00:00:00:00:99"), { clientId: "ff:99" });
  take("10.77.0.52");
  for (let round = 0; round < 20; round++) {
    stage.pass(5000);
    take(`fd77::12:${round + 1}`);
  }
  take("fe80::12");
  assert.equal(stage.nodes.end(id)!.macs, [camera]);
  assert.equal(stage.ips(id).length, taken.length);
  assert.is(stage.id("10.77.0.11"), stage.nodes.find(address("10.77.0.11")));
  assert.is.not(stage.id("10.77.0.11"), id);
});

test("IPv6 leases tie by their DUID once a MAC is known for it", () => {
  const stage = new Stage().router();
  const id = stage.neighbour("10.77.0.11", laptop);
  assert.is(stage.lease("fd77::64", undefined, { clientId: "00:03:00:01:aa", name: "laptop" }), undefined);
  assert.is(stage.neighbour("fd77::64", laptop), id);
  assert.is(stage.nodes.info(id!)!.name, "laptop");
  assert.is(
    stage.lease("fd77::65", undefined, { clientId: "00:03:00:01:aa" }),
    id,
    "the DUID alone is enough now",
  );
});

test("names: the user's before the administrator's before the device's own", () => {
  const stage = new Stage().router();
  const id = stage.lease("10.77.0.11", laptop, { name: "own" })!;
  const name = () => stage.nodes.info(id)!.name;
  assert.is(name(), "own");
  stage.nodes.hosts([{ name: "static", macs: [laptop] }], stage.at);
  assert.is(name(), "static");
  stage.nodes.rename(id, "user");
  assert.is(name(), "user");
  stage.nodes.rename(id, "");
  stage.nodes.hosts([], stage.at);
  assert.is(name(), "own");
  stage.lease("10.77.0.11", laptop, { name: "renamed", expiresAt: 1 });
  assert.is(name(), "renamed", "a later lease names a node that is there");
  stage.nodes.hosts([{ name: "by-address", macs: [], address: address("10.77.0.11") }], stage.at);
  assert.is(name(), "by-address");
});

test("hosts() names devices that come later", () => {
  const stage = new Stage().router();
  stage.nodes.hosts([{ name: "printer", macs: [phone], address: address("10.77.0.20") }], stage.at);
  assert.is(stage.nodes.info(stage.neighbour("10.77.0.99", phone)!)!.name, "printer");
});

for (const name of [
  "__proto__",
  "$(touch x)",
  "<img src=x onerror=alert(1)>",
  "é\u202egnp.exe",
  "x".repeat(128),
  "a b;c",
]) {
  test(`rename() keeps ${JSON.stringify(name.slice(0, 20))} as text`, () => {
    const stage = new Stage().router();
    const id = stage.neighbour("10.77.0.11", laptop)!;
    stage.nodes.rename(id, name);
    assert.is(stage.nodes.info(id)!.name, name);
  });
}

for (const name of ["x\n10.77.0.13 injected", "\u0000", "a\u2028b", "x".repeat(129), "\u007f", "\u009b"]) {
  test(`defect 15: rename() refuses ${JSON.stringify(name.slice(0, 20))}`, () => {
    const stage = new Stage().router();
    const id = stage.neighbour("10.77.0.11", laptop)!;
    assert.throws(
      () => stage.nodes.rename(id, name),
      (thrown: { code?: string }) => thrown.code === "invalid",
    );
    assert.is(stage.nodes.info(id)!.name, undefined);
  });
}

test("defect 5: a merge by the user carries everything over, and the old id answers on", () => {
  const stage = new Stage().router();
  const wifi = stage.neighbour("10.77.0.11", laptop)!;
  const wired = stage.neighbour("10.77.0.31", phone)!;
  stage.nodes.rename(wifi, "laptop");
  stage.nodes.pin(wifi, "block");
  stage.resolve("10.77.0.11", "a.example.", ["198.51.100.20"]);
  stage.resolve("10.77.0.31", "b.example.", ["198.51.100.20"]);
  const b = stage.nodes.takeChanged().find((id) => stage.nodes.info(id)!.domains[0] === "b.example.");
  stage.told.length = 0;
  assert.is(stage.nodes.merge(wifi, wired, stage.at), wired);
  assert.equal(stage.told, [`merge ${wifi} ${wired}`, `ends ${wired}`]);
  assert.equal(stage.nodes.info(wifi), stage.nodes.info(wired));
  assert.is(stage.nodes.info(wired)!.name, "laptop");
  assert.equal(stage.nodes.end(wifi), {
    id: wired,
    addresses: [address("10.77.0.11"), address("10.77.0.31")],
    macs: [phone, laptop],
  });
  assert.is(stage.neighbour("fd77::11", laptop), wired, "evidence of the old MAC goes to the one node");
  assert.is(
    stage.traffic("198.51.100.20", "10.77.0.31"),
    stage.nodes.resolve(stage.traffic("198.51.100.20", "10.77.0.11")!),
  );
  assert.ok(b !== undefined);
  // A second merge: all old ids lead to the last.
  const third = stage.neighbour("10.77.0.12", camera)!;
  stage.nodes.merge(wired, third, stage.at);
  assert.is(stage.nodes.resolve(wifi), third);
  assert.is(stage.nodes.resolve(wired), third);
});

test("merge() refuses what is no two devices", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.11", laptop)!;
  const far = stage.traffic("198.51.100.1")!;
  const router = stage.id("10.77.0.1")!;
  const code = (id: number, into: number) => {
    try {
      stage.nodes.merge(id, into, stage.at);
    } catch (thrown) {
      return (thrown as { code?: string }).code;
    }
    return "merged";
  };
  assert.is(code(device, device), "invalid");
  assert.is(code(device, far), "invalid");
  assert.is(code(far, device), "invalid");
  assert.is(code(router, device), "invalid");
  assert.is(code(device, 999), "not-found");
});

test("a randomised MAC is labelled", () => {
  const stage = new Stage().router();
  const own = stage.neighbour("10.77.0.11", "00:1b:21:00:00:01")!;
  const made = stage.neighbour("10.77.0.12", "da:a1:19:00:00:01")!;
  assert.is(stage.nodes.summary(own)!.randomised_mac, undefined);
  assert.is(stage.nodes.summary(made)!.randomised_mac, true);
});

test("count() stays at 2^63-1", () => {
  const stage = new Stage().router();
  const id = stage.neighbour("10.77.0.11", laptop)!;
  const most = 2n ** 63n - 1n;
  const traffic = { bytesIn: most - 1n, packetsIn: 2n ** 53n, bytesOut: 0n, packetsOut: -5n };
  stage.nodes.count(id, traffic);
  assert.is(stage.nodes.summary(id)!.bytes_in, most - 1n);
  stage.nodes.count(id, { ...traffic, packetsIn: 1n });
  assert.is(stage.nodes.summary(id)!.bytes_in, most);
  assert.is(stage.nodes.summary(id)!.packets_in, 2n ** 53n + 1n);
  assert.is(stage.nodes.summary(id)!.packets_out, 0n);
  stage.nodes.count(12_345, traffic);
});

test("neighbours() makes the whole table known: what is not in it has gone", () => {
  const stage = new Stage({ limits: { addressMs: 60_000 } }).router();
  const id = stage.neighbour("10.77.0.12", camera);
  stage.neighbour("fd77::12", camera);
  stage.nodes.neighbours(
    [{ address: address("fd77::12"), mac: camera, side: "lan", state: "reachable" }],
    stage.at,
  );
  stage.pass(120_000);
  assert.equal(stage.ips(id), ["fd77::12"]);
});

test("leases() makes the whole file known: what is not in it has ended", () => {
  const stage = new Stage({ limits: { addressMs: 60_000 } }).router();
  const lease = { address: address("10.77.0.12"), mac: camera, expiresAt: 0 };
  stage.nodes.leases([lease], stage.at);
  const id = stage.id("10.77.0.12");
  stage.pass(120_000);
  assert.equal(stage.ips(id), ["10.77.0.12"], "leased, it stays");
  stage.nodes.leases([], stage.at);
  stage.pass(120_000);
  assert.equal(stage.ips(id), []);
  assert.is(stage.kind(id), "device", "the device stays");
});

test("an address that turns out to be ours leaves every named node", () => {
  const stage = new Stage().router();
  stage.neighbour("10.77.0.11", laptop);
  const name = stage.resolve("10.77.0.11", "evil.example.", ["10.99.0.7", "198.51.100.7"]);
  assert.equal(stage.ips(name), ["10.99.0.7", "198.51.100.7"]);
  const device = stage.neighbour("10.99.0.7", phone);
  assert.is.not(device, name);
  assert.equal(stage.ips(name), ["198.51.100.7"]);
  stage.own("198.51.100.7");
  assert.equal(stage.ips(name), []);
  assert.is(stage.kind(stage.id("198.51.100.7")), "router");
});

test.run();
