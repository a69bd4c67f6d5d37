/** The HTTP server with real clients: what gets in, what does not, and that nobody keeps the others out. */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { request as httpRequest, type RequestOptions } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, parseAddress } from "../../src/lib/address.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { WebHandler, WebOptions, WebRequest, WebServer } from "../../src/system/system.ts";
import { nativePath, until } from "./until.ts";

const directory = mkdtempSync(join(tmpdir(), "web-"));
const system = openLinux({ nativePath });
const loopback = parseAddress("127.0.0.1") as Address;
const servers: WebServer[] = [];
const sockets: Socket[] = [];
const seen: WebRequest[] = [];

const echo: WebHandler = (request) => {
  seen.push({ ...request, body: request.body.slice() });
  return {
    status: 200,
    headers: { "Content-Type": "text/plain" },
    body: `${request.method} ${request.path}`,
  };
};

async function serve(rest: Partial<WebOptions> = {}, handler = echo): Promise<number> {
  const server = await system.serve({ address: loopback, port: 0, ...rest }, handler);
  servers.push(server);
  return server.port;
}

interface Got {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: string;
}

function ask(
  port: number,
  options: RequestOptions & { body?: string | Buffer; isTls?: boolean } = {},
): Promise<Got> {
  const { body, isTls, ...rest } = options;
  return new Promise((resolve, reject) => {
    const how = { host: "127.0.0.1", port, agent: false, rejectUnauthorized: false, ...rest } as const;
    const request = (isTls ? httpsRequest : httpRequest)(how, (response) => {
      const pieces: Buffer[] = [];
      response.on("data", (piece: Buffer) => pieces.push(piece));
      response.on("end", () => {
        const { statusCode, headers } = response;
        resolve({ status: statusCode!, headers, body: Buffer.concat(pieces).toString() });
      });
    });
    request.on("error", reject);
    request.end(body);
  });
}

/** Sends bytes as they are, and collects what comes until the server closes. */
function raw(
  port: number,
  text: string,
): { readonly text: () => string; readonly isClosed: () => boolean; socket: Socket } {
  let [got, isClosed] = ["", false];
  const socket = connect(port, "127.0.0.1", () => socket.write(text));
  sockets.push(socket);
  socket.on("data", (piece) => {
    got += piece.toString("latin1");
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    isClosed = true;
  });
  return { text: () => got, isClosed: () => isClosed, socket };
}

function certify(name: string): { certificate: string; key: string } {
  const { status, stderr } = spawnSync(
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
      ...["-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.pem`],
    ],
    { cwd: directory, encoding: "utf8" },
  );
  assert.is(status, 0, stderr);
  const read = (file: string) => readFileSync(join(directory, file), "utf8");
  return { certificate: read(`${name}.pem`), key: read(`${name}.key`) };
}

test.after.each(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await Promise.all(servers.splice(0).map((server) => server.close()));
  seen.length = 0;
});
test.after(() => rmSync(directory, { recursive: true, force: true }));

test("serve hands over method, path, headers, body and peer, and sends the reply as it is", async () => {
  const port = await serve();
  const got = await ask(port, {
    method: "POST",
    path: "/a?b=c",
    headers: { "X-One": "1" },
    body: Buffer.from([1, 0, 255]),
  });
  assert.equal([got.status, got.body, got.headers["content-type"]], [200, "POST /a?b=c", "text/plain"]);
  assert.is(got.headers["x-content-type-options"], "nosniff");
  const [request] = seen;
  assert.equal(
    [request!.headers.get("x-one"), request!.from, [...request!.body]],
    ["1", "127.0.0.1", [1, 0, 255]],
  );
});

test("serve: a body that is too long is refused with 413, whether it says so or not", async () => {
  const port = await serve({ maxBodyBytes: 100 });
  assert.is((await ask(port, { method: "POST", body: "x".repeat(100) })).status, 200);
  assert.is((await ask(port, { method: "POST", body: "x".repeat(101) })).status, 413);
  const chunked = raw(
    port,
    `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n${"32\r\n".concat("y".repeat(50), "\r\n").repeat(3)}`,
  );
  await until(() => chunked.text().startsWith("HTTP/1.1 413"), "413");
  assert.is(seen.length, 1);
});

