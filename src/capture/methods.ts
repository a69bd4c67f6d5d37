/**
 * The object `gatehouse.capture`: captures of devices, started, stopped and shown.
 *
 * Keeps nothing.
 */

import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { Methods } from "../ubus/methods.ts";
import type { CaptureInfo, Captures } from "./capture.ts";

type Arguments = Readonly<Record<string, Json>>;

export function captureMethods(captures: Captures): Methods {
  return {
    start: {
      args: { node: "Integer", seconds: "Integer", bytes: "Integer", snaplen: "Integer" },
      access: "write",
      doc: "Captures the packets of a node into a file, for so many seconds and bytes at most.",
      async call(args) {
        const wish = {
          ...optional(args, "seconds", "seconds"),
          ...optional(args, "bytes", "bytes"),
          ...optional(args, "snaplen", "snapBytes"),
        };
        const { id, file } = await captures.start(nodeOf(args, "start"), wish);
        return { id, file };
      },
    },
    stop: {
      args: { node: "Integer" },
      access: "write",
      doc: "Ends the capture of a node; answers when its file is complete.",
      call: async (args) => shown(await captures.stop(nodeOf(args, "stop"))),
    },
    status: {
      args: {},
      access: "read",
      doc: "The captures under way, and the last ones, whose files are still there.",
      call: () => ({ captures: captures.list().map(shown) }),
    },
  };
}

function shown(info: CaptureInfo): JsonObject {
  return {
    id: info.id,
    node: info.node,
    file: info.file,
    started: Math.floor(info.startedDate / 1_000),
    running: info.end === undefined,
    ...(info.end !== undefined && { end: info.end }),
    ...(info.fault && { fault: info.fault.message }),
    packets: info.packets,
    bytes: info.bytes,
    dropped: info.dropped,
  };
}

function nodeOf(args: Arguments, verb: string): number {
  const { node } = args;
  if (typeof node !== "number" || !Number.isSafeInteger(node)) {
    throw new Fault("invalid", `Cannot ${verb} capture: node must be an integer`);
  }
  return node;
}

function optional<Name extends string>(
  args: Arguments,
  from: string,
  name: Name,
): Partial<Record<Name, number>> {
  const value = args[from];
  return typeof value === "number" ? ({ [name]: value } as Record<Name, number>) : {};
}
