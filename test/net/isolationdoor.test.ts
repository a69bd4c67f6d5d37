/**
 * Isolation's HTTP door with the agent in a router: over TLS or not at all, and open to whoever brings a segment up
 * until the manager has said who it is.
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { boss, door, renderIsolation, Town } from "../lab/services.ts";
import { paths } from "../lab/topology.ts";

const folder = mkdtempSync(join(tmpdir(), "door-"));
const certificate = join(folder, "certificate.pem");
const authority = join(folder, "authority.pem");
const key = Buffer.from(door.key.trim()).toString("base64");

/** How long everybody on the segment of the manager is privileged. */
const settings = (seconds: number) => [
  "option bootstrap_segment 'ops'",
  `option bootstrap_time '${seconds}'`,
  `option http_cert '${certificate}'`,
];

let town: Town;

test.before(async () => {
  execFileSync(
    "openssl",
    [
      ...[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
      ],
      ...["-subj", "/CN=databox-network", "-addext", `subjectAltName=IP:${door.address}`],
      ...["-keyout", join(folder, "key.pem"), "-out", authority],
    ],
    { stdio: "pipe" },
  );
  writeFileSync(certificate, "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n");
  town = await Town.up({ isolation: settings(86_400) });
});

test.after(async () => {
  await town?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** "BODY STATUS", or how curl failed. @param seconds what is answered may take long; what is dropped is not waited for. */
async function ask(host: string, what: string, { scheme = "https", body, seconds = 20 }: Asked = {}) {
  const [method, path] = what.split(" ") as [string, string];
  const { status, stdout } = await town.lab.exec(host, [
    ...["curl", "--silent", "--max-time", String(seconds), "--cacert", authority, "-X", method],
    ...["-H", `X-API-KEY: ${key}`, ...(body ? ["--data", JSON.stringify(body)] : [])],
    ...["-w", " %{http_code}", `${scheme}://${door.address}:${door.port}${path}`],
  ]);
  return status === 0 ? stdout : `curl ${status}`;
}

interface Asked {
  readonly scheme?: "http" | "https";
  readonly body?: object;
  readonly seconds?: number;
}

const isShut = async (host: string) => /^curl (7|28)$/.test(await ask(host, "GET /status", { seconds: 3 }));
const bootstrap = async () => (await town.call("status")).bootstrap as { ends_in: number } | undefined;

test("with a certificate that cannot be used the door stays shut, and opens over TLS alone once it can", async () => {
  for (const scheme of ["http", "https"] as const)
    assert.is(await ask("router", "GET /status", { scheme }), "curl 7", "nobody listens");
  assert.match(town.lab.agent.log, /certificate or key are of no use/);
  const both = ["key.pem", "authority.pem"].map((name) => join(folder, name));
  writeFileSync(certificate, execFileSync("cat", both));
  await eventually("the door", async () => (await ask("router", "GET /status")) === "active 200");
  assert.match(
    await ask("router", "GET /status", { scheme: "http" }),
    /^curl (1|52|56)$/,
    "not in the plain",
  );
});

test("whoever is on the manager's segment may do everything until the manager has said who it is, then it alone", async () => {
  assert.ok((await bootstrap())!.ends_in > 80_000);
  assert.is(await ask("boss", "GET /status"), "active 200");
  assert.ok(await isShut("web"), "another segment");
  const [lamp] = await town.resolve("boss", "lamp.");
  assert.match(lamp!, /^198\.1[89]\./);
  await eventually("boss at lamp", () => town.passes("boss", { kind: "tcp", to: lamp! }));
  assert.equal(await town.resolve("web", "lamp."), ["NXDOMAIN"]);
  assert.equal(await town.resolve("boss", "databox-network."), [door.address]);
  assert.is(await ask("boss", "POST /privileged", { body: { src_ip: boss.address4 } }), "{} 200");
  assert.is(await bootstrap(), undefined);
  assert.is(await ask("boss", "GET /status"), "active 200", "it is the manager");
  assert.equal(await town.resolve("boss", "lamp."), [lamp]);
  const ip = `${boss.address4}/24`;
  assert.is(await ask("boss", "POST /disconnect", { body: { name: "boss", ip } }), "{} 200");
  // Who is on its segment now is like any other; a restart begins nothing anew.
  for (const what of ["now", "after a restart"]) {
    assert.is(await bootstrap(), undefined, what);
    assert.ok(await isShut("boss"), what);
    assert.equal(await town.resolve("boss", "lamp."), ["NXDOMAIN"], what);
    assert.not(await town.passes("boss", { kind: "tcp", to: lamp! }), what);
    await town.lab.agent.restart();
  }
});

test("a bootstrap in which no manager comes ends by itself", async () => {
  const seconds = 8;
  await town.lab.agent.stop();
  for (const suffix of ["", ".old", ".copy"])
    rmSync(`${paths.state}/isolation.json${suffix}`, { force: true });
  town.lab.configure(renderIsolation({ isolation: settings(seconds) }));
  const startedAt = performance.now();
  await town.lab.agent.start();
  const isOn = (await bootstrap()) !== undefined;
  // Where the start took longer, it is over before anybody could look.
  assert.ok(isOn || performance.now() - startedAt > seconds * 1_000);
  await eventually("its end", async () => (await bootstrap()) === undefined);
  assert.ok(performance.now() - startedAt > seconds * 1_000, "not before its time");
  assert.equal(await town.resolve("boss", "lamp."), ["NXDOMAIN"]);
  await eventually("the door shut", () => isShut("boss"));
  assert.is(await ask("router", "GET /status"), "active 200");
});

test.run();
