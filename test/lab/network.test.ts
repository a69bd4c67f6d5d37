/** The lab's network is what it claims to be, and tests can rely on what its streams say. */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually, must } from "./children.ts";
import { Lab } from "./network.ts";
import { clientsOf, paths, router, servers } from "./topology.ts";
import { traces, untilLike } from "./traces.ts";

/** One at a time; most tests share the first. */
let lab: Lab;

test.before(async () => {
  lab = await Lab.up({ agent: false, clients: ["printer"] });
});

test.after(() => lab?.close());

/** Whether a host is answered; it asks each second, and waits so long for a first answer. */
async function pings(from: string, to: string, seconds = 30): Promise<boolean> {
  return (await lab.exec(from, ["ping", "-nq", "-c1", `-w${seconds}`, to])).status === 0;
}

/** Whether nobody answers: who waits longer only hears it later. */
const isSilent = async (from: string, to: string) => !(await pings(from, to, 1));

/** Which addresses the web server sees its visitors under. */
async function visitors(): Promise<string[]> {
  const text = await lab.must("internet", ["ss", "-tnH", "state", "established", "sport = :80"]);
  return text.split("\n").flatMap((line) => /(\S+):\d+\s*$/.exec(line)?.[1]?.replace(/[[\]]/g, "") ?? []);
}

test("Lab: everybody reaches whom a home network lets them reach, in both families", async () => {
  const reach = (from: string, to: readonly string[]) => to.map((each) => [from, each] as const);
  const outside = Object.values(servers).flatMap((each) => [each.address4, each.address6]);
  const lan = lab.clients.flatMap((each) => [each.address4, each.address6]);
  const allowed = [
    ...reach("laptop", [...outside, ...lan, router.lan4, router.lan6]),
    ...reach("camera", [...outside, ...lan]),
    ...reach("printer", [servers.web.address4, servers.web.address6]),
    ...reach("router", [...outside, ...lan]),
    ...reach("internet", [router.wan4, router.wan6]),
  ];
  const results = await Promise.all(allowed.map(([from, to]) => pings(from, to)));
  const failed = allowed.filter((_, index) => !results[index]).map((pair) => pair.join(" → "));
  assert.equal(failed, []);
  assert.ok(await isSilent("internet", lab.clients[0]!.address6), "wan gets into the LAN");
});

/** The router's firewall masquerades IPv4, routes IPv6 and keeps the LAN closed. */
async function isFirewalled(): Promise<void> {
  const { address4, address6 } = servers.web;
  const streams = await Promise.all(
    [address4, address6].map((to) => lab.stream({ from: "laptop", to, kind: "tcp" })),
  );
  assert.equal((await visitors()).sort(), [router.wan4, lab.clients[0]!.address6]);
  assert.ok(await isSilent("internet", lab.clients[0]!.address6));
  for (const each of streams) await each.end();
}

test(
  "Lab: the router's own firewall (nft) masquerades IPv4, routes IPv6 and keeps the LAN closed",
  isFirewalled,
);

test("Lab: names resolve through the router, leases and host names are where the agent looks", async () => {
  assert.match(await lab.must("laptop", ["cat", "/etc/resolv.conf"]), `nameserver ${router.lan4}\n`);
  for (const server of Object.values(servers)) {
    for (const name of server.names) {
      for (const [database, address] of [
        ["ahostsv4", server.address4],
        ["ahostsv6", server.address6],
      ] as const) {
        assert.match(await lab.must("camera", ["getent", database, name]), `${address} `);
      }
    }
  }
  assert.match(await lab.must("laptop", ["getent", "hosts", "router.lan"]), router.lan6);
  assert.is((await lab.exec("laptop", ["getent", "ahosts", "nowhere.example.net"])).status, 2);
  const leases = readFileSync(paths.leases, "utf8").trim().split("\n").sort();
  const [laptop, camera] = lab.clients;
  assert.is(leases.length, 3);
  assert.match(leases.join("\n"), ` ${laptop!.mac} ${laptop!.address4} laptop `);
  assert.match(leases.join("\n"), ` ${camera!.mac} ${camera!.address4} * `);
  assert.match(readFileSync("/etc/config/dhcp", "utf8"), /option name 'camera'/);
  assert.match(readFileSync(paths.configuration, "utf8"), `option lease_file '${paths.leases}'`);
});

test("Lab.exec: gives output and status, passes input, and knows its hosts", async () => {
  const result = await lab.exec("camera", ["sh", "-c", "cat; echo oops >&2; exit 7"], { input: "hello" });
  assert.equal(result, { status: 7, stdout: "hello", stderr: "oops\n" });
  assert.is((await lab.exec("camera", ["sh", "-c", "kill -9 $$"])).status, 137);
  assert.throws(() => lab.exec("nowhere", ["true"]), /no such host/);
  assert.throws(() => lab.spawn("--help", ["true"]), /no such host/);
  const child = lab.spawn("camera", ["sleep", "1000"]);
  await eventually("its process", async () => (await lab.pids("camera")).includes(child.pid!));
});

