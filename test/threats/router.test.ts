/**
 * Floods, replayed requests and other users, on a running router that all tests share.
 *
 * FLOOD_SECONDS (6 by default) is how long the flood lasts.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import { paths, servers } from "../lab/topology.ts";
import { idOf, Trial } from "../net/trial.ts";

const seconds = Number(process.env.FLOOD_SECONDS ?? 6);
const external = "/run/gatehouse-extsrc.sock";
const maxNodes = 1_024;
const maxFlows = 2_048;
const camera4 = "10.77.0.11";
const tablet4 = "10.77.0.12";

let lab: Lab;
let trial: Trial;

const it = suite("router");

it.before(async () => {
  lab = await Lab.up({ backend: "nft", clients: ["tablet"], configuration: "\toption jsonrpc '1'\n" });
  await lab.agent.stop();
  const more = [
    `\toption extsrc_socket '${external}'`,
    `\toption max_nodes '${maxNodes}'`,
    `\toption max_flows '${maxFlows}'`,
  ];
  const text = readFileSync(paths.configuration, "utf8");
  writeFileSync(paths.configuration, text.replace("\n", `\n${more.join("\n")}\n`));
  trial = new Trial(lab);
  await trial.start();
});

it.after(async () => {
  await trial?.kill();
  trial?.ubus.close();
  await lab?.close();
});

type Counters = Readonly<Record<string, number>>;

it("a flood of random names and new flows: caps hold, what is left out is counted, and blocks are made and lifted meanwhile", async () => {
  const witness = await lab.stream({ from: "tablet", to: servers.web.address4, kind: "udp" });
  const watched = await lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
  const [camera, web] = [await idOf(lab, camera4), await idOf(lab, servers.web.address4)];
  let flooding = true;
  // 5,000 questions and 2,000 flows a second, as far as the machine gets.
  const text = `const d=require("dgram"),s=d.createSocket("udp4"),end=Date.now()+${seconds * 1_000};let n=0,m=0;
    const head=Buffer.from([0,7,1,0,0,1,0,0,0,0,0,0]),tail=Buffer.from([7,101,120,97,109,112,108,101,0,0,1,0,1]);
    const ask=()=>{const l=(n++).toString(36)+Math.random().toString(36).slice(2,10);
      s.send(Buffer.concat([head,Buffer.from([l.length]),Buffer.from(l),tail]),53,"${servers.names.address4}")};
    const go=()=>{for(let i=0;i<50;i++)ask();
      for(let i=0;i<20;i++,m++)s.send("x",1024+m%60000,"100.64."+((m>>8)&255)+"."+(m&255));
      Date.now()<end?setTimeout(go,10):setTimeout(()=>{process.stdout.write(n+" "+m);s.close()},300)};s.bind(go);`;
  const flood = lab
    .must("laptop", [process.execPath, "-e", text], { limitMs: seconds * 1_000 + 30_000 })
    .finally(() => {
      flooding = false;
    });
  let decisions = 0;
  while (flooding) {
    for (const block of [1, 0]) {
      const call = trial.ubus.call(
        "spin",
        "blockflow",
        { node1: camera, node2: web, block },
        { timeoutMs: 10_000 },
      );
      assert.is((await call).return, 0);
      decisions++;
    }
    const status = (await trial.ubus.call("gatehouse", "status", {}, { timeoutMs: 15_000 })) as {
      nodes: Counters;
      flows: Counters;
    };
    assert.ok(status.nodes.nodes! <= maxNodes, `${status.nodes.nodes} nodes`);
    assert.ok((status.flows.records ?? 0) <= maxFlows, `${status.flows.records} records`);
  }
  const [asked, flows] = (await flood).split(" ").map(Number) as [number, number];
  assert.ok(asked > 2_000 && flows > 1_000, `${asked} questions, ${flows} flows`);
  assert.ok(decisions > 2, `${decisions} decisions`);
  await trial.ubus.call("spin", "blockflow", { node1: camera, node2: web, block: 1 });
  await watched.isCut();
  await witness.flows();
  const status = (await trial.ubus.call("gatehouse", "status")) as { nodes: Counters; flows: Counters };
  assert.ok(status.nodes.evicted! + status.nodes.refused! > 0, JSON.stringify(status.nodes));
  // Who was known before is still who it was.
  assert.is(await idOf(lab, camera4), camera);
  await trial.ubus.call("spin", "blockflow", { node1: camera, node2: web, block: 0 });
  await watched.flows();
  await Promise.all([witness.end(), watched.end()]);
});

it("a retained request is nobody's, a repeated one changes nothing more, one about an unknown node is refused", async () => {
  const [camera, tablet] = [await idOf(lab, camera4), await idOf(lab, tablet4)];
  const request = (id: number, params: object) =>
    JSON.stringify({ jsonrpc: "2.0", id, method: "set_flow_block", params });
  const block = { node1: camera, node2: tablet, block: 1 };
  const publish = (...more: string[]) =>
    lab.must("router", ["mosquitto_pub", "-t", "SPIN/jsonrpc/q", ...more]);
  const ask = async (text: string) =>
    JSON.parse(
      await lab.must("router", [
        ...["mosquitto_rr", "-t", "SPIN/jsonrpc/q", "-e", "SPIN/jsonrpc/a", "-W", "5", "-m", text],
      ]),
    ) as { id: number; error?: object };
  await trial.kill();
  await publish("-r", "-m", request(1, block));
  await trial.start();
  // The answer to a later one shows that the broker has told all of them.
  const later = () => ask('{"jsonrpc":"2.0","id":2,"method":"get_flow_block"}').catch(() => undefined);
  assert.is((await eventually("an answer", later, 30_000)).id, 2);
  const pairs = async () => (await trial.ubus.call("spin", "get_blockflow")).result as unknown[];
  assert.equal(await pairs(), []);
  await publish("-r", "-n");
  for (const id of [3, 4]) assert.is((await ask(request(id, block))).error, undefined);
  assert.is((await pairs()).length, 1);
  assert.ok((await ask(request(5, { ...block, node2: 88_888_888 }))).error);
  assert.is((await pairs()).length, 1);
  await ask(request(6, { ...block, block: 0 }));
  assert.equal(await pairs(), []);
});

it("as nobody: no socket answers, no method can be called, no file can be read", async () => {
  const nobody = (...argv: string[]) =>
    lab.exec("router", ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...argv]);
  const request = '{"jsonrpc":"2.0","id":1,"method":"list_devices"}\n';
  for (const open of [false, true]) {
    // Also when somebody has opened the file to all: the kernel tells who it is.
    if (open) await lab.must("router", ["chmod", "0666", paths.rpc]);
    const { stdout } = await nobody("sh", "-c", `printf '%s' '${request}' | nc -N -w 2 -U ${paths.rpc}`);
    assert.is(stdout, "");
  }
  const sent = await nobody("sh", "-c", `printf x | socat -u - UNIX-SENDTO:${external}`);
  assert.is.not(sent.status, 0);
  const calls = [
    ["gatehouse.nodes", "list", "{}"],
    ["gatehouse", "status", "{}"],
    ["spin", "rpc", '{"method":"list_devices"}'],
    ["spin", "blockflow", '{"node1":1,"node2":2,"block":1}'],
  ] as const;
  for (const [object, method, args] of calls) {
    const answer = await nobody("gatehouse", "call", object, method, args);
    assert.is.not(answer.status, 0, `${object} ${method}`);
    assert.is(answer.stdout, "", `${object} ${method}`);
    // The same words as root, to see that it is not the words.
    if (method !== "blockflow") await lab.must("router", ["gatehouse", "call", object, method, args]);
  }
  const open = await lab.must("router", ["find", paths.state, "-perm", "/077"]);
  assert.is(open, "", "files of the state that others may read");
  assert.is.not((await nobody("cat", `${paths.state}/nodes.json`)).status, 0);
});

it("a client that says half a request and nothing more is given up, and others are answered meanwhile", async () => {
  lab.spawn(
    "router",
    ["sh", "-c", `{ printf '{"jsonrpc":"2.0",'; sleep 20; } | socat -t 1 - UNIX-CONNECT:${paths.rpc}`],
    { stdio: "ignore" },
  );
  const status = async () =>
    ((await trial.ubus.call("gatehouse", "status", {}, { timeoutMs: 10_000 })) as { rpc: Counters }).rpc;
  await eventually("the half request given up", async () => (await status()).broken! > 0, 15_000);
});

it.run();
