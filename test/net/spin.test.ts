/**
 * SPIN's interfaces on a running router: JSON-RPC through bus, socket and MQTT, its messages, its files, its lists,
 * and what is explained about a block, which must be what happens to packets.
 */

import { once } from "node:events";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import { clockMs } from "../lab/time.ts";
import { type Backend, paths, servers } from "../lab/topology.ts";
import { Counter, enforced, pingsPass } from "../lab/watch.ts";
import { idOf } from "./trial.ts";

type Answer = {
  readonly result?: unknown;
  readonly error?: { readonly code: number; readonly message: string };
};

/** Of the suite that runs. */
let lab: Lab;

async function rpc(method: string, params: object = {}): Promise<Answer> {
  return (await lab.call("spin", "rpc", { method, params })) as Answer;
}

const udp = (from: string, { address4: to }: { address4: string }) => lab.stream({ from, to, kind: "udp" });

/** Messages on topics below `topic`, from now on. */
function listen(topic: string): { readonly all: { topic: string; payload: string }[]; end(): void } {
  const all: { topic: string; payload: string }[] = [];
  const child = lab.spawn("router", ["mosquitto_sub", "-t", topic, "-F", "%t %p"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  let rest = "";
  child.stdout!.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const at = line.indexOf(" ");
      all.push({ topic: line.slice(0, at), payload: line.slice(at + 1) });
    }
  });
  return { all, end: () => void child.kill() };
}

const commands = (heard: { payload: string }[], name: string) =>
  heard
    .filter(({ payload }) => payload.startsWith("{"))
    .map(({ payload }) => JSON.parse(payload) as { command: string; result: Record<string, unknown> })
    .filter(({ command }) => command === name);

const socket = "/run/gatehouse-extsrc.sock";

/** A suite in a lab of its own, whose agent is told of the socket for external sources. */
function router(name: string, backend: Backend, agent = true): ReturnType<typeof suite> {
  const it = suite(name);
  it.before(async () => {
    lab = await Lab.up({ backend, agent: false });
    const file = readFileSync(paths.configuration, "utf8");
    const option = `option extsrc_socket '${socket}'\n\t`;
    writeFileSync(paths.configuration, file.replace("option backend", `${option}option backend`));
    await lab.bus.start();
    if (agent) await lab.agent.start();
  });
  it.after(() => lab?.close());
  return it;
}

const nft = router("nft", "nft");
const ipset = router("ipset", "ipset");
const fresh = router("first start", "auto", false);

nft("explain says what happens to packets, for a pair, a list, an exception and neither", async () => {
  for (const name of ["web.example.net", "video.example.net"]) {
    await lab.must("laptop", ["getent", "ahostsv4", name]);
  }
  const [laptop, web] = [await idOf(lab, "10.77.0.10"), await idOf(lab, servers.web.address4)];
  const pings = async () => ((await pingsPass(lab, "laptop", servers.web.address4)) ? "pass" : "drop");
  const explained = async (from: string, to: string) => {
    const text = await lab.must("router", ["gatehouse", "explain", from, to]);
    return JSON.parse(text) as { verdict: string; packets: { reasons: { kind: string }[] }[] };
  };
  const agree = async (verdict: string, kinds: readonly string[]) => {
    const said = await explained("laptop", "web.example.net");
    assert.is(said.verdict, verdict);
    assert.is(await pings(), verdict);
    const [packet] = (await explained("10.77.0.10", servers.web.address4)).packets;
    assert.equal([...new Set(packet!.reasons.map((reason) => reason.kind))].sort(), kinds);
    return said;
  };
  await agree("pass", []);
  await lab.call("gatehouse.flows", "block", { node1: laptop, node2: web });
  await agree("drop", ["pair"]);
  await lab.call("gatehouse.flows", "list_add", { list: "block", address: "198.51.100.0/24" });
  await agree("drop", ["barred", "pair"]);
  await lab.call("gatehouse.flows", "list_add", { list: "allow", node: laptop });
  await agree("pass", ["barred", "exempt", "pair"]);
  const rules = await lab.must("router", ["gatehouse", "print"]);
  assert.match(rules, /table inet gatehouse_flows/);
  assert.match(rules, /198\.51\.100\.0\/24/);
  const unknown = await lab.exec("router", ["gatehouse", "explain", "nobody", "laptop"]);
  assert.is.not(unknown.status, 0);
  await lab.call("gatehouse.flows", "list_remove", { list: "allow", node: laptop });
  await lab.call("gatehouse.flows", "list_remove", { list: "block", address: "198.51.100.0/24" });
  await lab.call("gatehouse.flows", "unblock", { node1: laptop, node2: web });
  await agree("pass", []);
});