test("serve refuses what two readers would read in two ways", async () => {
  const port = await serve();
  const twice = (name: string, one: string, other: string) =>
    `POST / HTTP/1.1\r\nHost: a\r\n${name}: ${one}\r\n${name}: ${other}\r\nConnection: close\r\n\r\n`;
  const bad = [
    twice("Host", "a", "b"),
    twice("X-API-KEY", "a", "b"),
    twice("Origin", "http://a", "http://b"),
    twice("Authorization", "Basic YTo=", "Basic Yjo="),
    twice("Content-Length", "0", "5"),
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
    "\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n",
    `GET / HTTP/1.1\r\nHost: a\r\nX: ${"y".repeat(20_000)}\r\n\r\n`,
  ];
  for (const text of bad) {
    const client = raw(port, text);
    await until(() => client.isClosed(), JSON.stringify(text.slice(0, 40)));
    assert.match(client.text(), /^HTTP\/1\.1 4[03][01] /, JSON.stringify(text.slice(0, 60)));
  }
  assert.is(seen.length, 0);
});

test("serve: what a handler throws is 500 without a word", async () => {
  const port = await serve({}, () => {
    throw new Error("secret");
  });
  const got = await ask(port);
  assert.equal([got.status, got.body], [500, ""]);
});

test("serve: half a request is not waited for, be it in the headers or in the body", async () => {
  const port = await serve({ requestMs: 400 });
  const halves = [
    "POST / HT",
    "POST / HTTP/1.1\r\nHost: a\r\n",
    'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\n{"a',
  ];
  for (const text of halves) {
    const client = raw(port, text);
    await until(() => client.isClosed(), JSON.stringify(text));
  }
  assert.is(seen.length, 0);
});

test("serve: one peer that holds its connections open leaves room for others", async () => {
  const port = await serve({ maxConnections: 8 });
  const held = Array.from({ length: 8 }, () => raw(port, "POST / HTTP/1.1\r\nHost: a\r\nContent-Le"));
  await until(() => held.filter((each) => each.isClosed()).length === 4, "half of them are closed");
  const got = await ask(port, { localAddress: "127.0.0.9" });
  assert.is(got.status, 200);
});

test("serve: a port that is taken is a conflict; closing frees it and ends what is held", async () => {
  const port = await serve();
  let code = "";
  await system.serve({ address: loopback, port }, echo).catch((thrown) => {
    code = thrown.code;
  });
  assert.is(code, "conflict");
  const held = raw(port, "GET / HTTP/1.1\r\nHost: a\r\n");
  await until(() => held.socket.readyState === "open", "it is connected");
  await servers.shift()!.close();
  await until(() => held.isClosed(), "it is closed");
  await serve({ port });
});

test("serve: TLS 1.2 or later with a certificate, and nothing plain", async () => {
  const tls = certify("one");
  const port = await serve({ tls });
  assert.equal((await ask(port, { isTls: true, path: "/x" })).body, "GET /x");
  const plain = raw(port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  await until(() => plain.isClosed(), "the plain client is turned away");
  assert.not.match(plain.text(), /200/);
  assert.is(seen.length, 1);
  const weak = {
    isTls: true,
    maxVersion: "TLSv1.1",
    minVersion: "TLSv1",
    ciphers: "ALL:@SECLEVEL=0",
  } as object;
  const refusal = await ask(port, weak).then(
    () => "answered",
    () => "refused",
  );
  assert.is(refusal, "refused");
});

test("serve: a certificate that is of no use is a Fault, never plain HTTP", async () => {
  const [one, two] = [certify("one"), certify("two")];
  const bad = [
    { certificate: "", key: "" },
    { certificate: one.certificate, key: "" },
    { certificate: "", key: one.key },
    { certificate: "no certificate", key: one.key },
    { certificate: one.certificate, key: two.key },
    { certificate: one.certificate.slice(0, 200), key: one.key },
  ];
  for (const tls of bad) {
    let code = "served";
    await serve({ tls }).catch((thrown) => {
      code = thrown.code;
    });
    assert.is(code, "invalid", JSON.stringify(tls).slice(0, 60));
  }
});

test("serve: curl gets along with it, with and without keeping the connection", async () => {
  const port = await serve();
  const url = `http://127.0.0.1:${port}`;
  const argv = ["-s", "-m", "60", "-d", '{"a":1}', "-H", "X-API-KEY: k", `${url}/one`, `${url}/two`];
  const { spawn } = await import("node:child_process");
  const child = spawn("curl", argv);
  let out = "";
  child.stdout.on("data", (piece) => {
    out += piece;
  });
  await new Promise((resolve) => child.on("close", resolve));
  assert.is(out, "POST /onePOST /two");
});

test.run();
