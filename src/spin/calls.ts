/**
 * SPIN's sixteen methods: their arguments as SPIN names them, and what each does with a door.
 *
 * Keeps nothing but the table, by method name in the order of `list_rpc_methods`. SPIN's lists hold addresses;
 * ours hold nodes too, which stay listed with whatever address they take: the door makes both views agree.
 *
 * Source: SIDN SPIN at a5185b7, observed on its socket.
 */

import { type Prefix, parseMac, parsePrefix } from "../lib/address.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import { soleAddress } from "../lib/nets.ts";
import { type ListName, listNames, type NodeInfo } from "../lib/spin.ts";
import type { Decision, DeviceFlow, SpinDoor } from "./door.ts";

export interface RpcError {
  readonly code: number;
  readonly message: string;
}

/** What a method answers: a result, nothing (done), or an error. */
export type Answer = { readonly result?: Json } | { readonly error: RpcError };

type ArgumentKind = "string" | "integer" | "complex";

/** Arguments by name, each of the kind that the table says; an integer is a number without fraction. */
export type Arguments = ReadonlyMap<string, Json>;

/** How a call goes with those that the same client asked for before and after it. */
export type Turn =
  /** It looks at what is there: after every decision before it. */
  | "look"
  /** It makes one decision: beside others, which the door keeps in order. */
  | "decide";

export interface Call {
  readonly args: readonly (readonly [name: string, kind: ArgumentKind])[];
  readonly turn: Turn;
  /** @throws Fault as the door throws it. */
  run(door: SpinDoor, args: Arguments): Answer | Promise<Answer>;
}

/** An error of a method. SPIN's codes are -1 for nearly all. */
export function refusal(message: string, code = -1): { readonly error: RpcError } {
  return { error: { code, message } };
}

const done: Answer = {};
const unknownNode = refusal("Unknown node id");
const unknownList = refusal("Unknown ip list name, should be 'ignore', 'block', or 'allow'");
const unknownDevice = refusal("Device not found");
const listArgument = ["list", "string"] as const;
const nodeArgument = ["node", "integer"] as const;
const blockArgument = ["block", "integer"] as const;
const deviceArgument = ["device", "string"] as const;

const table: readonly (readonly [name: string, call: Call])[] = [
  [
    "add_iplist_ip",
    {
      args: [listArgument, ["ip", "string"]],
      turn: "decide",
      run: (door, args) => changeNet(door, args, true),
    },
  ],
  [
    "add_iplist_node",
    { args: [listArgument, nodeArgument], turn: "decide", run: (door, args) => changeNode(door, args, true) },
  ],
  [
    "dots_signal",
    {
      args: [["dots_signal", "complex"]],
      turn: "look",
      run: () => refusal("DOTS support is not enabled in spind.conf", 1),
    },
  ],
  [
    "get_device_data",
    {
      args: [nodeArgument],
      turn: "look",
      run(door, args) {
        const node = door.node(integerOf(args, "node"));
        return node ? { result: nodeOf(node) } : unknownNode;
      },
    },
  ],
  ["get_flow_block", { args: [], turn: "look", run: (door) => ({ result: pairsOf(door) }) }],
  [
    "list_device_flows",
    {
      args: [deviceArgument],
      turn: "look",
      run(door, args) {
        const id = deviceOf(door, args);
        return id === undefined ? unknownDevice : { result: flowsOf(door, id) };
      },
    },
  ],
  ["list_devices", { args: [], turn: "look", run: (door) => ({ result: devicesOf(door) }) }],
  [
    "list_iplist",
    {
      args: [listArgument],
      turn: "look",
      run(door, args) {
        const list = listOf(args);
        return list === undefined ? unknownList : { result: door.listEntries(list) };
      },
    },
  ],
  ["list_rpc_methods", { args: [], turn: "look", run: () => ({ result: describeCalls() }) }],
  ["node_add_ip", { args: [nodeArgument, ["ipaddr", "string"]], turn: "decide", run: addAddress }],
  [
    "remove_iplist_ip",
    {
      args: [listArgument, ["ip", "string"]],
      turn: "decide",
      run: (door, args) => changeNet(door, args, false),
    },
  ],
  [
    "remove_iplist_node",
    {
      args: [listArgument, nodeArgument],
      turn: "decide",
      run: (door, args) => changeNode(door, args, false),
    },
  ],
  [
    "reset_iplist_ignore",
    { args: [], turn: "decide", run: async (door) => answerOf(await door.resetIgnore()) },
  ],
  [
    "set_device_flow_block",
    {
      args: [deviceArgument, nodeArgument, blockArgument],
      turn: "decide",
      async run(door, args) {
        const id = deviceOf(door, args);
        if (id === undefined) return unknownDevice;
        return answerOf(await door.setBlock(id, integerOf(args, "node"), isBlock(args)));
      },
    },
  ],
  [
    "set_device_name",
    {
      args: [nodeArgument, ["name", "string"]],
      turn: "decide",
      run: async (door, args) => answerOf(await door.rename(integerOf(args, "node"), stringOf(args, "name"))),
    },
  ],
  [
    "set_flow_block",
    {
      args: [["node1", "integer"], ["node2", "integer"], blockArgument],
      turn: "decide",
      async run(door, args) {
        const [one, other] = [integerOf(args, "node1"), integerOf(args, "node2")];
        return answerOf(await door.setBlock(one, other, isBlock(args)));
      },
    },
  ],
];