nft("SPIN's sixteen methods are listed as SPIN lists them, and answer through the bus", async () => {
  const recorded = JSON.parse(readFileSync("test/spin/fixtures/list_rpc_methods.json", "utf8")) as Answer;
  assert.equal((await rpc("list_rpc_methods")).result, recorded.result);
  const stream = await udp("laptop", servers.web);
  const laptop = await idOf(lab, "10.77.0.10");
  const { result } = await rpc("get_device_data", { node: laptop });
  assert.is((result as { mac: string }).mac, "02:77:00:00:00:0a");
  const web = await idOf(lab, servers.web.address4);
  assert.equal(await rpc("set_flow_block", { node1: laptop, node2: web, block: 1 }), {});
  await stream.isCut();
  assert.equal((await rpc("get_flow_block")).result, [
    { node1: Math.min(laptop, web), node2: Math.max(laptop, web) },
  ]);
  const flows = (await rpc("list_device_flows", { device: "02:77:00:00:00:0a" })).result as {
    to: number;
    dst_port: number;
  }[];
  assert.ok(flows.some((flow) => flow.to === web && flow.dst_port === 5004));
  assert.is((await rpc("set_flow_block", { node1: laptop, node2: 99_999, block: 1 })).error?.code, -1);
  assert.equal(await rpc("set_flow_block", { node1: laptop, node2: web, block: 0 }), {});
  await stream.end();
});

nft("the RPC socket answers whole and split requests, and refuses other users", async () => {
  const request = '{"jsonrpc":"2.0","id":7,"method":"get_flow_block","params":{}}';
  const ask = (...argv: string[]) => lab.exec("router", ["sh", "-c", ...argv]);
  const whole = await ask(`echo '${request}' | nc -N -U ${paths.rpc}`);
  assert.is(whole.stdout, '{"jsonrpc":"2.0","id":7,"result":[]}\n');
  const split = await ask(
    `{ printf '%s' '${request.slice(0, 20)}'; sleep 0.2; printf '%s' '${request.slice(20)}${request}'; } | nc -N -U ${paths.rpc}`,
  );
  assert.is(split.stdout.trim().split("\n").length, 2);
  const { stdout } = await lab.exec("router", ["stat", "-c", "%a", paths.rpc]);
  assert.is(stdout.trim(), "660");
  const foreign = await ask(
    `chmod 0666 ${paths.rpc}; echo '${request}' | setpriv --reuid 65534 --regid 65534 --clear-groups nc -N -U ${paths.rpc}`,
  );
  assert.is(foreign.stdout, "");
});

