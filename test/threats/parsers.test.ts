/**
 * Text and bytes that were made to hurt: nesting without end, lengths that lie, members that come twice or are called
 * as parts of the language, numbers that no number holds, texts that make patterns slow. Every reader of foreign text
 * answers with a value or one kind of error.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createContext, runInContext } from "node:vm";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseFields } from "../../src/cli/json.ts";
import { parseUci } from "../../src/config/config.ts";
import { flowsFormat } from "../../src/flows/flows.ts";
import { parseTable } from "../../src/kernel/nfttext.ts";
import { decodeMessage as decodeDns } from "../../src/lib/dns.ts";
import { Fault } from "../../src/lib/fault.ts";
import { nodesFormat, parseHosts, parseLeases } from "../../src/nodes/nodes.ts";
import { Rpc, readSpin } from "../../src/spin/spin.ts";
import { openStore } from "../../src/system/store.ts";
import { parseAcl } from "../../src/ubus/acl.ts";
import { decodeFields, encodeFields, fieldsOf, jsonOf } from "../../src/ubus/blob.ts";
import { decodeMessage as decodeUbus, MessageReader } from "../../src/ubus/message.ts";
import { Machine } from "../fake/machine.ts";
import { Model } from "../spin/model.ts";

const encoder = new TextEncoder();
const bytesOf = (text: string) => encoder.encode(text);
const nobody = { uidOf: () => 1000, gidOf: () => 1000 };

function rpc(): Rpc {
  return new Rpc(new Model(), (line) => assert.unreachable(line));
}

/** Every reader of text that somebody else may have written. */
const readers: Readonly<Record<string, (text: string) => unknown>> = {
  "JSON-RPC": async (text) => {
    const answer = await rpc().read(bytesOf(text)).run();
    if (answer !== undefined) JSON.parse(answer);
  },
  "the command line's JSON": (text) => parseFields(text),
  "a file of nodes": (text) => nodesFormat.parse(JSON.parse(text)),
  "a file of decisions": (text) => flowsFormat.parse(JSON.parse(text)),
  "access rules": (text) => parseAcl(text, nobody),
  "what nft prints": (text) => parseTable(text),
  UCI: (text) => parseUci(text),
  leases: (text) => parseLeases(text),
  "config host": (text) => parseHosts(parseUci(text).sections),
  "a store": async (text) => {
    const machine = new Machine();
    machine.put("/x/nodes.json", text);
    const { state, damage } = await openStore(machine, "/x/nodes.json", nodesFormat);
    assert.ok(state !== undefined || damage instanceof Fault);
  },
  "SPIN's files": async (text) => {
    const machine = new Machine();
    for (const name of ["block.list", "nodepair.list", "names.conf", "nodestore/4"])
      machine.put(`/s/${name}`, text);
    await readSpin(machine, "/s");
  },
  "bus data": (text) => decodeFields(bytesOf(text)),
  "a bus message": (text) => decodeUbus(bytesOf(text)),
  DNS: (text) => decodeDns(bytesOf(text)),
};

const deep = 100_000;
const texts: Readonly<Record<string, string>> = {
  "arrays without end": "[".repeat(deep),
  "arrays in arrays": "[".repeat(deep) + "]".repeat(deep),
  "objects without end": '{"a":'.repeat(deep),
  "objects in objects": `${'{"a":'.repeat(deep)}1${"}".repeat(deep)}`,
  "a state that is deep": `{"version":1,"state":${"[".repeat(5_000)}${"]".repeat(5_000)}}`,
  "a string without end": `{"a":"${"x".repeat(deep)}`,
  "escapes without end": `{"a":"${"\\u0000".repeat(deep)}"}`,
  backslashes: "\\".repeat(deep),
  quotes: "'".repeat(deep),
  blanks: " ".repeat(deep),
  tabs: "\t".repeat(deep),
  "line ends": "\n".repeat(deep),
  "members without end": `{${'"a":1,'.repeat(deep)}"a":2}`,
  "digits without end": "9".repeat(deep),
  "a number past every number": `{"a":1${"0".repeat(deep)}}`,
  "dots without end": ".".repeat(deep),
  "colons without end": ":".repeat(deep),
  "zero bytes": "\0".repeat(deep),
  "bytes of ones": "\xff".repeat(deep),
  "names of the language":
    '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"toString":1}',
  "no text": "",
};

for (const [reader, read] of Object.entries(readers)) {
  test(`${reader}: whatever the text, a value or a SyntaxError`, async () => {
    for (const [title, text] of Object.entries(texts)) {
      try {
        await read(text);
      } catch (thrown) {
        assert.instance(thrown, SyntaxError, `${title}: ${thrown}`);
      }
    }
    assert.is(({} as Record<string, unknown>).polluted, undefined);
  });
}

