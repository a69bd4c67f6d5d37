/** `gatehouse lease` and `gatehouse tables import`, over our bus to leases on a kernel in memory. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { runCli } from "../../src/cli/cli.ts";
import { leaseVerb } from "../../src/cli/lease.ts";
import { tablesVerb } from "../../src/cli/tables.ts";
import { openLinux } from "../../src/system/linux.ts";
import { tableMethods } from "../../src/tables/tables.ts";
import { connectUbus, openBus } from "../../src/ubus/ubus.ts";
import { nativePath } from "../system/until.ts";
import { type Stage, stage } from "../tables/stage.ts";

const system = openLinux({ nativePath, log: () => {} });
const scratch = process.env.TMPDIR!;
let serial = 0;

async function run(argv: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const output = { stdout: "", stderr: "" };
  const status = await runCli(argv, system, {
    stdout: (text) => {
      output.stdout += text;
    },
    stderr: (text) => {
      output.stderr += text;
    },
    ...{ stdoutIsTty: false, stderrIsTty: false, version: "test", onSignal: () => () => {} },
    verbs: new Map([
      ["lease", leaseVerb],
      ["tables", tablesVerb],
    ]),
  });
  return { status, ...output };
}

async function withAgent(
  work: (
    about: Stage & { lease(...args: string[]): ReturnType<typeof run>; socket: string },
  ) => Promise<void>,
): Promise<void> {
  const socket = `${scratch}/lease-${process.pid}-${serial++}.sock`;
  const bus = await openBus(system, { path: socket });
  const s = stage();
  const ubus = connectUbus(system, { path: socket });
  try {
    await ubus.publish("gatehouse.tables", tableMethods(s.tables, s.clock)).done;
    await work({ ...s, socket, lease: (...args) => run(["-s", socket, "lease", ...args]) });
  } finally {
    ubus.close();
    await bus.close();
  }
}

const asked = ["-4", "-a", "192.0.2.5", "-n", "255.255.255.0", "-i", "lo", "-d", "tas_socket"];
const ok = (stdout: string) => ({ status: 0, stdout, stderr: "" });

test("lease prints the table, the same when it is run twice, and makes rules", () =>
  withAgent(async ({ lease, tables, kernel }) => {
    assert.equal(await lease(...asked), ok("10000\n"));
    assert.equal(await lease(...asked, "-s"), ok("10000\n"));
    assert.equal(await lease("--address=192.0.2.6", "--ifname", "lo", "--foreground"), ok("10001\n"));
    assert.is(kernel.lines.length, 5);
    assert.ok([...tables.all()].every(({ note }) => note.follow));
  }));

test("the address says the family if no flag does", () =>
  withAgent(async ({ lease, tables }) => {
    assert.equal(await lease("-a", "2001:DB8::5", "-n", "64", "-ilo"), ok("10000\n"));
    assert.is(tables.holder("inet6", 10_000)!.note.key.address, "2001:db8::5");
    assert.equal(await lease("-6", "-a", "2001:db8::5", "-i", "lo", "-t", "vpn", "-n", "128"), {
      ...{
        status: 0,
        stdout: "0\n",
        stderr: "gatehouse: Cannot call gatehouse.tables request: Invalid argument\n",
      },
    });
  }));

test("-r ends the lease and prints 0, and takes no value", () =>
  withAgent(async ({ lease, tables }) => {
    await lease(...asked);
    assert.equal(await lease("-r", ...asked), ok("0\n"));
    assert.is(tables.counters.leases, 0);
    const again = await lease("--release", ...asked);
    assert.is(again.stdout, "0\n");
    assert.is(again.status, 0);
  }));

test("without a table 0 is printed and the status is 0; why is said where it was asked for", async () => {
  const nowhere = ["-s", `${scratch}/no.sock`, "lease", ...asked];
  const { status, stdout, stderr } = await run(nowhere);
  assert.equal([status, stdout], [0, "0\n"]);
  assert.match(stderr, /^gatehouse: Cannot /);
  const path = `${scratch}/lease.log`;
  assert.equal(await run([...nowhere, "-l", path]), ok("0\n"));
  assert.match(readFileSync(path, "utf8"), /^Cannot /);
  await withAgent(async ({ lease, kernel, tables }) => {
    for (const table of [10_000, 10_001, 10_002, 10_003, 10_004, 10_005, 10_006, 10_007]) {
      kernel.foreign[4].add(table);
    }
    const full = await lease(...asked);
    assert.equal([full.status, full.stdout], [0, "0\n"]);
    assert.is(tables.counters.leases, 0);
  });
});

test("a wrong command line prints nothing on standard output, and the status is 1", async () => {
  for (const args of [
    ...[[], ["-a", "192.0.2.5"], ["-i", "lo"], ["-a"], ["-a", "x", "-i", "lo"], [...asked, "-x"]],
    ...[
      [...asked, "--nosuch"],
      [...asked, "--release=1"],
      [...asked, "rest"],
      ["-6", ...asked],
    ],
    ...[
      ["-a", "192.0.2.5", "-i", "nosuch0"],
      ["-a", "192.0.2.5", "-i", "x".repeat(16)],
    ],
    ...[
      ["-a", "192.0.2.5", "-i", "lo", "-n", "mask"],
      [...asked, "-t", "t".repeat(128)],
    ],
  ]) {
    const { status, stdout, stderr } = await run(["lease", ...args]);
    assert.equal([status, stdout], [1, ""], args.join(" "));
    assert.match(stderr, /^gatehouse: /);
    assert.match(stderr, /Usage: gatehouse/);
  }
  const help = await run(["lease", "-h"]);
  assert.is(help.status, 0);
  assert.match(help.stdout, /--netmask VALUE/);
});

test("tables import hands over a database, and says what it could not", () =>
  withAgent(async ({ socket, tables }) => {
    const path = `${scratch}/import.db`;
    const rows = [...["(10000,2,'eth1','10.0.0.1',5,'x')", "(10001,10,'eth1','2001:db8::1',5,NULL)"]];
    const columns =
      "RtTable INTEGER NOT NULL, AddrFamily INTEGER NOT NULL, Ifname TEXT NOT NULL, Addr TEXT NOT NULL, " +
      "LeaseExpires INTEGER NOT NULL, Tag TEXT, PRIMARY KEY(RtTable,AddrFamily) ON CONFLICT REPLACE";
    const values = [...rows, "(9000,2,'eth1','10.0.0.2',5,NULL)", "(10002,9,'eth1','x',5,NULL)"];
    execFileSync("python3", [
      "-c",
      "import sqlite3,sys\nd=sqlite3.connect(sys.argv[1])\nd.executescript(sys.argv[2])\nd.commit()",
      path,
      `CREATE TABLE RtTables(${columns}); INSERT INTO RtTables VALUES${values.join(",")};`,
    ]);
    for (let round = 0; round < 2; round++) {
      assert.equal(await run(["-s", socket, "tables", "import", path]), {
        ...{ status: 0, stdout: "2 of 4 leases taken over\n" },
        stderr:
          "not taken over, their numbers or keys are not to be had: 9000\nnot taken over, they make no sense: 1\n",
      });
    }
    assert.is(tables.holder("inet", 10_000)!.note.label, "x");
    assert.is(tables.holder("inet6", 10_001)!.note.key.interface, "eth1");
    assert.match((await run(["tables", "import", `${scratch}/nosuch.db`])).stderr, /it is not there/);
    assert.match(
      (await run(["tables", "import", "/proc/self/environ"])).stderr,
      /Cannot read SQLite database/,
    );
    assert.is((await run(["tables", "export"])).status, 1);
  }));

test.run();