/** What both back ends do. */
function both(it: ReturnType<typeof suite>, backend: "nft" | "ipset"): void {
  it("a prefix on the block list stops all of it and nothing else, and the allow list beats it", async () => {
    const [web, video] = await Promise.all([servers.web, servers.video].map((each) => udp("laptop", each)));
    assert.equal(await rpc("add_iplist_ip", { list: "block", ip: "198.51.100.0/28" }), {});
    await web!.isCut();
    await video!.flows();
    assert.equal((await rpc("list_iplist", { list: "block" })).result, ["198.51.100.0/28"]);
    assert.equal(await rpc("add_iplist_ip", { list: "allow", ip: servers.web.address4 }), {});
    await web!.flows();
    assert.equal(await rpc("remove_iplist_ip", { list: "allow", ip: servers.web.address4 }), {});
    await web!.isCut();
    assert.equal(await rpc("remove_iplist_ip", { list: "block", ip: "198.51.100.0/28" }), {});
    await web!.flows();
    assert.is(video!.lost, 0, "another server lost packets");
    await Promise.all([web!.end(), video!.end()]);
  });

  it("a block of a name follows it to a new address, before the client can use that", async () => {
    const server = "198.51.100.77";
    const places = Array.from({ length: 6 }, (_, index) => `198.51.100.${80 + index}`);
    for (const each of [server, ...places]) {
      await lab.must("internet", ["ip", "address", "add", each, "dev", "lo"]);
    }
    // A name server of its own, whose answer moves from one server to another.
    let serving: ReturnType<Lab["spawn"]> | undefined;
    const serve = async (address: string) => {
      if (serving) {
        const gone = once(serving, "exit");
        serving.kill();
        await gone;
      }
      serving = lab.spawn("internet", [
        ...["dnsmasq", "-k", "-C", "/dev/null", "-u", "root", "--pid-file=", "--no-resolv", "--no-hosts"],
        ...["--bind-interfaces", "--except-interface=lo", `--listen-address=${server}`],
        `--host-record=moving.example.net,${address}`,
      ]);
    };
    const dig = `dig +short +tries=1 +time=20 @${server} moving.example.net A`;
    const ask = async (more = "") => {
      const { stdout } = await lab.exec("laptop", ["sh", "-c", `${dig}${more}`]);
      return stdout;
    };
    await serve(places[0]!);
    await eventually("an answer", async () => (await ask()).trim() === places[0]);
    const laptop = await idOf(lab, "10.77.0.10");
    const name = await idOf(lab, places[0]!);
    await lab.call("gatehouse.flows", "block", { node1: laptop, node2: name });
    const { limits } = (await lab.call("gatehouse", "status")) as { limits: string[] };
    // Where the kernel cannot hold answers, it says so, and the first packets may be faster than the rules.
    const holds = !limits.some((limit) => /answer/i.test(limit));
    assert.ok(holds || backend === "nft", "only nft may lack the queue here");
    const late = async () => {
      const { senses } = (await lab.call("gatehouse", "status")) as { senses: { held: { late?: number } } };
      return senses.held.late ?? 0;
    };
    let judged = false;
    for (const place of places.slice(1)) {
      if (judged) break;
      const [lateBefore, arrived] = [await late(), await Counter.of(lab, "internet", [`ip daddr ${place}`])];
      await serve(place);
      // Answered and used in one breath, as programs do.
      await eventually("the new answer", async () =>
        (await ask(` && ping -n -c 1 -W 1 ${place}`)).includes(`PING ${place}`),
      );
      // An agent that came too late for its turn held the answer up as long as it may: that tells nothing.
      if (holds && (await late()) === lateBefore) {
        assert.is(await arrived.read(), 0, "right after the answer");
        judged = true;
      }
      await enforced(lab, backend, place);
      assert.not.ok(await pingsPass(lab, "laptop", place), "once the kernel knows");
    }
    if (holds && !judged) console.log("this machine was too slow to hold answers until they were followed");
    await lab.call("gatehouse.flows", "unblock", { node1: laptop, node2: name });
    serving!.kill();
  });
}

both(nft, "nft");
both(ipset, "ipset");

nft("20,000 dropped packets give a few messages with the right count, and a query is told", async () => {
  const stream = await udp("camera", servers.web);
  const camera = await idOf(lab, "10.77.0.11");
  const web = await idOf(lab, servers.web.address4);
  await stream.end();
  const heard = listen("SPIN/traffic/#");
  await eventually("retained messages", () => heard.all.length > 3);
  await lab.must("laptop", ["getent", "ahostsv4", "web.example.net"]);
  await eventually("a dnsquery", () =>
    commands(heard.all, "dnsquery").some(({ result }) => result.query === "web.example.net."),
  );
  await lab.call("gatehouse.flows", "block", { node1: camera, node2: web });
  const startedAt = clockMs();
  // One flow of a fixed size, as fast as a shell sends it.
  const count = 20_000;
  await lab.must("camera", [
    process.execPath,
    "-e",
    `const s=require("dgram").createSocket("udp4");let n=0;
     const go=()=>{for(let i=0;i<50&&n<${count};i++,n++)s.send("x",9999,"${servers.web.address4}");
     n<${count}?setTimeout(go,2):setTimeout(()=>s.close(),200)};s.bind(4444,go);`,
  ]);
  const blocked = () => commands(heard.all, "blocked").filter(({ result }) => result.from_port === 4444);
  const sum = () => blocked().reduce((total, { result }) => total + Number(result.count), 0);
  await eventually("all of them reported", () => sum() >= count).catch(() => {});
  assert.is(sum(), count);
  const seconds = (clockMs() - startedAt) / 1_000;
  assert.ok(blocked().length <= 10 + 2 * seconds, `${blocked().length} messages in ${seconds} s`);
  assert.is(blocked()[0]!.result.from, camera);
  assert.is(blocked()[0]!.result.to, web);
  await lab.call("gatehouse.flows", "unblock", { node1: camera, node2: web });
  heard.end();
});

