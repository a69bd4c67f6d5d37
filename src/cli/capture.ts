/**
 * `gatehouse capture`: the packets of one node as a capture file on standard output.
 *
 * The agent is asked who the node is, at first and then every other second, and which interfaces are ours; the
 * packets are taken by this process itself, so that neither the agent nor the bus carries them.
 */

import { Capture, type CaptureResult, findInterfaces, type Target } from "../capture/capture.ts";
import { type Address, type Mac, parseAddress, parseMac } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { isObject, type JsonObject } from "../lib/json.ts";
import type { System } from "../system/system.ts";
import { connectUbus, type Ubus } from "../ubus/ubus.ts";
import type { Context, Verb } from "./verb.ts";

/** Takes bytes for standard output. @returns false if its reader has left. */
export type ByteOutput = (bytes: Uint8Array) => Promise<boolean>;

interface Wish {
  readonly node: number;
  readonly seconds: number;
  readonly bytes: number;
  readonly snapBytes: number;
  /** Names of interfaces; none asks the agent. */
  readonly interfaces: readonly string[];
}

const synopsis = "capture NODE [-s SECONDS] [-b BYTES] [-w SNAPLEN] [-i DEVICE]…";
const askMs = 2_000;
const timeoutMs = 5_000;
/** The header of the file, and of one packet with a little of it. */
const leastBytes = 100;
const endings: Readonly<Record<CaptureResult["end"], string>> = {
  time: "the time is over",
  bytes: "the size is reached",
  packets: "the number of packets is reached",
  told: "stopped",
  interfaces: "the interfaces are gone",
  failed: "failed",
};

/** The verb, with where its bytes go. */
export function captureVerb(output: ByteOutput): Verb {
  return {
    synopsis,
    summary: "the packets of a node as a capture file on standard output",
    async run(args, context) {
      const wish = parseWish(args);
      if (context.io.stdoutIsTty) {
        context.io.stderr("gatehouse: standard output is a terminal: send it to a file or a program\n");
        return 1;
      }
      const { system, flags } = context;
      const ubus = connectUbus(system, { path: flags.socket, retry: false, timeoutMs });
      try {
        return await capture(wish, { context, ubus, output });
      } finally {
        ubus.close();
      }
    },
  };
}

async function capture(
  wish: Wish,
  { context, ubus, output }: { context: Context; ubus: Ubus; output: ByteOutput },
): Promise<number> {
  const { system, io } = context;
  let target = await targetOf(ubus, wish.node);
  if (target.macs.length + target.addresses.length === 0) {
    throw new Fault("invalid", `Cannot capture node ${wish.node}: it has no address`);
  }
  const names = wish.interfaces.length > 0 ? wish.interfaces : await lanDevices(ubus);
  const interfaces = await findInterfaces(system, names);
  const { seconds, bytes, snapBytes } = wish;
  const running = new Capture(system, {
    interfaces,
    limits: { seconds, bytes, snapBytes },
    target: () => target,
    async write(piece) {
      if (!(await output(piece))) throw new Fault("closed", "Cannot write: nobody reads");
    },
  });
  const cancelAsking = follow(system, async () => {
    // A bus that is gone, or a node: what was known of it still counts.
    target = await targetOf(ubus, wish.node).catch(() => target);
  });
  const cancelSignal = io.onSignal(() => running.stop());
  const result = await running.done;
  cancelAsking();
  cancelSignal();
  const left = result.fault?.code === "closed" && result.end === "failed";
  const why = result.fault && !left ? result.fault.message : endings[left ? "told" : result.end];
  const { packets, dropped } = result;
  io.stderr(`${packets} packets, ${result.bytes} bytes, ${dropped} dropped: ${why}\n`);
  return result.fault && !left ? 1 : 0;
}

/** Asks again and again, each time after the answer. */
function follow(system: System, ask: () => Promise<void>): () => void {
  let cancel = () => {};
  let isOver = false;
  const later = () => {
    if (isOver) return;
    cancel = system.after(askMs, () => void ask().then(later));
  };
  later();
  return () => {
    isOver = true;
    cancel();
  };
}

/** The node as the agent tells it. MACs that other devices have too would show their packets. */
async function targetOf(ubus: Ubus, node: number): Promise<Target> {
  const detail = await ubus.call("gatehouse.nodes", "get", { node });
  const macs: Mac[] = [];
  for (const { mac, shared } of objectsOf(detail.macs)) {
    const parsed = typeof mac === "string" && !shared ? parseMac(mac) : undefined;
    if (parsed !== undefined) macs.push(parsed);
  }
  const addresses: Address[] = [];
  for (const { address } of objectsOf(detail.addresses)) {
    const parsed = typeof address === "string" ? parseAddress(address) : undefined;
    if (parsed !== undefined) addresses.push(parsed);
  }
  return { macs, addresses };
}

async function lanDevices(ubus: Ubus): Promise<string[]> {
  const { lan_devices: names } = await ubus.call("gatehouse", "status");
  const texts = Array.isArray(names) ? names.filter((name) => typeof name === "string") : [];
  if (texts.length > 0) return texts;
  throw new Fault("unsupported", "Cannot capture: the agent tells no interfaces; name one with -i");
}

function objectsOf(value: JsonObject[string] | undefined): { readonly [name: string]: unknown }[] {
  return Array.isArray(value) ? value.filter(isObject) : [];
}

/** @throws SyntaxError with one line for the user. */
function parseWish(args: readonly string[]): Wish {
  const numbers = { s: 300, b: 64 * 1024 * 1024, w: 262_144 };
  const interfaces: string[] = [];
  const operands: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const arg = args[at]!;
    if (!/^-[a-z]/.test(arg)) {
      operands.push(arg);
      continue;
    }
    const letter = arg[1]!;
    const value = arg.length > 2 ? arg.slice(2) : args[++at];
    if (value === undefined) throw new SyntaxError(`-${letter} needs a value`);
    if (letter === "i") interfaces.push(value);
    else if (letter === "s" || letter === "b" || letter === "w")
      numbers[letter] = number(value, `-${letter}`);
    else throw new SyntaxError(`there is no flag -${letter}`);
  }
  const [node] = operands;
  if (node === undefined || operands.length > 1) throw new SyntaxError("capture wants one node");
  if (numbers.b < leastBytes) throw new SyntaxError(`-b wants at least ${leastBytes}`);
  return {
    node: number(node, "NODE"),
    ...{ seconds: numbers.s, bytes: numbers.b, snapBytes: Math.min(numbers.w, 262_144) },
    interfaces,
  };
}

function number(text: string, what: string): number {
  if (/^[1-9]\d{0,11}$/.test(text)) return Number(text);
  throw new SyntaxError(`${what} wants a positive number, not "${text}"`);
}
