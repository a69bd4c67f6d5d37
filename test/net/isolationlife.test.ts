/**
 * Isolation over time, with the agent in a router, on both back ends: what runs, what breaks off, what comes back.
 * And who tries to get around it.
 *
 * A town serves a back end's tests one after the other; each leaves it without connections.
 */

import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import { CLASS_IN, decodeMessage, encodeMessage, TYPE_A } from "../../src/lib/dns.ts";
import { eventually, LineReader } from "../lab/children.ts";
import { app, boss, cam, door, lamp, type Service, services, Town, web } from "../lab/services.ts";
import { paths, servers } from "../lab/topology.ts";
import { Model, names } from "./model.ts";

const families = [4, 6] as const;
const boot = join(process.cwd(), "files/usr/lib/gatehouse/boot.sh");

/** The rules of isolation in the router's kernel: "" if there are none. */
const shown = {
  nft: async (town: Town) =>
    (await town.lab.exec("router", ["nft", "-s", "list", "table", "inet", "gatehouse_isolation"])).stdout,
  ipset: async (town: Town) => {
    const script =
      "for each in iptables ip6tables; do $each-save | grep -- '^-A .*gatehouse-isolation' || :; done";
    return town.lab.must("router", ["sh", "-c", script]);
  },
};

const flush = {
  nft: "nft flush ruleset",
  ipset: `for tool in iptables ip6tables; do
      for table in nat filter mangle; do $tool -t $table -F; $tool -t $table -X; done
      for chain in INPUT FORWARD; do $tool -P $chain ACCEPT; done
    done`,
};

/** Prints what comes by multicast DNS, a message a line. */
const listenScript = `const socket = require("dgram").createSocket({ type: "udp4", reuseAddr: true });
socket.on("message", (message) => console.log(message.toString("hex")));
socket.bind(5353, () => socket.addMembership("224.0.0.251"));`;
const announceScript = `const socket = require("dgram").createSocket({ type: "udp4", reuseAddr: true });
socket.bind(5353, () => {
  socket.setMulticastTTL(255);
  socket.send(Buffer.from(process.argv[1], "hex"), 5353, "224.0.0.251", () => socket.close());
});`;

/** Downloads of somebody that the router's kernel knows of. */
async function connections(town: Town, source: string): Promise<number> {
  const argv = ["conntrack", "-L", "-s", source, "-p", "tcp", "--orig-port-dst", "81"];
  const { stdout } = await town.lab.exec("router", argv);
  return stdout.split("\n").filter(Boolean).length;
}

/** With ipset it takes twice as long: BACKEND=ipset. */
const backends = [process.env.BACKEND === "ipset" ? "ipset" : "nft"] as const;