/** The methods by name. A Map: a name from outside is never looked up in an object. */
export const calls: ReadonlyMap<string, Call> = new Map(table);

/**
 * The arguments of a call as its table wants them. SPIN counts before it reads names, and reads names before it
 * looks at types; a number loses its fraction.
 */
export function takeArguments(call: Call, params: JsonObject): Arguments | { readonly error: RpcError } {
  const names = Object.keys(params);
  if (names.length !== call.args.length) return refusal("Wrong number of arguments");
  const kinds = new Map(call.args);
  if (names.some((name) => !kinds.has(name))) return refusal("No such argument registered");
  const args = new Map<string, Json>();
  for (const name of names) {
    const value = params[name]!;
    if (kindOf(value) !== kinds.get(name)) return refusal("Wrong type of argument");
    // Adding 0 makes 0 of -0.
    args.set(name, kindOf(value) === "integer" ? Math.trunc(Number(value)) + 0 : value);
  }
  return args;
}

function kindOf(value: Json): ArgumentKind {
  if (typeof value === "number" || typeof value === "bigint") return "integer";
  return typeof value === "string" ? "string" : "complex";
}

function describeCalls(): Json {
  return table.map(([name, { args }]) => ({
    "rpc-name": name,
    "rpc-args": args.map(([arg, kind]) => ({ "rpc-arg-name": arg, "rpc-arg-type": kind })),
    // Also where there is none: so says SPIN.
    "rpc-result-type": "complex",
  }));
}

function stringOf(args: Arguments, name: string): string {
  return args.get(name) as string;
}

function integerOf(args: Arguments, name: string): number {
  return args.get(name) as number;
}

function isBlock(args: Arguments): boolean {
  return integerOf(args, "block") !== 0;
}

function listOf(args: Arguments): ListName | undefined {
  return listNames.find((each) => each === stringOf(args, "list"));
}

function deviceOf(door: SpinDoor, args: Arguments): number | undefined {
  const mac = parseMac(stringOf(args, "device"));
  return mac && door.deviceByMac(mac);
}

/** An address or prefix. To SPIN a length of 0 meant one address, to us it would mean all: it is refused. */
function parseNet(text: string): Prefix | undefined {
  const net = parsePrefix(text);
  return net?.endsWith("/0") ? undefined : net;
}

async function changeNet(door: SpinDoor, args: Arguments, listed: boolean): Promise<Answer> {
  const list = listOf(args);
  if (list === undefined) return unknownList;
  const net = parseNet(stringOf(args, "ip"));
  if (net === undefined) return refusal("Invalid IP address");
  return answerOf(await door.setListNet(list, net, listed));
}

