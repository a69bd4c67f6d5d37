/**
 * How soon a block bites: from the call to the last packet that still arrives, beside a rule put in by hand; and
 * the round trip of SPIN's JSON-RPC socket, beside an echo.
 *
 * A thousand packets a second run from the client to the server, whose process writes down when each arrived, on
 * the clock that all processes of a machine share.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { openEcho } from "./bus.ts";
import { heading, quantile, table } from "./figure.ts";
import { buildNetwork, Daemons, rpcPath, sh, sleep } from "./router.ts";

const times = 15;
const port = 9_009;
const rpcCalls = 2_000;

const clockMs = () => Number(process.hrtime.bigint()) / 1e6;

/** `--stream`: sends a packet each millisecond. */
export function stream(): void {
  const socket = createSocket("udp4");
  const beganAt = clockMs();
  let sent = 0;
  setInterval(() => {
    for (; sent < clockMs() - beganAt; sent++) socket.send("x", port, "10.80.0.2");
  }, 1);
}

/** `--arrivals`: writes when each packet arrived. */
export function arrivals(): void {
  const socket = createSocket("udp4");
  socket.on("message", () => process.stdout.write(`${clockMs()}\n`));
  socket.bind(port);
}

function inside(host: string, mode: string): ChildProcess {
  const argv = ["netns", "exec", host, process.execPath, process.argv[1]!, mode];
  return spawn("ip", argv, { stdio: ["ignore", "pipe", "inherit"] });
}

/** Packets that arrived, by the last one's time. */
class Arrivals {
  lastAt = 0;
  #rest = "";

  constructor(child: ChildProcess) {
    child.stdout!.on("data", (chunk) => {
      const lines = (this.#rest + chunk).split("\n");
      this.#rest = lines.pop()!;
      if (lines.length > 0) this.lastAt = Number(lines.at(-1));
    });
  }

  async flowing(): Promise<void> {
    const from = clockMs();
    for (let attempt = 0; attempt < 500; attempt++) {
      if (this.lastAt > from + 50) return;
      await sleep(10);
    }
    throw new Error("Cannot measure: no packet arrives");
  }

  /** Milliseconds from before `cut` to the last packet that arrived after all. */
  async cut(cut: () => Promise<unknown>): Promise<number> {
    await this.flowing();
    const from = clockMs();
    await cut();
    await sleep(400);
    const lastAt = this.lastAt;
    if (clockMs() - lastAt < 200) throw new Error("Cannot measure: packets still arrive");
    return Math.max(0, lastAt - from);
  }
}

async function idOf(ubus: Ubus, address: string): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const { nodes } = (await ubus.call("gatehouse.nodes", "list")) as unknown as {
      nodes: { id: number; ips: string[] }[];
    };
    const node = nodes.find(({ ips }) => ips.includes(address));
    if (node) return node.id;
    await sleep(100);
  }
  throw new Error(`Cannot find the node of ${address}`);
}

function row(name: string, values: readonly number[]): string[] {
  return [name, ...[0.5, 0.99, 1].map((share) => quantile(values, share).toFixed(1))];
}

export async function measureCut(): Promise<void> {
  heading("How soon a block bites");
  buildNetwork();
  sh(`
    sysctl -qw net.netfilter.nf_conntrack_acct=1
    nft add table inet bench
    nft add chain inet bench f { type filter hook forward priority 5; }
  `);
  const daemons = new Daemons();
  const ubus = await daemons.startBus();
  const children = [inside("server", "--arrivals"), inside("client", "--stream")];
  const seen = new Arrivals(children[0]!);
  const rows = [["call → last packet, ms", "p50", "p99", "max"]];
  const byHand: number[] = [];
  for (let index = 0; index < times; index++) {
    byHand.push(await seen.cut(async () => sh(`nft add rule inet bench f udp dport ${port} drop`)));
    sh("nft flush chain inet bench f");
  }
  rows.push(row("a rule by hand, nft", byHand));
  for (const backend of ["nft", "ipset"]) {
    process.stderr.write(`  ${backend}\n`);
    daemons.configure(backend);
    await daemons.startAgent(ubus);
    await seen.flowing();
    const [node1, node2] = [await idOf(ubus, "10.70.0.2"), await idOf(ubus, "10.80.0.2")];
    const block = (on: boolean) => ubus.call("spin", "blockflow", { node1, node2, block: on ? 1 : 0 });
    const values: number[] = [];
    for (let index = 0; index < times; index++) {
      values.push(await seen.cut(() => block(true)));
      await block(false);
    }
    rows.push(row(`blockflow, ${backend}`, values));
    if (backend === "ipset") rows.push(...(await rpcRows()));
    await daemons.stopAgent();
  }
  for (const child of children) child.kill("SIGKILL");
  await daemons.stop();
  ubus.close();
  table(rows);
}

/** Milliseconds of calls over one connection of the JSON-RPC socket, one after the other, and of an echo. */
async function rpcRows(): Promise<string[][]> {
  if (!existsSync(rpcPath)) return [["JSON-RPC over its socket: not open", "", "", ""]];
  const echo = await openEcho();
  const plain: number[] = [];
  for (let index = 0; index < rpcCalls; index++) {
    const at = performance.now();
    await echo.call();
    plain.push(performance.now() - at);
  }
  echo.close();
  const socket = connect(rpcPath);
  let answered: (() => void) | undefined;
  let text = "";
  socket.on("data", (bytes) => {
    text += bytes;
    if (!text.endsWith("}\n")) return;
    text = "";
    answered?.();
  });
  const values: number[] = [];
  for (let index = 0; index < rpcCalls; index++) {
    const at = performance.now();
    await new Promise<void>((resolve, reject) => {
      answered = resolve;
      socket.once("close", () => reject(new Error("Cannot measure: the socket was closed")));
      socket.write(`{"jsonrpc":"2.0","id":${index},"method":"get_flow_block","params":{}}\n`);
    });
    socket.removeAllListeners("close");
    values.push(performance.now() - at);
  }
  socket.destroy();
  const precise = (name: string, list: readonly number[]) => [
    name,
    ...[0.5, 0.99, 1].map((share) => quantile(list, share).toFixed(3)),
  ];
  return [precise("echo over a unix socket, ms", plain), precise("JSON-RPC over its socket, ms", values)];
}
