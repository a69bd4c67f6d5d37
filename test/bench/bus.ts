/** Round trips client → bus → agent method and back, beside a plain echo of Node over a unix socket. */

import { fork } from "node:child_process";
import { connect, createServer } from "node:net";
import { heading, median, quantile, table } from "./figure.ts";
import { buildNetwork, Daemons } from "./router.ts";

const roundMs = 1_500;
const rounds = 5;
const echoPath = "/run/bench/echo.sock";
/** As long as a blockflow call on the wire. */
const echoBytes = 88;

interface Figures {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
}

/** Keeps `inFlight` calls going for a while. */
async function drive(call: () => Promise<unknown>, inFlight: number): Promise<Figures> {
  const latencies: number[] = [];
  const endAt = performance.now() + roundMs;
  const lane = async () => {
    while (performance.now() < endAt) {
      const at = performance.now();
      await call();
      latencies.push((performance.now() - at) * 1000);
    }
  };
  const startedAt = performance.now();
  await Promise.all(Array.from({ length: inFlight }, lane));
  const seconds = (performance.now() - startedAt) / 1000;
  return {
    perSecond: latencies.length / seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

/** Echoes whatever comes; the process of the other end. */
export function serveEcho(): void {
  createServer((socket) => {
    socket.on("data", (bytes) => socket.write(bytes));
    socket.on("error", () => socket.destroy());
  }).listen(echoPath, () => process.send!("ready"));
}

/** A plain echo over a unix socket in a process of its own. */
export async function openEcho(): Promise<{ call: () => Promise<unknown>; close: () => void }> {
  const server = fork(process.argv[1]!, ["--echo"]);
  await new Promise((resolve) => server.once("message", resolve));
  const socket = connect(echoPath);
  await new Promise((resolve) => socket.once("connect", resolve));
  const waiting: (() => void)[] = [];
  let received = 0;
  socket.on("data", (bytes) => {
    received += bytes.length;
    for (; received >= echoBytes; received -= echoBytes) waiting.shift()?.();
  });
  const message = Buffer.alloc(echoBytes, 1);
  const call = () =>
    new Promise<void>((resolve) => {
      waiting.push(resolve);
      socket.write(message);
    });
  const close = () => {
    socket.destroy();
    server.kill();
  };
  return { call, close };
}

export async function measureBus(): Promise<void> {
  heading("Bus round trips: client → bus → agent → bus → client");
  buildNetwork();
  const daemons = new Daemons();
  const ubus = await daemons.startBus();
  daemons.configure("auto");
  await daemons.startAgent(ubus);
  const echo = await openEcho();
  const rows = [["", "calls/s", "p50 µs", "p99 µs", "echo/s", "echo p50 µs", "ratio"]];
  for (const inFlight of [1, 100]) {
    const ours: Figures[] = [];
    const plain: Figures[] = [];
    for (let round = 0; round < rounds; round++) {
      plain.push(await drive(echo.call, inFlight));
      ours.push(await drive(() => ubus.call("spin", "get_blockflow"), inFlight));
    }
    const of = (figures: readonly Figures[], what: keyof Figures) =>
      median(figures.map((each) => each[what]));
    rows.push([
      `${inFlight} in flight`,
      of(ours, "perSecond").toFixed(0),
      of(ours, "p50").toFixed(0),
      of(ours, "p99").toFixed(0),
      of(plain, "perSecond").toFixed(0),
      of(plain, "p50").toFixed(0),
      (of(ours, "perSecond") / of(plain, "perSecond")).toFixed(2),
    ]);
  }
  echo.close();
  await daemons.stop();
  ubus.close();
  table(rows);
  console.log("A call takes four hops through two more processes; an echo takes two.");
}