async function changeNode(door: SpinDoor, args: Arguments, listed: boolean): Promise<Answer> {
  const list = listOf(args);
  if (list === undefined) return unknownList;
  const node = door.node(integerOf(args, "node"));
  // SPIN's only code of its own.
  if (!node) return refusal("Unknown node id", -2);
  return answerOf(await door.setListNode(list, node.id, listed));
}

async function addAddress(door: SpinDoor, args: Arguments): Promise<Answer> {
  const net = parsePrefix(stringOf(args, "ipaddr"));
  const address = net && soleAddress(net);
  if (address === undefined) return refusal("Not a valid IP address");
  const id = integerOf(args, "node");
  if (id !== 0) return answerOf(await door.addAddress(id, address));
  const made = await door.addNode(address);
  return made.kind === "made" ? { result: { id: made.id } } : answerOf(made);
}

function answerOf(decision: Decision): Answer {
  switch (decision.kind) {
    case "done":
      return done;
    case "unknown":
      return unknownNode;
    case "same":
      return refusal("Both are the same node");
    case "taken":
      return refusal("IP address already assigned to a node");
    case "full":
      return refusal(`No more than ${decision.limit} are possible`);
  }
}

/** SPIN's node object: no field more, in its order. */
function nodeOf(node: NodeInfo): Json {
  const { id, name, mac, is_blocked, is_excepted, lastseen, ips, domains } = node;
  return {
    id,
    ...(name !== undefined && { name }),
    ...(mac !== undefined && { mac }),
    ...(is_blocked && { is_blocked }),
    ...(is_excepted && { is_excepted }),
    lastseen,
    ips,
    domains,
  };
}

function devicesOf(door: SpinDoor): Json {
  const order = (node: NodeInfo) => node.mac ?? "";
  const devices = [...door.devices()];
  return devices.sort((left, right) => (order(left) < order(right) ? -1 : 1)).map(nodeOf);
}

function pairsOf(door: SpinDoor): Json {
  const pairs = [...door.pairs()].sort((left, right) => left[0] - right[0] || left[1] - right[1]);
  return pairs.map(([node1, node2]) => ({ node1, node2 }));
}

/** One record per node, port and ICMP type, and one per blocked node, in this order. */
function flowsOf(door: SpinDoor, id: number): Json {
  const sums = new Map<string, DeviceFlow>();
  for (const flow of door.deviceFlows(id)) {
    const key = `${flow.to} ${flow.dstPort} ${flow.icmpType}`;
    const sum = sums.get(key);
    sums.set(key, sum ? added(sum, flow) : flow);
  }
  const records = [...sums.values()].map(({ to, dstPort, icmpType, ...flow }) => ({
    to,
    dst_port: dstPort,
    icmp_type: icmpType,
    packets: saturated(flow.packets),
    bytes: saturated(flow.bytes),
    lastseen: flow.lastSeen,
  }));
  const blocks = door.pairs().flatMap((pair) => {
    if (!pair.includes(id)) return [];
    return { to: pair[0] === id ? pair[1] : pair[0], dst_port: 0, icmp_type: 0, blocked: 1 };
  });
  return [...blocks, ...records].sort(
    (left, right) => left.to - right.to || left.dst_port - right.dst_port || left.icmp_type - right.icmp_type,
  );
}

function added(one: DeviceFlow, other: DeviceFlow): DeviceFlow {
  return {
    ...one,
    packets: BigInt(one.packets) + BigInt(other.packets),
    bytes: BigInt(one.bytes) + BigInt(other.bytes),
    lastSeen: Math.max(one.lastSeen, other.lastSeen),
  };
}

/** A counter as a JSON number that every reader reads exactly. */
function saturated(count: number | bigint): number {
  return count > Number.MAX_SAFE_INTEGER ? Number.MAX_SAFE_INTEGER : Number(count);
}
