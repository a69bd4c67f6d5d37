/**
 * Floods, replayed requests and other users, on a running router that all tests share.
 *
 * The flood lasts until the caps have left something out, and at least FLOOD_SECONDS (0 by default).
 */

import { readFileSync, writeFileSync } from "node:fs";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually, LineReader } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import { paths, servers } from "../lab/topology.ts";
import { idOf, Trial } from "../net/trial.ts";

const leastMs = Number(process.env.FLOOD_SECONDS ?? 0) * 1_000;
/** Of a busy agent on a busy machine: late answers are answers. */
const patient = { timeoutMs: 60_000 };
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
  // Up to 5,000 questions and 2,000 flows a second, as far as the machine gets, until its input ends.
  const text = `const d=require("dgram"),s=d.createSocket("udp4");let n=0,m=0,timer;
    const head=Buffer.from([0,7,1,0,0,1,0,0,0,0,0,0]),tail=Buffer.from([7,101,120,97,109,112,108,101,0,0,1,0,1]);
    const ask=()=>{const l=(n++).toString(36)+Math.random().toString(36).slice(2,10);
      s.send(Buffer.concat([head,Buffer.from([l.length]),Buffer.from(l),tail]),53,"${servers.names.address4}")};
    const go=()=>{for(let i=0;i<50;i++)ask();
      for(let i=0;i<20;i++,m++)s.send("x",1024+m%60000,"100.64."+((m>>8)&255)+"."+(m&255));
      timer=setTimeout(go,10)};s.bind(go);
    process.stdin.resume().on("end",()=>{clearTimeout(timer);process.stdout.write(n+" "+m);setTimeout(()=>s.close(),300)});`;
  const flood = lab.spawn("laptop", [process.execPath, "-e", text], { stdio: ["pipe", "pipe", "inherit"] });
  const said = new Promise<string>((resolve) => {
    let heard = "";
    flood.stdout!.setEncoding("utf8").on("data", (chunk: string) => (heard += chunk));
    flood.on("close", () => resolve(heard));
  });
  const stateOf = async () =>
    (await trial.ubus.call("gatehouse", "status", {}, patient)) as { nodes: Counters; flows: Counters };
  const leastEndAt = performance.now() + leastMs;
  let decisions = 0;
  // It goes on until both caps have been reached and have left something out, while decisions were taken.
  await eventually(
    "caps that leave something out",
    async () => {
      for (const block of [1, 0]) {
        const pair = { node1: camera, node2: web, block };
        assert.is((await trial.ubus.call("spin", "blockflow", pair, patient)).return, 0);
        decisions++;
      }
      const { nodes, flows } = await stateOf();
      assert.ok(nodes.nodes! <= maxNodes, `${nodes.nodes} nodes`);
      assert.ok(flows.records! <= maxFlows, `${flows.records} records`);
      assert.is(flood.exitCode, null, "the flood has ended");
      const leftOut = nodes.evicted! + nodes.refused! > 0 && flows.evicted! > 0;
      return leftOut && decisions >= 6 && performance.now() >= leastEndAt;
    },
    leastMs + 120_000,
  );
  flood.stdin!.end();
  const [asked, sent] = (await said).split(" ").map(Number) as [number, number];
  assert.ok(asked > maxNodes && sent > maxFlows, `${asked} questions, ${sent} flows`);
  await trial.ubus.call("spin", "blockflow", { node1: camera, node2: web, block: 1 }, patient);
  await watched.isCut();
  await witness.flows();
  // Who was known before is still who it was.
  assert.is(await idOf(lab, camera4), camera);
  await trial.ubus.call("spin", "blockflow", { node1: camera, node2: web, block: 0 }, patient);
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
  interface Answer {
    readonly id: number;
    readonly error?: object;
  }
  const answers = new Map<number, Answer>();
  let hears = false;
  const lines = new LineReader((line) => {
    if (line.startsWith("Subscribed")) hears = true;
    if (!line.startsWith("{")) return;
    const answer = JSON.parse(line) as Answer;
    answers.set(answer.id, answer);
  });
  const listen = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-t", "SPIN/jsonrpc/a"];
  const ear = lab.spawn("router", listen, { stdio: ["ignore", "pipe", "ignore"] });
  ear.stdout!.setEncoding("utf8").on("data", (chunk: string) => lines.push(chunk));
  await eventually("somebody who hears answers", () => hears);
  const answerTo = (id: number) => eventually(`an answer to ${id}`, () => answers.get(id), 60_000);
  const ask = async (id: number, params: object) => {
    await publish("-m", request(id, params));
    return answerTo(id);
  };
  await trial.kill();
  await publish("-r", "-m", request(1, block));
  await trial.start();
  // The answer to a later one shows that the broker has told all of them. Until the agent listens, nobody answers.
  const later = '{"jsonrpc":"2.0","id":2,"method":"get_flow_block"}';
  await eventually(
    "an answer to a later one",
    async () => {
      if (!answers.has(2)) await publish("-m", later);
      return answers.has(2);
    },
    60_000,
  );
  assert.not.ok(answers.has(1));
  const pairs = async () => (await trial.ubus.call("spin", "get_blockflow", {}, patient)).result as unknown[];
  assert.equal(await pairs(), []);
  await publish("-r", "-n");
  for (const id of [3, 4]) assert.is((await ask(id, block)).error, undefined);
  assert.is((await pairs()).length, 1);
  assert.ok((await ask(5, { ...block, node2: 88_888_888 })).error);
  assert.is((await pairs()).length, 1);
  await ask(6, { ...block, block: 0 });
  assert.equal(await pairs(), []);
  ear.kill();
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
    ["sh", "-c", `{ printf '{"jsonrpc":"2.0",'; sleep 600; } | socat -t 1 - UNIX-CONNECT:${paths.rpc}`],
    { stdio: "ignore" },
  );
  const status = async () =>
    ((await trial.ubus.call("gatehouse", "status", {}, patient)) as { rpc: Counters }).rpc;
  await eventually("the half request given up", async () => (await status()).broken! > 0, 60_000);
});

it.run();
