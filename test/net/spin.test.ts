/**
 * SPIN's interfaces on a running router: JSON-RPC through bus, socket and MQTT, its messages, its files, its lists,
 * and what is explained about a block, which must be what happens to packets.
 */

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import { paths, servers } from "../lab/topology.ts";
import { idOf, sleep } from "./trial.ts";

type Answer = {
  readonly result?: unknown;
  readonly error?: { readonly code: number; readonly message: string };
};

async function rpc(lab: Lab, method: string, params: object = {}): Promise<Answer> {
  return (await lab.call("spin", "rpc", { method, params })) as Answer;
}

/** Messages on topics below `topic`, from now on. */
function listen(
  lab: Lab,
  topic: string,
): { readonly all: { topic: string; payload: string }[]; end(): void } {
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

test("SPIN's sixteen methods are listed as SPIN lists them, and answer through the bus", async () => {
  const lab = await Lab.up();
  try {
    const recorded = JSON.parse(readFileSync("test/spin/fixtures/list_rpc_methods.json", "utf8")) as Answer;
    assert.equal((await rpc(lab, "list_rpc_methods")).result, recorded.result);
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const laptop = await idOf(lab, "10.77.0.10");
    const { result } = await rpc(lab, "get_device_data", { node: laptop });
    assert.is((result as { mac: string }).mac, "02:77:00:00:00:0a");
    const web = await idOf(lab, servers.web.address4);
    assert.equal(await rpc(lab, "set_flow_block", { node1: laptop, node2: web, block: 1 }), {});
    await stream.isCut();
    assert.equal((await rpc(lab, "get_flow_block")).result, [
      { node1: Math.min(laptop, web), node2: Math.max(laptop, web) },
    ]);
    const flows = (await rpc(lab, "list_device_flows", { device: "02:77:00:00:00:0a" })).result as {
      to: number;
      dst_port: number;
    }[];
    assert.ok(flows.some((flow) => flow.to === web && flow.dst_port === 5004));
    assert.is((await rpc(lab, "set_flow_block", { node1: laptop, node2: 99_999, block: 1 })).error?.code, -1);
  } finally {
    await lab.close();
  }
});

test("the RPC socket answers whole and split requests, and refuses other users", async () => {
  const lab = await Lab.up();
  try {
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
  } finally {
    await lab.close();
  }
});

test("a prefix on the block list stops all of it and nothing else, and the allow list beats it, in both back ends", async () => {
  for (const backend of ["nft", "ipset"] as const) {
    const lab = await Lab.up({ backend });
    try {
      const [web, video] = await Promise.all(
        [servers.web, servers.video].map((each) =>
          lab.stream({ from: "laptop", to: each.address4, kind: "udp" }),
        ),
      );
      assert.equal(await rpc(lab, "add_iplist_ip", { list: "block", ip: "198.51.100.0/28" }), {});
      await web!.isCut();
      await video!.flows();
      assert.equal((await rpc(lab, "list_iplist", { list: "block" })).result, ["198.51.100.0/28"]);
      assert.equal(await rpc(lab, "add_iplist_ip", { list: "allow", ip: servers.web.address4 }), {});
      await web!.flows();
      assert.equal(await rpc(lab, "remove_iplist_ip", { list: "allow", ip: servers.web.address4 }), {});
      await web!.isCut();
      assert.equal(await rpc(lab, "remove_iplist_ip", { list: "block", ip: "198.51.100.0/28" }), {});
      await web!.flows();
      assert.is(video!.lost, 0, "another server lost packets");
    } finally {
      await lab.close();
    }
  }
});

test("explain says what happens to packets, for a pair, a list, an exception and neither", async () => {
  const lab = await Lab.up();
  try {
    for (const name of ["web.example.net", "video.example.net"]) {
      await lab.must("laptop", ["getent", "ahostsv4", name]);
    }
    const [laptop, web] = [await idOf(lab, "10.77.0.10"), await idOf(lab, servers.web.address4)];
    const pings = async () => {
      const { stdout } = await lab.exec("laptop", ["ping", "-n", "-c", "1", "-W", "1", servers.web.address4]);
      return / 1 received/.test(stdout) ? "pass" : "drop";
    };
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
  } finally {
    await lab.close();
  }
});

for (const backend of ["nft", "ipset"] as const) {
  test(`${backend}: a block of a name follows it to a new address, before the client can use that`, async () => {
    const lab = await Lab.up({ backend });
    try {
      const server = "198.51.100.77";
      await lab.must("internet", ["ip", "address", "add", server, "dev", "lo"]);
      // A name server of its own, whose answer moves from one server to another.
      const serve = (address: string) =>
        lab.spawn("internet", [
          ...["dnsmasq", "-k", "-C", "/dev/null", "-u", "root", "--pid-file=", "--no-resolv", "--no-hosts"],
          ...["--bind-interfaces", "--except-interface=lo", `--listen-address=${server}`],
          `--host-record=moving.example.net,${address}`,
        ]);
      const ask = async () => {
        const { stdout } = await lab.exec("laptop", [
          ...["dig", "+short", "+tries=1", "+time=2", `@${server}`, "moving.example.net", "A"],
        ]);
        return stdout.trim();
      };
      const first = serve(servers.web.address4);
      await eventually("an answer", async () => (await ask()) === servers.web.address4);
      const laptop = await idOf(lab, "10.77.0.10");
      const name = await idOf(lab, servers.web.address4);
      await lab.call("gatehouse.flows", "block", { node1: laptop, node2: name });
      first.kill();
      await sleep(300);
      serve(servers.video.address4);
      // Answered and used in one breath, as programs do.
      const script =
        `dig +short +tries=1 +time=2 @${server} moving.example.net A && ` +
        `ping -n -c 1 -W 1 ${servers.video.address4}; sleep 1; ping -n -c 1 -W 1 ${servers.video.address4}`;
      const { stdout } = await eventually("the new answer", async () => {
        const result = await lab.exec("laptop", ["sh", "-c", script]);
        return result.stdout.includes(servers.video.address4) ? result : undefined;
      });
      const received = [...stdout.matchAll(/, (\d) received/g)].map((hit) => Number(hit[1]));
      assert.is(received[1], 0, "a second after the answer");
      const { limits } = (await lab.call("gatehouse", "status")) as { limits: string[] };
      // Where the kernel cannot hold answers, it says so, and the first packets may be faster than the rules.
      if (!limits.some((limit) => /answer/i.test(limit))) assert.is(received[0], 0, "right after the answer");
      else assert.is(backend, "nft", "only nft may lack the queue here");
    } finally {
      await lab.close();
    }
  });
}

test("20,000 dropped packets give a few messages with the right count, and a query is told", async () => {
  const lab = await Lab.up();
  try {
    const stream = await lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
    const camera = await idOf(lab, "10.77.0.11");
    const web = await idOf(lab, servers.web.address4);
    await stream.end();
    const heard = listen(lab, "SPIN/traffic/#");
    await eventually("retained messages", () => heard.all.length > 3);
    await lab.must("laptop", ["getent", "ahostsv4", "web.example.net"]);
    await eventually("a dnsquery", () =>
      commands(heard.all, "dnsquery").some(({ result }) => result.query === "web.example.net."),
    );
    await lab.call("gatehouse.flows", "block", { node1: camera, node2: web });
    await sleep(1_000);
    heard.all.length = 0;
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
    await eventually("all of them reported", () => sum() >= count, 10_000).catch(() => {});
    assert.is(sum(), count);
    assert.ok(blocked().length <= 60, `${blocked().length} messages`);
    assert.is(blocked()[0]!.result.from, camera);
    assert.is(blocked()[0]!.result.to, web);
    heard.end();
  } finally {
    await lab.close();
  }
});

test("a merge carries the block over, is told, answers under the old id, and is undone by a split", async () => {
  const lab = await Lab.up();
  try {
    const stream = await lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
    const camera = await idOf(lab, "10.77.0.11");
    const laptop = await idOf(lab, "10.77.0.10");
    const web = await idOf(lab, servers.web.address4);
    await lab.call("gatehouse.flows", "block", { node1: camera, node2: web });
    await stream.isCut();
    const heard = listen(lab, "SPIN/traffic/#");
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
    const other = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    await other.flows();
    heard.end();
  } finally {
    await lab.close();
  }
});

test("a device's packets come out as a capture, and a capture goes in by the socket for external sources", async () => {
  const socket = "/run/gatehouse-extsrc.sock";
  const lab = await Lab.up({ agent: false });
  try {
    const file = readFileSync(paths.configuration, "utf8");
    writeFileSync(
      paths.configuration,
      file.replace("option backend", `option extsrc_socket '${socket}'\n\toption backend`),
    );
    await lab.bus.start();
    await lab.agent.start();
    await lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
    await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
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
  } finally {
    await lab.close();
  }
});

test("SPIN's files are taken over at the first start, with every block, list and name, and once", async () => {
  const lab = await Lab.up({ agent: false });
  try {
    cpSync(join("test/spin/fixtures/etc-spin"), "/etc/spin", { recursive: true });
    await lab.bus.start();
    await lab.agent.start();
    const record = JSON.parse(readFileSync(join(paths.state, "spin-import.json"), "utf8")) as {
      ids: Record<string, number>;
      pairs: number;
    };
    const pairs = (await rpc(lab, "get_flow_block")).result as unknown[];
    assert.is(pairs.length, record.pairs);
    assert.ok(record.pairs > 0);
    const lines = readFileSync("/etc/spin/block.list", "utf8").split("\n").filter(Boolean);
    const listed = (await rpc(lab, "list_iplist", { list: "block" })).result as string[];
    for (const line of lines) assert.ok(listed.includes(line), `${line} is not on the block list`);
    const rules = await lab.must("router", ["gatehouse", "print"]);
    for (const line of lines) assert.ok(rules.includes(line), `${line} is not in the rules`);
    // Undone by the user, it is not done again by the next start.
    for (const pair of pairs as { node1: number; node2: number }[]) {
      await rpc(lab, "set_flow_block", { ...pair, block: 0 });
    }
    await lab.agent.restart();
    assert.equal((await rpc(lab, "get_flow_block")).result, []);
  } finally {
    await lab.close();
  }
});

test.run();