test("Lab.stream: sees a cut of both ways, is not fooled by half a cut, and sees the return", async () => {
  const { web, video } = servers;
  const rule = async (text: string) =>
    must(["ip", "netns", "exec", "router", "nft", "-f", "-"], { input: text });
  const cut = await Promise.all(
    [web.address4, web.address6].flatMap((to) =>
      (["tcp", "udp", "ping"] as const).map((kind) => lab.stream({ from: "laptop", to, kind })),
    ),
  );
  const other = await lab.stream({ from: "laptop", to: video.address6, kind: "udp" });
  const drop = (word: "saddr" | "daddr") =>
    `add rule inet cut forward ip ${word} ${web.address4} drop\nadd rule inet cut forward ip6 ${word} ${web.address6} drop\n`;
  await rule(
    `add table inet cut\nadd chain inet cut forward { type filter hook forward priority -200; }\n${drop("saddr")}`,
  );
  const udp = cut.filter((each) => each.kind === "udp");
  // The client is deaf, but the server still hears: that is no cut.
  for (const each of udp) {
    await eventually("a deaf client that is heard", async () => {
      const [received, heard] = [each.received, each.heard];
      await eventually("more heard", () => each.heard > heard + 10);
      return each.received === received;
    });
  }
  // Twice as much is heard as would come in the time that is asked about.
  const words = udp.map(async (each) => {
    const [received, enough] = [each.received, each.heard + 50];
    const heard = eventually("more heard", () => each.heard >= enough).then(() => "heard");
    const word = await Promise.race([each.isCut(500).then(() => "cut"), heard]);
    return `${word}, ${each.received - received} received`;
  });
  assert.equal(await Promise.all(words), ["heard, 0 received", "heard, 0 received"]);
  await rule(drop("daddr"));
  await Promise.all(cut.map((each) => each.isCut(500)));
  assert.ok(cut.every((each) => each.ended === undefined));
  await other.flows();
  assert.is(other.lost, 0);
  await rule("delete table inet cut");
  await Promise.all(cut.map((each) => each.flows()));
  assert.ok(
    udp.every((each) => each.lost > 0),
    "what was dropped is not counted",
  );
  for (const each of [...cut, other]) await each.end();
});

test("Lab.stream: a server that gets rubbish goes on serving", async () => {
  const { address4 } = servers.web;
  const rubbish = `up ${"x".repeat(900)}\0\n`;
  for (const port of ["5004", "7"]) {
    await lab.exec("laptop", ["nc", "-u", "-q0", "-w1", address4, port], { input: rubbish });
  }
  await lab.exec("laptop", ["nc", "-N", "-w20", address4, "80"], { input: rubbish.repeat(20) });
  await lab.exec("laptop", ["nc", "-N", "-w20", address4, "80"], {
    input: "GET /stream?id=__proto__ HTTP/1.1\r\n",
  });
  assert.match(
    await lab.must("laptop", ["nc", "-w20", address4, "80"], {
      input: "GET / HTTP/1.1\r\n\r\n",
    }),
    "A page",
  );
  for (const kind of ["tcp", "udp"] as const) {
    const stream = await lab.stream({ from: "laptop", to: address4, kind, rate: 500 });
    await stream.end();
  }
});

test("Lab.reboot: a new router on the old cables, with its state on disk and nothing else", async () => {
  const stream = await lab.stream({ from: "laptop", to: servers.web.address6, kind: "udp" });
  writeFileSync("/etc/config/kept", "");
  await lab.must("router", ["nft", "add", "table", "inet", "before"]);
  let atBoot = "";
  await lab.reboot(async () => {
    atBoot = await lab.must("router", ["ip", "-o", "link"]);
  });
  assert.match(atBoot, / lo: /);
  assert.not.match(atBoot, /wan/);
  assert.not.match(await lab.must("router", ["nft", "list", "ruleset"]), "before");
  assert.ok(existsSync("/etc/config/kept"));
  assert.not.match(readFileSync(paths.leases, "utf8"), "laptop");
  await stream.flows();
  assert.ok(await pings("laptop", servers.web.address4));
  assert.match(await lab.must("laptop", ["getent", "ahostsv4", "web.example.net"]), servers.web.address4);
  await lab.must("router", ["mosquitto_pub", "-t", "any", "-m", "thing"]);
});

/** What the enclosure is like without a lab. */
let without: Awaited<ReturnType<typeof traces>>;

test("Lab: the router's own firewall (ipset) masquerades IPv4, routes IPv6 and keeps the LAN closed", async () => {
  await lab.close();
  without = await traces();
  lab = await Lab.up({ agent: false, backend: "ipset" });
  await isFirewalled();
});

test("Lab.close: leaves the enclosure as it was, and there is room for one lab at a time", async () => {
  await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
  lab.spawn("router", ["sleep", "1000"]);
  const second = await Lab.up({ agent: false }).then(
    () => "up",
    (error: Error) => error.message,
  );
  assert.match(second, "there is one");
  assert.ok(await pings("laptop", servers.web.address4), "the refusal hurt the first one");
  await lab.close();
  await untilLike(without);
});

test("Lab: without NAT the servers see the laptop's own address", async () => {
  lab = await Lab.up({ agent: false, nat: false });
  await lab.stream({ from: "laptop", to: servers.web.address4, kind: "tcp" });
  assert.equal(await visitors(), [lab.clients[0]!.address4]);
});

test("Lab.up: refuses to touch a machine that is no enclosure, and names that are no hosts", async () => {
  const scratch = process.env.TMPDIR;
  process.env.TMPDIR = "/tmp";
  try {
    assert.match(
      await Lab.up().then(
        () => "up",
        (error: Error) => error.message,
      ),
      "not in an enclosure",
    );
  } finally {
    process.env.TMPDIR = scratch;
  }
  for (const name of ["router", "laptop", "", "a b", "-x", "../x", "x".repeat(16), "Ä"]) {
    assert.throws(() => clientsOf([name]), RangeError, name);
  }
});

test.run();
