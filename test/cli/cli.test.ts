/** The command line itself: flags, verbs, usage. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { type CommandLine, type Context, runCli, type Verb } from "../../src/cli/cli.ts";
import { noFlags, parseFlags } from "../../src/cli/verb.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { StreamHandlers, System } from "../../src/system/system.ts";

/** A machine on which every connection is refused. */
const lonely = {
  after: () => () => {},
  connect: (_path: string, handlers: StreamHandlers) => {
    queueMicrotask(() => handlers.onClose(new Fault("not-found", "Cannot connect: no such file")));
    return { queuedBytes: 0, write: () => false, end: () => {}, close: () => {} };
  },
} as unknown as System;

async function run(argv: readonly string[], verbs?: ReadonlyMap<string, Verb>) {
  let stdout = "";
  let stderr = "";
  const io: CommandLine = {
    stdout: (text) => {
      stdout += text;
    },
    stderr: (text) => {
      stderr += text;
    },
    stdoutIsTty: false,
    stderrIsTty: false,
    onSignal: () => () => {},
    version: "1.2.3",
    ...(verbs && { verbs }),
  };
  const status = await runCli(argv, lonely, io);
  return { status, stdout, stderr };
}

test("parseFlags takes flags before and after operands, joined, and with their value attached", () => {
  const rows: [string[], Partial<typeof noFlags>, string[]][] = [
    [["a", "-s", "/x", "b"], { socket: "/x" }, ["a", "b"]],
    [["-vS", "-t1", "a"], { verbose: true, simple: true, timeoutSeconds: 1 }, ["a"]],
    [["-St", "5"], { simple: true, timeoutSeconds: 5 }, []],
    [["-m", "invoke", "-mdata", "-M", "t"], { types: ["invoke", "data"], direction: "t" }, []],
    [["a", "--", "-x", "-"], {}, ["a", "-x", "-"]],
    [["-"], {}, ["-"]],
  ];
  for (const [args, flags, operands] of rows) {
    assert.equal(parseFlags(args, noFlags), { flags: { ...noFlags, ...flags }, operands });
  }
});

test("parseFlags stops at the first operand when told to", () => {
  assert.equal(parseFlags(["-v", "lease", "-x", "-v"], noFlags, "operand"), {
    flags: { ...noFlags, verbose: true },
    operands: ["lease", "-x", "-v"],
  });
});

test("parseFlags refuses unknown flags and bad values", () => {
  for (const args of [["-x"], ["-t"], ["-t", "soon"], ["-t", "-1"], ["-M", "x"], ["-vz"], ["--verbose"]]) {
    assert.throws(
      () => parseFlags(args, noFlags),
      (thrown: unknown) => thrown instanceof SyntaxError,
      args.join(" "),
    );
  }
});

test("runCli prints usage on standard error and fails without a verb", async () => {
  const { status, stdout, stderr } = await run([]);
  assert.is(status, 1);
  assert.is(stdout, "");
  for (const verb of [
    "list",
    "call",
    "subscribe",
    "listen",
    "send",
    "wait_for",
    "monitor",
    "version",
    "help",
  ]) {
    assert.match(stderr, new RegExp(`^ ${verb}\\b`, "m"));
  }
});

test("runCli prints help and version on standard output", async () => {
  assert.equal(await run(["version"]), { status: 0, stdout: "1.2.3\n", stderr: "" });
  assert.equal(await run(["--version"]), { status: 0, stdout: "1.2.3\n", stderr: "" });
  const help = await run(["-h"]);
  assert.is(help.status, 0);
  assert.match(help.stdout, /^Usage: gatehouse /);
  assert.is(help.stderr, "");
});

test("runCli names what is wrong with the command line", async () => {
  assert.match((await run(["-x", "list"])).stderr, /^gatehouse: there is no flag -x\nUsage: /);
  assert.is((await run(["-x", "list"])).status, 1);
  assert.match((await run(["list", "-x"])).stderr, /^gatehouse: there is no flag -x\nUsage: /);
  assert.match((await run(["monitor", "-m", "nope"])).stderr, /-m wants a type of message/);
  const unknown = await run(["frobnicate"]);
  assert.is(unknown.status, 254);
  assert.match(unknown.stderr, /^gatehouse: there is no verb frobnicate\nUsage: /);
});

test("runCli says that there is no bus, unless silenced", async () => {
  assert.equal(await run(["list"]), { status: 255, stdout: "", stderr: "Failed to connect to ubus\n" });
  assert.equal(await run(["-S", "list"]), { status: 255, stdout: "", stderr: "" });
  assert.equal(await run(["list", "-S"]), { status: 255, stdout: "", stderr: "" });
});

test("runCli hands further verbs their arguments untouched, with the flags before them", async () => {
  let seen: { args: readonly string[]; context: Context } | undefined;
  const lease: Verb = {
    synopsis: "lease …",
    summary: "ask for a table",
    run: async (args, context) => {
      seen = { args, context };
      return 7;
    },
  };
  const { status } = await run(["-s", "/sock", "lease", "-x", "--", "-s"], new Map([["lease", lease]]));
  assert.is(status, 7);
  assert.equal(seen!.args, ["-x", "--", "-s"]);
  assert.is(seen!.context.flags.socket, "/sock");
  assert.match((await run([], new Map([["lease", lease]]))).stderr, /^ lease … {2,}ask for a table$/m);
});

test("runCli reports a fault of a verb in one line", async () => {
  const run1: Verb = {
    synopsis: "bad",
    summary: "",
    run: async () => {
      throw new Fault("denied", "Cannot do it: not allowed");
    },
  };
  const { status, stderr } = await run(["bad"], new Map([["bad", run1]]));
  assert.is(status, 1);
  assert.is(stderr, "gatehouse: Cannot do it: not allowed\n");
});

test.run();