nft(
  "a merge carries the block over, is told, answers under the old id, and is undone by a split",
  async () => {
    const stream = await udp("camera", servers.web);
    const camera = await idOf(lab, "10.77.0.11");
    const laptop = await idOf(lab, "10.77.0.10");
    const web = await idOf(lab, servers.web.address4);
    await lab.call("gatehouse.flows", "block", { node1: camera, node2: web });
    await stream.isCut();
    const heard = listen("SPIN/traffic/#");
    await lab.call("gatehouse.nodes", "merge", { node: camera, into: laptop });
    const pair = (one: number) => ({ node1: Math.min(one, web), node2: Math.max(one, web) });
    assert.equal((await lab.call("spin", "get_blockflow")).result, [pair(laptop)]);
    await stream.isCut();
    assert.is((await lab.call("gatehouse.nodes", "get", { node: camera })).id, laptop);
    await eventually("nodeMerged", () =>
      commands(heard.all, "nodeMerged").some(({ result }) => result.id === camera),
    );
    await eventually("the old topic", () =>
      heard.all.some(
        ({ topic, payload }) =>
          topic === `SPIN/traffic/node/${camera}` &&
          payload === `{"command":"nodeInfo","result":{"id":${camera},"merged-to":${laptop}}}`,
      ),
    );
    await lab.call("gatehouse.nodes", "split", { node: camera });
    assert.equal((await lab.call("spin", "get_blockflow")).result, [pair(camera)]);
    await stream.isCut();
    const other = await udp("laptop", servers.web);
    await other.flows();
    await lab.call("gatehouse.flows", "unblock", { node1: camera, node2: web });
    await Promise.all([stream.end(), other.end()]);
    heard.end();
  },
);

nft(
  "a device's packets come out as a capture, and a capture goes in by the socket for external sources",
  async () => {
    await udp("camera", servers.web);
    await udp("laptop", servers.web);
    const camera = await idOf(lab, "10.77.0.11");
    await lab.must("router", ["sh", "-c", `gatehouse capture ${camera} -s 2 > /run/lab/camera.pcap`]);
    const shown = await lab.must("router", ["tcpdump", "-nn", "-r", "/run/lab/camera.pcap"]);
    assert.match(shown, /10\.77\.0\.11\.\d+ > 198\.51\.100\.10\.5004/);
    assert.match(shown, /198\.51\.100\.10\.5004 > 10\.77\.0\.11/);
    assert.not.match(shown, /10\.77\.0\.10\b/);
    const before = await lab.must("router", ["gatehouse", "print"]);
    const sample = join(process.cwd(), "test/cli/fixtures/lan-sample.pcap");
    await lab.must("router", ["gatehouse", "replay", sample, "-R", "-e", socket]);
    await eventually("a name of the capture", async () => {
      const { nodes } = (await lab.call("gatehouse.nodes", "list")) as unknown as {
        nodes: { domains: string[] }[];
      };
      return nodes.some((node) => node.domains.includes("cdn-a.example.com."));
    });
    assert.is(await lab.must("router", ["gatehouse", "print"]), before, "a replay touches no rule");
    const alone = JSON.parse(await lab.must("router", ["gatehouse", "replay", sample, "--json"])) as {
      nodes: unknown[];
    };
    assert.ok(alone.nodes.length > 4);
  },
);

fresh(
  "SPIN's files are taken over at the first start, with every block, list and name, and once",
  async () => {
    cpSync(join("test/spin/fixtures/etc-spin"), "/etc/spin", { recursive: true });
    await lab.agent.start();
    const record = JSON.parse(readFileSync(join(paths.state, "spin-import.json"), "utf8")) as {
      ids: Record<string, number>;
      pairs: number;
    };
    const pairs = (await rpc("get_flow_block")).result as unknown[];
    assert.is(pairs.length, record.pairs);
    assert.ok(record.pairs > 0);
    const lines = readFileSync("/etc/spin/block.list", "utf8").split("\n").filter(Boolean);
    const listed = (await rpc("list_iplist", { list: "block" })).result as string[];
    for (const line of lines) assert.ok(listed.includes(line), `${line} is not on the block list`);
    const rules = await lab.must("router", ["gatehouse", "print"]);
    for (const line of lines) assert.ok(rules.includes(line), `${line} is not in the rules`);
    // Undone by the user, it is not done again by the next start.
    for (const pair of pairs as { node1: number; node2: number }[]) {
      await rpc("set_flow_block", { ...pair, block: 0 });
    }
    await lab.agent.restart();
    assert.equal((await rpc("get_flow_block")).result, []);
  },
);

nft.run();
ipset.run();
fresh.run();
