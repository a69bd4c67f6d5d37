/** MQTT over TLS with a real broker and certificates of our own making: whom we trust, and who we are. */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer as createTlsServer, type Server } from "node:tls";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openMqtt } from "../../src/system/mqtt.ts";
import type { Clock, Mqtt, MqttOptions, MqttSecrets } from "../../src/system/system.ts";
import { until } from "./until.ts";

const directory = mkdtempSync(join(tmpdir(), "tls-"));
const path = (name: string) => join(directory, name);
const pem = (name: string) => readFileSync(path(name), "utf8");
const children = new Set<ChildProcess>();
const opened: Mqtt[] = [];
let lastPort = 21_000;

/** How long the broker may take to let us in, and to hear our farewell: so long as they are, on a slow machine too. */
const limitsMs = [10_000, 1_000];

/** Twenty times as fast as the wall, but for limits. */
const clock: Clock = {
  now: () => performance.now() * 20,
  date: () => Date.now(),
  after(delayMs, call) {
    const timer = setTimeout(call, limitsMs.includes(delayMs) ? delayMs : delayMs / 20);
    return () => clearTimeout(timer);
  },
  every: () => () => {},
};

function openssl(...args: string[]): void {
  const { status, stderr } = spawnSync("openssl", args, { cwd: directory, encoding: "utf8" });
  assert.is(status, 0, stderr);
}

const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** Who vouches: `<name>.pem` and `<name>.key`. */
function authority(name: string): void {
  openssl(
    ...["req", "-x509", ...curve, "-days", "2", "-subj", `/CN=${name}`],
    ...["-keyout", `${name}.key`, "-out", `${name}.pem`],
  );
}