for (const backend of backends) {
  const it = suite(backend);
  let town: Town;
  it.before(async () => {
    town = await Town.up({ backend });
  });
  it.after(() => town.close());
  it.after.each(async () => {
    // A test that failed may have left no agent.
    for (const name of names) await town.disconnect(name).catch(() => {});
  });
  const loaded = async (by: Service, to: string) => (await town.try(by.name, { kind: "loaded", to })).bytes!;
  /** More of a download than there is now. */
  const more = async (by: Service, to: string) => {
    const before = await loaded(by, to);
    await eventually(`more from ${to}`, async () => (await loaded(by, to)) > before);
  };
  const reaches = (from: Service, to: string, kind: "tcp" | "udp" | "icmp" = "tcp") =>
    eventually(`${from.name} at ${to} by ${kind}`, () => town.passes(from.name, { kind, to }));

  it("ends a running download with disconnect, and no other", async () => {
    await town.connect("web", ["lamp", "cam"]);
    const [gone, kept] = [await town.standIn("lamp", 4), await town.standIn("cam", 6)];
    for (const to of [gone, kept]) assert.ok(await town.passes("web", { kind: "load", to, port: 81 }));
    await more(web, gone);
    await more(web, kept);
    await town.disconnect("web", "lamp");
    // What the receiver had in its queues when the answer came is not counted as passed.
    await eventually("an end", async () => {
      const one = await loaded(web, gone);
      await more(web, kept);
      return (await loaded(web, gone)) === one;
    });
    await eventually("the connection's end", async () => (await connections(town, web.address4!)) === 0);
    await more(web, kept);
    assert.not(await town.passes("web", { kind: "tcp", to: gone }));
    assert.equal(await town.resolve("web", "lamp."), ["NXDOMAIN"]);
  });

  it("answers queries to the router's link-local address, which routers announce, over UDP and TCP", async () => {
    await town.connect("web", ["lamp"]);
    const standIn = await town.standIn("lamp", 4);
    const text = await town.lab.must("router", ["ip", "-json", "-6", "address", "show", "dev", "br-apps"]);
    const [{ addr_info: own }] = JSON.parse(text) as [{ addr_info: { local: string; scope: string }[] }];
    const server = own.find(({ scope }) => scope === "link")!.local;
    const dig = async (name: string, ...options: string[]) => {
      const argv = ["dig", `@${server}%eth0`, "+time=10", "+tries=3", "+noall", "+comments", "+answer"];
      const { stdout } = await town.lab.exec("web", [...argv, ...options, name, "A"]);
      return stdout.replaceAll("\n", " ");
    };
    for (const over of ["+notcp", "+tcp"]) {
      // Its neighbours know a host's link-local address as soon as it has spoken.
      await eventually(over, async () => (await dig("lamp", over)).includes(standIn));
      assert.match(await dig("cam", over), /status: NXDOMAIN/, over);
    }
  });

  it("neither opens nor breaks anything when the agent is killed, and goes on as it was", async () => {
    await town.connect("web", ["lamp"]);
    await town.connect("app", ["boss"], { direction: "out", ports: ["tcp/80", "tcp/81"] });
    const model = new Model(town);
    model.connect("web", "lamp", {});
    model.connect("app", "boss", { direction: "out", ports: ["tcp/80", "tcp/81"] });
    const before = await model.now();
    const running = [before.get("lamp")![0]!, before.get("lamp")![1]!];
    for (const to of running) assert.ok(await town.passes("web", { kind: "load", to, port: 81 }));
    await town.lab.agent.kill();
    await model.packets("no agent", before);
    for (const to of running) await more(web, to);
    await town.lab.agent.start();
    assert.equal(await model.now(), before, "the same stand-ins");
    await model.check("an agent again");
    for (const to of running) await more(web, to);
    assert.is(await connections(town, web.address4!), 1, "one connection all the time");
    // Asked to end and started again it is no other.
    await town.lab.agent.restart();
    assert.equal(await model.now(), before);
    for (const to of running) await more(web, to);
  });

  it("puts right what somebody flushed", async () => {
    await town.connect("web", ["lamp"]);
    const model = new Model(town);
    model.connect("web", "lamp", {});
    const before = await model.now();
    const rules = await shown[backend](town);
    assert.ok(rules.length > 500);
    await town.lab.must("router", ["sh", "-c", flush[backend]]);
    const flushedAt = performance.now();
    await eventually("the rules", async () => (await shown[backend](town)) === rules);
    if (process.env.MEASURE)
      console.log(`${backend}: put right after ${(performance.now() - flushedAt).toFixed(0)} ms`);
    await model.packets("put right", before);
  });

  it("is closed after a reboot before there is an agent, and open to those who were connected", async () => {
    await town.connect("web", ["lamp"]);
    await town.connect("app", ["cam"], { direction: "out" });
    const model = new Model(town);
    model.connect("web", "lamp", {});
    model.connect("app", "cam", { direction: "out" });
    const before = await model.now();
    // What is only given may lag on the disk; what takes something away is there, and so all that was given before.
    await town.connect("cam", ["boss"]);
    await town.disconnect("cam", "boss");
    await town.reboot(async () => void (await town.lab.must("router", ["sh", boot, paths.state])));
    // As when an interface has come up.
    await town.lab.must("router", ["sh", boot, paths.state, "guards"]);
    await model.packets("booted", before);
    const silence = await town.try("web", {
      kind: "dns",
      to: town.foreignNames,
      word: "lamp.",
      waitMs: 3_000,
    });
    assert.is(silence.answers, undefined);
    await town.start();
    assert.equal(await model.now(), before, "the same stand-ins");
    await model.check("an agent again");
  });

  it("translates with checksums, errors and path MTU that the ends' kernels find right", async () => {
    await town.connect("web", ["lamp"]);
    for (const family of families) {
      const to = await town.standIn("lamp", family);
      for (const kind of ["udp", "tcp"] as const) {
        for (const sizeBytes of [1, 2, 999, 1_400])
          await eventually("bytes", () => town.passes("web", { kind, to, sizeBytes }));
      }
      const where = family === 4 ? `udp4:${to}:9` : `udp6:[${to}]:9`;
      const refused = await town.lab.exec("web", ["socat", "-T", "2", "-", where], { input: "x" });
      assert.match(refused.stderr, /refused/, "an error came through");
    }
    await town.lab.must("router", ["ip", "link", "set", "br-iot", "mtu", "1300"]);
    try {
      for (const family of families) {
        const to = await town.standIn("lamp", family);
        await eventually("a long upload", () => town.passes("web", { kind: "tcp", to, sizeBytes: 300_000 }));
        const route = await town.lab.must("web", ["ip", "route", "get", to]);
        assert.match(route, /mtu 1300/, `path MTU of ${to}`);
      }
    } finally {
      await town.lab.must("router", ["ip", "link", "set", "br-iot", "mtu", "1500"]);
      for (const family of families)
        await town.lab.must("web", ["ip", `-${family}`, "route", "flush", "cache"]);
    }
    assert.equal(await town.damaged(), []);
  });

  it("follows names outside by their time to live, keeps what runs, and believes no outside in local names", async () => {
    await town.connect("app", ["*.example.net", "arbiter"]);
    const [four] = await town.resolve("app", "web.example.net.", { server: town.foreignNames });
    const [six] = await town.resolve("app", "web.example.net.", { type: "AAAA", over: "tcp" });
    for (const to of [four!, six!]) {
      assert.match(to, /^198\.1[89]\.|^fd00:6a7e:/);
      await reaches(app, to, "icmp");
    }
    assert.equal(await town.resolve("web", "web.example.net."), ["NXDOMAIN"], "not its to ask");
    assert.not(await town.passes("web", { kind: "icmp", to: four! }));
    for (const family of ["address4", "address6"] as const)
      assert.not(await town.passes("app", { kind: "icmp", to: servers.web[family] }), "a real address");
    assert.equal(await town.resolve("app", "nobody.example.net."), ["NXDOMAIN"]);
    // The provider's DNS claims a local name, and one outside leads to the inside: nobody is led there.
    assert.equal(await town.resolve("app", "arbiter."), ["NXDOMAIN"]);
    assert.equal(await town.resolve("app", "inside.example.net."), ["NXDOMAIN"]);
    await town.disconnect("app");
    await eventually("an end", async () => !(await town.passes("app", { kind: "icmp", to: four! })));
  });

  it("stops spoofed sources, guessed stand-ins, real addresses and scans, and tells nobody who is there", async () => {
    await town.connect("web", ["lamp"]);
    const guessed = await Promise.all(families.map((family) => town.standIn("lamp", family)));
    const heard = async () => (await town.try("lamp", { kind: "heard", to: "spoof" })).bytes!;
    const before = await heard();
    // Others send as web: from its segment's address on another segment, and beside it on its own.
    for (const [from, address, to] of [
      ["cam", web.address4!, guessed[0]!],
      ["cam", web.address6, guessed[1]!],
      ["boss", web.address4!, guessed[0]!],
      ["boss", web.address6, guessed[1]!],
      ["boss", web.address4!, lamp.address4!],
    ] as const) {
      const length = address.includes(":") ? 128 : 32;
      await town.lab.must(from, ["sh", "-c", `ip address add ${address}/${length} dev eth0 nodad`]);
      await town.try(from, { kind: "udp", to, from: address, word: "spoof" });
      await town.lab.must(from, ["sh", "-c", `ip address del ${address}/${length} dev eth0`]);
    }
    assert.is(await heard(), before, "a spoofed source");
    const others = [app, cam, boss].flatMap(({ name }) =>
      [...guessed, lamp.address4!, lamp.address6, web.address4!, web.address6].flatMap((to) =>
        (["tcp", "udp", "icmp"] as const).map((kind) => [name, { kind, to }] as const),
      ),
    );
    const router = services.flatMap(({ name, segment: { net } }) =>
      [22, 53, 80, door.port].flatMap((port) =>
        [`10.${net}.0.1`, "10.77.0.1", "203.0.113.2", "127.0.0.1"].map(
          (to) => [name, { kind: "tcp", to, port: port === 53 ? 5_365 : port }] as const,
        ),
      ),
    );
    const local = router.filter(([, { to }]) => !to.startsWith("127."));
    const open = await Promise.all(
      [...others, ...local].map(async ([name, given]) =>
        (await town.passes(name, given)) ? [`${name} ${JSON.stringify(given)}`] : [],
      ),
    );
    assert.equal(open.flat(), []);
  });

  it("speaks with the container manager as core-network does, through the door that is open to it alone", async () => {
    const key = `X-API-KEY: ${Buffer.from(door.key.trim()).toString("base64")}`;
    const rest = async (host: string, what: string, body?: object, headers = [key], seconds = 20) => {
      const [method, path] = what.split(" ") as [string, string];
      const argv = [
        ...["curl", "--silent", "--max-time", String(seconds), "-X", method],
        ...headers.flatMap((each) => ["-H", each]),
        ...(body ? ["--data", JSON.stringify(body)] : []),
        ...["-w", " %{http_code}", `http://${door.address}:${door.port}${path}`],
      ];
      const { status, stdout } = await town.lab.exec(host, argv);
      return status === 0 ? stdout : `curl ${status}`;
    };
    const ok = "{} 200";
    // What is shut is never answered.
    const isShut = async (host: string) =>
      /^curl (7|28)$/.test(await rest(host, "GET /status", undefined, [key], 3));
    assert.ok(await isShut("boss"), "nobody is privileged");
    // The manager's host lets it in: from the router itself, as an administrator does.
    assert.is(await rest("router", "GET /status"), "active 200");
    assert.is(await rest("router", "POST /privileged", { src_ip: boss.address4! }), ok);
    assert.is(await rest("boss", "GET /status"), "active 200");
    assert.ok(await isShut("web"), "the door is not for others");
    assert.is(await rest("boss", "POST /connect", { name: "web", peers: ["lamp", "nobody"] }), ok);
    const standIn = await town.standIn("lamp", 4);
    await reaches(web, standIn);
    assert.equal(await town.resolve("web", "lamp."), [standIn]);
    assert.match(await rest("boss", "GET /connections"), /"name":"nobody","peer":"web","state":"pending"/);
    assert.equal(await town.resolve("boss", "databox-network."), [door.address]);
    await reaches(boss, standIn, "icmp");
    // What the original answers to what makes no sense, and to strangers.
    assert.match(await rest("boss", "POST /connect", { name: "web" }), /^\/connect server err: .* 500$/);
    assert.match(await rest("boss", "POST /disconnect", { name: "web", ip: web.address4! }), / 500$/);
    assert.match(await rest("boss", "GET /nothing"), / 404$/);
    assert.match(await rest("boss", "GET /status", undefined, [key, "Host: evil.example"]), / 403$/);
    assert.match(await rest("boss", "GET /status", undefined, [key, "Origin: http://evil.example"]), / 403$/);
    assert.is(
      await rest("boss", "GET /status", undefined, ["X-API-KEY: x"]),
      "Unauthorized: CM key invalid 401",
    );
    // It says where a service is before anybody has seen it there.
    const old = await town.address("app", 4);
    assert.is(await rest("boss", "POST /connect", { name: "app", peers: ["lamp"] }), ok);
    await reaches(app, standIn);
    await town.restart("app");
    const now = await town.address("app", 4);
    assert.is(await rest("boss", "POST /restart", { name: "app", old_ip: old, new_ip: now }), ok);
    await reaches(app, standIn);
    assert.is(await rest("boss", "POST /disconnect", { name: "app", ip: `${now}/24` }), ok);
    assert.not(await town.passes("app", { kind: "tcp", to: standIn }));
    assert.is(await rest("boss", "POST /disconnect", { name: "boss", ip: `${boss.address4}/24` }), ok);
    assert.ok(await isShut("boss"), "no longer privileged");
  });

  it("tells what a service announces to whom it is connected to alone, by its stand-in", async () => {
    await town.connect("web", ["lamp"]);
    const standIn = await town.standIn("lamp", 4);
    const heard = new Map([web, app, boss].map(({ name }) => [name, new Set<string>()]));
    const listeners = [...heard].map(([name, said]) => {
      const child = town.lab.spawn(name, [process.execPath, "-e", listenScript], {
        stdio: ["ignore", "pipe", "ignore"],
      });
      const lines = new LineReader((line) => {
        for (const { address } of decodeMessage(Buffer.from(line, "hex")).answers) said.add(String(address));
      });
      child.stdout!.setEncoding("utf8").on("data", (chunk: string) => lines.push(chunk));
      return child;
    });
    const announcement = encodeMessage({
      id: 0,
      flags: {
        ...{ response: true, opcode: 0, authoritative: true, truncated: false, rcode: 0 },
        ...{
          recursionDesired: false,
          recursionAvailable: false,
          authenticData: false,
          checkingDisabled: false,
        },
      },
      questions: [],
      answers: [
        {
          name: "lamp.local.",
          type: TYPE_A,
          class: CLASS_IN,
          ttlSeconds: 120,
          address: lamp.address4 as Address,
        },
      ],
    });
    const hex = Buffer.from(announcement).toString("hex");
    await eventually("an announcement", async () => {
      await town.lab.must("lamp", [process.execPath, "-e", announceScript, hex]);
      return heard.get("web")!.size > 0;
    });
    for (const child of listeners) child.kill();
    assert.equal(
      [...heard].map(([name, said]) => [name, ...said]),
      [["web", standIn], ["app"], ["boss"]],
    );
  });

  it("keeps a connect until the peer is there, and says so to who subscribed", async () => {
    const said: string[] = [];
    const listener = town.listen((kind, { name, peer }) => void said.push(`${kind} ${name} ${peer}`));
    await listener.done;
    await town.lab.must("router", ["ip", "link", "set", "br-iot", "down"]);
    await eventually("its absence", async () => (await town.known("lamp")).state === "pending");
    const { connected } = await town.call("connect", { name: "web", peers: ["lamp"] });
    assert.equal(JSON.parse(JSON.stringify(connected)), [{ peer: "lamp", state: "pending" }]);
    assert.equal(await town.resolve("web", "lamp."), ["NXDOMAIN"]);
    await town.lab.must("router", ["ip", "link", "set", "br-iot", "up"]);
    await town.lab.must("router", ["sh", "-c", "ip address replace fd32::1/64 dev br-iot nodad"]);
    await eventually("word of it", () => said.includes("active lamp web"));
    await reaches(web, await town.standIn("lamp", 4), "udp");
    await town.lab.must("router", ["ip", "link", "set", "br-iot", "down"]);
    await eventually("word of it", () => said.includes("pending lamp web"));
    await town.lab.must("router", ["ip", "link", "set", "br-iot", "up"]);
    await town.lab.must("router", ["sh", "-c", "ip address replace fd32::1/64 dev br-iot nodad"]);
    listener.cancel();
  });

  it.run();
}