test("a length that lies: 0, 2^24 - 1 and 2^31 in every place of a message's first bytes end in an error or a wait", () => {
  const whole = encodeFields(fieldsOf({ a: { b: [1, "x"] }, c: "d" }));
  for (let at = 0; at + 4 <= whole.length; at++) {
    for (const lie of [0, 0x00ff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
      const bytes = whole.slice();
      new DataView(bytes.buffer).setUint32(at, lie);
      try {
        jsonOf(decodeFields(bytes));
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
      try {
        const reader = new MessageReader(1 << 20);
        reader.push(bytes);
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }
  }
});

test("members that come twice: one request is one decision, the one that is answered for", async () => {
  const door = new Model();
  for (const id of [4, 5, 6]) door.add({ id, mac: `02:77:00:00:00:0${id}`, ips: [`10.77.0.${id}`] });
  const twice = new Rpc(door, (line) => assert.unreachable(line));
  const text =
    '{"jsonrpc":"1.0","jsonrpc":"2.0","id":1,"id":2,"method":"get_flow_block","method":"set_flow_block",' +
    '"params":{"node1":4,"node2":5,"block":0,"block":1,"node2":6}}';
  assert.is(await twice.open(text).run(), '{"jsonrpc":"2.0","id":2}');
  assert.equal(door.pairs(), [[4, 6]]);
  // On the bus the last counts, too.
  const one = encodeFields(fieldsOf({ block: 0 }));
  const other = encodeFields(fieldsOf({ block: 1 }));
  const both = new Uint8Array([...one, ...other]);
  assert.equal({ ...(jsonOf(decodeFields(both)) as object) }, { block: 1 });
});

test("numbers past 2^53 come from the bus exactly, and go to JSON-RPC as what it can hold", async () => {
  for (const value of [2n ** 53n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)]) {
    assert.equal({ ...(jsonOf(decodeFields(encodeFields(fieldsOf({ value })))) as object) }, { value });
  }
  for (const digits of ["9007199254740993", "1e400", "-1e400", "18446744073709551616"]) {
    const request = `{"jsonrpc":"2.0","id":1,"method":"get_device_data","params":{"node":${digits}}}`;
    assert.match((await rpc().open(request).run())!, '"error":{"code":-1,"message":"Unknown node id"}');
  }
});

// Patterns.

interface Pattern {
  readonly path: string;
  readonly source: string;
  readonly flags: string;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesBelow(path);
    return path.endsWith(".ts") && !path.endsWith(".d.ts") ? [path] : [];
  });
}

/** The regular expressions of a file, found where an expression can begin. */
function patternsOf(path: string): Pattern[] {
  const code = readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
  const literal =
    /(?:[=(,:!&|?;{}[]|=>|return)\s*\/((?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+)\/([dgimsuy]*)(?=[\s.,;)\]}:?])/g;
  return [...code.matchAll(literal)].map(([, source, flags]) => ({ path, source: source!, flags: flags! }));
}

test("no pattern needs more than a straight look at 100 KB, whatever they are", () => {
  const patterns = filesBelow("src").flatMap(patternsOf);
  assert.ok(patterns.length > 60, `${patterns.length} patterns found`);
  const length = 100_000;
  const pieces = [
    "a",
    "0",
    "f",
    ".",
    ":",
    "-",
    "_",
    "/",
    " ",
    "\t",
    "\n",
    "\\",
    '"',
    "'",
    "{",
    ",",
    "=",
    "x=",
    "0:",
    "a.",
    "00:",
    "\\0",
    '"id":',
    "| ",
    "a-",
    "é",
  ];
  const subjects = pieces.flatMap((piece) => {
    const text = piece.repeat(Math.ceil(length / piece.length));
    return [text, `${text}\u0001`, `"id"${text}!`];
  });
  const context = createContext({});
  /** Whether a pattern was done with these texts within a time. */
  const isDone = ({ source, flags }: Pattern, texts: readonly string[], timeoutMs: number) => {
    Object.assign(context, { source, flags: flags.replace(/[gy]/g, ""), texts });
    try {
      const script = "for (const text of texts) new RegExp(source, flags).test(text)";
      runInContext(script, context, { timeout: timeoutMs });
      return true;
    } catch (thrown) {
      if ((thrown as { code?: string }).code !== "ERR_SCRIPT_EXECUTION_TIMEOUT") throw thrown;
      return false;
    }
  };
  const slow: string[] = [];
  for (const pattern of patterns) {
    // Straight work on all of them takes some milliseconds.
    if (isDone(pattern, subjects, 2_000)) continue;
    // The machine may have been busy otherwise: what counts is the processor's time. Quadratic work on one takes ten
    // seconds of it or more.
    for (const subject of subjects) {
      const before = process.cpuUsage();
      const done = isDone(pattern, [subject], 60_000);
      const { user } = process.cpuUsage(before);
      if (done && user < 2_000_000) continue;
      slow.push(
        `${pattern.path}: /${pattern.source}/${pattern.flags} on ${JSON.stringify(subject.slice(0, 8))}`,
      );
      break;
    }
  }
  assert.equal(slow, []);
});

test.run();