/** A certificate that an authority vouches for, for the names given, from and until the dates given. */
function certify(name: string, by: string, rest: { names?: string; dates?: readonly [string, string] } = {}) {
  const [from, to] = rest.dates ?? ["20200101000000Z", "20990101000000Z"];
  openssl("req", ...curve, "-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.csr`);
  writeFileSync(path("index"), "");
  writeFileSync(
    path("ca.conf"),
    [
      "[ca]\ndefault_ca=it\n[it]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256",
      `policy=any\nx509_extensions=more\n[any]\ncommonName=supplied\n[more]`,
      `basicConstraints=CA:false\nsubjectAltName=${rest.names ?? "DNS:nobody.invalid"}\n`,
    ].join("\n"),
  );
  openssl(
    ...["ca", "-batch", "-notext", "-config", "ca.conf", "-cert", `${by}.pem`, "-keyfile", `${by}.key`],
    ...["-startdate", from, "-enddate", to, "-in", `${name}.csr`, "-out", `${name}.pem`],
  );
}

authority("ours");
authority("theirs");
certify("broker", "ours", { names: "DNS:localhost,IP:127.0.0.1" });
certify("elsewhere", "ours", { names: "DNS:elsewhere.example" });
certify("expired", "ours", { names: "IP:127.0.0.1", dates: ["20200101000000Z", "20200102000000Z"] });
certify("early", "ours", { names: "IP:127.0.0.1", dates: ["20980101000000Z", "20990102000000Z"] });
certify("router", "ours");
certify("stranger", "theirs");
spawnSync("mosquitto_passwd", ["-b", "-c", path("passwords"), "us", "secr\u00e9t"]);

/** A real broker with a certificate, ready. */
async function broker(port: number, certificate: string, ...more: string[]): Promise<ChildProcess> {
  const file = path(`${port}.conf`);
  const lines = [
    `listener ${port} 127.0.0.1`,
    "user root",
    `cafile ${path("ours.pem")}`,
    `certfile ${path(`${certificate}.pem`)}`,
    `keyfile ${path(`${certificate}.key`)}`,
    ...(more.some((line) => line.startsWith("allow_anonymous")) ? [] : ["allow_anonymous true"]),
    ...more,
  ];
  writeFileSync(file, `${lines.join("\n")}\n`);
  const child = spawn("mosquitto", ["-c", file], { stdio: "ignore" });
  children.add(child);
  await until(
    () =>
      new Promise<boolean>((resolve) => {
        assert.is(child.exitCode, null);
        const probe = connect({ host: "127.0.0.1", port }, () => {
          probe.destroy();
          resolve(true);
        });
        probe.on("error", () => resolve(false));
      }),
    "the broker listens",
  );
  return child;
}

function open(port: number, secrets: MqttSecrets, given: Partial<MqttOptions> = {}) {
  const diary: string[] = [];
  const mqtt = openMqtt(
    {
      ...{ host: "127.0.0.1", port, clientId: "test", keepaliveSeconds: 60, maxQueuedBytes: 64 * 1024 },
      will: { topic: "SPIN/status", payload: "offline" },
      secrets: async () => secrets,
      ...given,
    },
    {
      onConnect: () => diary.push("connect"),
      onDisconnect: (reason) => diary.push(reason),
      onMessage: (topic, payload) => diary.push(`${topic} ${Buffer.from(payload)}`),
    },
    clock,
  );
  opened.push(mqtt);
  return { mqtt, diary };
}

const ours = () => ({ authorities: pem("ours.pem") });

test("a session without TLS loads no TLS", () => {
  // Apart from this file's own imports: in a process that opens a plain session.
  const script = [
    `const { createServer } = require("node:net");`,
    `require("mqtt/lib/client");`,
    `process.exit(process.moduleLoadList.includes("NativeModule tls") ? 1 : 0);`,
  ].join("\n");
  assert.is(spawnSync(process.execPath, ["-e", script], { cwd: process.cwd() }).status, 0);
});

for (const version of ["3.1.1", "5"] as const) {
  for (const host of ["127.0.0.1", "localhost"]) {
    test(`MQTT ${version}: TLS with an authority of our own, the broker as ${host}`, async () => {
      const port = ++lastPort;
      await broker(port, "broker");
      const { mqtt, diary } = open(port, { tls: ours() }, { version, host });
      await until(() => mqtt.connected, "connected");
      mqtt.subscribe("a");
      mqtt.publish("a", "x".repeat(50_000));
      await until(() => diary.length === 2, "the message");
      assert.equal(diary, ["connect", `a ${"x".repeat(50_000)}`]);
    });
  }
}

const refused: readonly [why: string, certificate: string, secrets: () => MqttSecrets, reason: RegExp][] = [
  [
    "of an unknown authority",
    "broker",
    () => ({ tls: { authorities: pem("theirs.pem") } }),
    /self-signed|unable to verify|issuer/,
  ],
  ["of nobody whom the system knows", "broker", () => ({ tls: {} }), /self-signed|unable to verify|issuer/],
  [
    "with an empty list of authorities",
    "broker",
    () => ({ tls: { authorities: "" } }),
    /self-signed|unable to verify|issuer/,
  ],
  ["for another host", "elsewhere", () => ({ tls: ours() }), /altname|cert's list/],
  ["that has expired", "expired", () => ({ tls: ours() }), /expired/],
  ["that is not yet valid", "early", () => ({ tls: ours() }), /not yet valid/],
];

for (const [why, certificate, secrets, reason] of refused) {
  test(`a broker with a certificate ${why} hears nothing of us`, async () => {
    const port = ++lastPort;
    await broker(port, certificate);
    const { mqtt, diary } = open(port, secrets());
    await until(() => diary.length > 0, "refused");
    assert.match(diary[0]!, reason);
    // The same each time is told once.
    await new Promise((resolve) => setTimeout(resolve, 250));
    assert.is(diary.length, 1);
    assert.not.ok(mqtt.connected);
  });
}

const requiring = ["require_certificate true", "use_identity_as_username true"];

test("a broker that wants a certificate of us gets it", async () => {
  const port = ++lastPort;
  await broker(port, "broker", ...requiring);
  const tls = { ...ours(), certificate: pem("router.pem"), key: pem("router.key") };
  const { mqtt } = open(port, { tls });
  await until(() => mqtt.connected, "connected");
});

for (const [why, tls, reason] of [
  ["none", () => ours(), /certificate required|closed|handshake|ECONNRESET|EPIPE/],
  [
    "one of another authority",
    () => ({ ...ours(), certificate: pem("stranger.pem"), key: pem("stranger.key") }),
    /unknown ca|closed|ECONNRESET|EPIPE/,
  ],
  [
    "a key that does not fit",
    () => ({ ...ours(), certificate: pem("router.pem"), key: pem("stranger.key") }),
    /mismatch/,
  ],
  [
    "no certificate but rubbish",
    () => ({ ...ours(), certificate: "rubbish", key: "rubbish" }),
    /TLS: no start line/,
  ],
] as const) {
  test(`a broker that wants a certificate of us and gets ${why} is a reason, not an exception`, async () => {
    const port = ++lastPort;
    await broker(port, "broker", ...requiring);
    const { mqtt, diary } = open(port, { tls: tls() });
    await until(() => diary.length > 0, "refused");
    assert.match(diary[0]!, reason);
    assert.not.ok(mqtt.connected);
  });
}

test("user and password go over TLS; a wrong one is refused and said", async () => {
  const port = ++lastPort;
  await broker(port, "broker", "allow_anonymous false", `password_file ${path("passwords")}`);
  for (const version of ["3.1.1", "5"] as const) {
    const right = open(port, { tls: ours(), password: "secr\u00e9t" }, { username: "us", version });
    await until(() => right.mqtt.connected, "connected");
    await right.mqtt.close();
    const wrong = open(port, { tls: ours(), password: "guess" }, { username: "us", version });
    await until(() => wrong.diary.length > 0, "refused");
    assert.match(wrong.diary[0]!, /^the broker refuses us: not authorized/);
    await wrong.mqtt.close();
  }
});

test("a certificate that is renewed counts from the next try on", async () => {
  const port = ++lastPort;
  const child = await broker(port, "broker");
  let secrets: MqttSecrets = { tls: { authorities: pem("theirs.pem") } };
  const { mqtt, diary } = open(port, {}, { secrets: async () => secrets });
  await until(() => diary.length > 0, "refused");
  secrets = { tls: ours() };
  await until(() => mqtt.connected, "connected");
  child.kill("SIGKILL");
  await until(() => !mqtt.connected, "lost");
  await broker(port, "broker");
  await until(() => mqtt.connected, "connected again");
});

test("a broker with nothing newer than TLS 1.1 is left", async () => {
  const server: Server = createTlsServer({
    ...{ cert: pem("broker.pem"), key: pem("broker.key") },
    ...{ minVersion: "TLSv1", maxVersion: "TLSv1.1", ciphers: "ALL@SECLEVEL=0" },
  });
  server.on("tlsClientError", () => {});
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { mqtt, diary } = open((server.address() as AddressInfo).port, { tls: ours() });
  await until(() => diary.length > 0, "refused");
  assert.match(diary[0]!, /^TLS: .*version/);
  await mqtt.close();
  server.close();
});

test("a broker that speaks no TLS at all gets no plain word", async () => {
  const heard: Buffer[] = [];
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      heard.push(chunk);
      socket.write("HTTP/1.1 400 Bad Request\r\n\r\n");
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const { mqtt, diary } = open(port, { tls: ours(), password: "secret" }, { username: "us" });
  await until(() => diary.length > 0, "refused");
  assert.match(diary[0]!, /^TLS: /);
  assert.ok(heard.length > 0);
  assert.not.ok(Buffer.concat(heard).includes("secret"));
  assert.not.ok(Buffer.concat(heard).includes("MQTT"));
  await mqtt.close();
  server.close();
});

test("over TLS, too, a broker that stands still takes a bounded amount and is found again", async () => {
  const port = ++lastPort;
  const child = await broker(port, "broker");
  const { mqtt, diary } = open(port, { tls: ours() }, { keepaliveSeconds: 1 });
  await until(() => mqtt.connected, "connected");
  child.kill("SIGSTOP");
  let refusedCount = 0;
  for (let round = 0; round < 3_000 && refusedCount < 100; round++) {
    if (!mqtt.publish("a", "x".repeat(10_000))) refusedCount++;
    assert.ok(mqtt.queuedBytes <= 64 * 1024, `${mqtt.queuedBytes} bytes wait`);
    if (round % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  assert.is(refusedCount, 100);
  await until(() => diary.length > 1, "given up");
  child.kill("SIGCONT");
  await until(() => mqtt.connected, "connected again");
});

test.after(async () => {
  await Promise.all(opened.map((each) => each.close()));
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});

test.run();
