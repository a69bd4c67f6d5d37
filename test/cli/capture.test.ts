/** `gatehouse capture` on the real kernel: the node is asked for over the bus, its packets come to standard output. */

import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type ByteOutput, captureVerb } from "../../src/cli/capture.ts";
import { type CommandLine, runCli } from "../../src/cli/cli.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json } from "../../src/lib/json.ts";
import { type Bus, connectUbus, openBus, type Ubus } from "../../src/ubus/ubus.ts";
import { camera, framesOf, type Host, laptop, makeLan, ping, router, system } from "../capture/lan.ts";
import { until } from "../system/until.ts";

const path = join(process.env.TMPDIR!, "ubus.sock");
let bus: Bus;
let agent: Ubus;
/** What the agent answers for node 1, and for its status. */
let detail: Record<string, Json>;
let status: Record<string, Json>;

const detailOf = (host: Host) => ({
  id: 1,
  macs: [{ mac: host.mac, randomised: true }],
  addresses: [{ address: host.address4 }, { address: host.address6 }],
});

test.before(async () => {
  makeLan();
  bus = await openBus(system, { path });
  agent = connectUbus(system, { path });
  await agent.ready();
  await agent.publish("gatehouse.nodes", {
    get: {
      ...{ args: { node: "Integer" }, access: "read", doc: "A node." },
      call({ node }) {
        if (node !== 1) throw new Fault("not-found", "Cannot get node");
        return detail;
      },
    },
  }).done;
  await agent.publish("gatehouse", {
    status: { args: {}, access: "read", doc: "How it is.", call: () => status },
  }).done;
});

test.before.each(() => {
  detail = detailOf(camera);
  status = { lan_devices: ["br-lan"] };
});

test.after(async () => {
  agent.close();
  await bus.close();
});

function start(
  argv: readonly string[],
  options: { readonly tty?: boolean; readonly output?: ByteOutput; readonly socket?: string } = {},
) {
  const pieces: Uint8Array[] = [];
  let signal = () => {};
  const run = {
    stderr: "",
    file: () => Buffer.concat(pieces),
    signal: () => signal(),
  };
  const output: ByteOutput =
    options.output ??
    (async (bytes) => {
      pieces.push(bytes.slice());
      return true;
    });
  const io: CommandLine = {
    stdout: () => assert.unreachable("text among the packets"),
    stderr: (text) => {
      run.stderr += text;
    },
    ...{ stdoutIsTty: options.tty === true, stderrIsTty: false, version: "test" },
    onSignal(call) {
      signal = call;
      return () => {
        signal = () => {};
      };
    },
    verbs: new Map([["capture", captureVerb(output)]]),
  };
  return Object.assign(run, { done: runCli(["-s", options.socket ?? path, "capture", ...argv], system, io) });
}

const begun = (run: { file(): Uint8Array }) => until(() => run.file().length >= 24, "the header");

test("the packets of the node alone come, both ways, until a signal", async () => {
  const run = start(["1"]);
  await begun(run);
  for (const host of [laptop, camera]) ping(host, router.address4);
  await until(() => framesOf(run.file()).length >= 6, "the packets");
  run.signal();
  assert.is(await run.done, 0);
  const frames = framesOf(run.file());
  for (const { from, to } of frames) assert.ok(from === camera.mac || to === camera.mac);
  assert.ok(frames.some(({ from }) => from === camera.mac));
  assert.ok(frames.some(({ to }) => to === camera.mac));
  assert.is(run.stderr, `${frames.length} packets, ${run.file().length} bytes, 0 dropped: stopped\n`);
});

test("-b, -w and -s end it with status 0", async () => {
  const sized = start(["-b", "1000", "1", "-w80"]);
  await begun(sized);
  for (let round = 0; round < 5; round++) ping(camera, router.address4);
  assert.is(await sized.done, 0);
  assert.ok(sized.file().length <= 1_000);
  for (const { bytes } of framesOf(sized.file())) assert.ok(bytes.length <= 80);
  assert.match(sized.stderr, /: the size is reached\n$/);
  const timed = start(["1", "-s", "1"]);
  assert.is(await timed.done, 0);
  assert.match(timed.stderr, /: the time is over\n$/);
});

test("a node whose MAC others share is captured by its addresses, and followed when they change", async () => {
  detail = { ...detailOf(camera), macs: [{ mac: camera.mac, shared: true }] };
  const run = start(["1"]);
  await begun(run);
  ping(camera, router.address6);
  await until(() => framesOf(run.file()).some(({ from }) => from === camera.mac), "the first packets");
  detail = { id: 1, macs: [], addresses: [{ address: laptop.address4 }] };
  await until(() => {
    ping(laptop, router.address4, { count: 1 });
    return framesOf(run.file()).some(({ from }) => from === laptop.mac);
  }, "packets from the new address");
  run.signal();
  assert.is(await run.done, 0);
});

test("-i names interfaces in the agent's place", async () => {
  status = {};
  const asked = start(["1"]);
  assert.is(await asked.done, 1);
  assert.match(asked.stderr, /the agent tells no interfaces; name one with -i\n$/);
  const run = start(["1", "-i", "br-lan"]);
  await begun(run);
  run.signal();
  assert.is(await run.done, 0);
  const absent = start(["1", "-i", "nowhere"]);
  assert.is(await absent.done, 1);
  assert.match(absent.stderr, /there is no interface nowhere\n$/);
});

test("a terminal, an unknown node, a node without address and a bus that is not there are refused", async () => {
  const tty = start(["1"], { tty: true });
  assert.is(await tty.done, 1);
  assert.match(tty.stderr, /standard output is a terminal/);
  const unknown = start(["2"]);
  assert.is(await unknown.done, 1);
  assert.match(unknown.stderr, /^gatehouse: Cannot /);
  detail = { id: 1, addresses: [] };
  const bare = start(["1"]);
  assert.is(await bare.done, 1);
  assert.match(bare.stderr, /it has no address\n$/);
  const busless = start(["1"], { socket: `${path}.none` });
  assert.is(await busless.done, 1);
  assert.match(busless.stderr, /^gatehouse: Cannot /);
  for (const run of [tty, unknown, bare, busless]) assert.is(run.file().length, 0);
});

test("a reader that has left ends it without fault", async () => {
  const left = start(["1"], { output: async () => false });
  assert.is(await left.done, 0);
  assert.match(left.stderr, /: stopped\n$/);
});

test("wrong words are refused with the usage", async () => {
  for (const [argv, message] of [
    [[], "capture wants one node"],
    [["1", "2"], "capture wants one node"],
    [["camera"], 'NODE wants a positive number, not "camera"'],
    [["0"], 'NODE wants a positive number, not "0"'],
    [["1", "-s", "soon"], '-s wants a positive number, not "soon"'],
    [["1", "-b", "99"], "-b wants at least 100"],
    [["1", "-x", "1"], "there is no flag -x"],
    [["1", "-w"], "-w needs a value"],
  ] as const) {
    const run = start(argv);
    assert.is(await run.done, 1);
    assert.ok(run.stderr.startsWith(`gatehouse: ${message}\nUsage: `), run.stderr);
  }
});

test.run();
