/**
 * An HTTP server: whole requests in, whole replies out, and nothing that one client can take from the others.
 *
 * Keeps the open connections, in all and by peer. Whoever sends slowly, too much, or the same deciding header twice
 * is refused here; what a request means is the handler's. With a certificate it is TLS 1.2 or later; a certificate
 * that cannot be used is a Fault, so nobody who asked for TLS is ever served plain.
 */

import { createPrivateKey, X509Certificate } from "node:crypto";
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { type Address, parseAddress } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { nodeFault } from "./native.ts";
import type { WebHandler, WebOptions, WebReply, WebServer } from "./system.ts";

const defaultBodyBytes = 64 * 1024;
const defaultConnections = 64;
const maxHeaderBytes = 8 * 1024;
const maxHeaders = 64;
const maxRequestsPerConnection = 1_000;
const defaultRequestMs = 4_000;
const idleMs = 5_000;
/** How long a reply under way may take when the server closes. */
const farewellMs = 2_000;

/** Headers that decide who asks and where a request ends: said twice, different readers see different requests. */
const single: ReadonlySet<string> = new Set([
  ...["authorization", "content-length", "content-type", "host", "origin", "transfer-encoding", "x-api-key"],
]);

/**
 * Serves HTTP on one address.
 *
 * @throws Fault "invalid" if certificate or key are none or don't fit; "conflict" if the port is taken; "denied".
 */
export async function serveWeb(options: WebOptions, handler: WebHandler): Promise<WebServer> {
  const maxBodyBytes = options.maxBodyBytes ?? defaultBodyBytes;
  const server = makeServer(options, (message, response) => {
    void answer(message, response, { maxBodyBytes, handler });
  });
  server.maxHeadersCount = maxHeaders;
  server.maxRequestsPerSocket = maxRequestsPerConnection;
  server.maxConnections = options.maxConnections ?? defaultConnections;
  limitPeers(server, Math.max(1, server.maxConnections >> 1));
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => {
      reject(nodeFault(error, `serve HTTP on ${options.address} port ${options.port}`));
    });
    server.listen({ host: options.address, port: options.port, ipv6Only: false }, resolve);
  });
  // What happens to single connections is no fault of the server's.
  server.on("error", () => {});
  return {
    port: (server.address() as AddressInfo).port,
    close: () => close(server),
  };
}

function makeServer(options: WebOptions, listener: RequestListener): Server {
  const requestMs = options.requestMs ?? defaultRequestMs;
  const limits = {
    maxHeaderSize: maxHeaderBytes,
    headersTimeout: requestMs,
    requestTimeout: requestMs,
    keepAliveTimeout: idleMs,
    connectionsCheckingInterval: Math.ceil(requestMs / 4),
    insecureHTTPParser: false,
  };
  if (!options.tls) return createServer(limits, listener);
  const { certificate, key } = options.tls;
  const tls = { cert: certificate, key, minVersion: "TLSv1.2", handshakeTimeout: requestMs } as const;
  try {
    // Node takes empty texts for none at all, and says nothing of a key that belongs elsewhere before a client comes.
    const isFit = new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key));
    if (!isFit) throw new Error("the key is another certificate's");
    return createTlsServer({ ...limits, ...tls }, listener);
  } catch (thrown) {
    throw new Fault("invalid", `Cannot serve HTTPS: certificate or key are of no use: ${messageOf(thrown)}`, {
      cause: thrown,
    });
  }
}

/** One peer must not hold every connection. */
function limitPeers(server: Server, most: number): void {
  const peers = new Map<string, number>();
  server.on("connection", (socket: Socket) => {
    const peer = socket.remoteAddress ?? "";
    const count = (peers.get(peer) ?? 0) + 1;
    peers.set(peer, count);
    socket.once("close", () => {
      const left = peers.get(peer)! - 1;
      if (left > 0) peers.set(peer, left);
      else peers.delete(peer);
    });
    if (count > most) socket.destroy();
  });
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    if (error.code === "ECONNRESET" || !socket.writable) socket.destroy();
    else socket.end(`HTTP/1.1 ${statusOf(error.code)}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  });
}

function statusOf(code: string | undefined): string {
  if (code === "HPE_HEADER_OVERFLOW") return "431 Request Header Fields Too Large";
  return code === "ERR_HTTP_REQUEST_TIMEOUT" ? "408 Request Timeout" : "400 Bad Request";
}

interface Answering {
  readonly maxBodyBytes: number;
  readonly handler: WebHandler;
}

async function answer(message: IncomingMessage, response: ServerResponse, how: Answering): Promise<void> {
  try {
    const headers = headersOf(message);
    const from = peerOf(message.socket);
    if (!headers || from === undefined) return refuse(message, response, 400);
    const body = await bodyOf(message, how.maxBodyBytes);
    if (body === "too long") return refuse(message, response, 413);
    if (body === "cut") return;
    const { method = "", url: path = "" } = message;
    send(response, await how.handler({ method, path, headers, body, from }));
  } catch {
    // The handler turns what it expects into replies; of the rest a stranger learns nothing.
    refuse(message, response, 500);
  }
}

/** Undefined: a header that decides is there twice. */
function headersOf(message: IncomingMessage): ReadonlyMap<string, string> | undefined {
  const headers = new Map<string, string>();
  const { rawHeaders } = message;
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!.toLowerCase();
    const before = headers.get(name);
    if (before !== undefined && single.has(name)) return undefined;
    headers.set(name, before === undefined ? rawHeaders[at + 1]! : `${before}, ${rawHeaders[at + 1]!}`);
  }
  return headers;
}

function peerOf(socket: Socket): Address | undefined {
  const text = socket.remoteAddress?.replace(/^::ffff:(?=[0-9.]+$)/, "").replace(/%.*$/, "");
  return text === undefined ? undefined : parseAddress(text);
}

function bodyOf(message: IncomingMessage, mostBytes: number): Promise<Uint8Array | "too long" | "cut"> {
  return new Promise((resolve) => {
    const pieces: Buffer[] = [];
    let size = 0;
    if (Number(message.headers["content-length"] ?? 0) > mostBytes) return resolve("too long");
    message.on("data", (piece: Buffer) => {
      size += piece.length;
      if (size > mostBytes) {
        pieces.length = 0;
        message.pause();
        resolve("too long");
      } else {
        pieces.push(piece);
      }
    });
    message.on("end", () => resolve(Uint8Array.from(Buffer.concat(pieces))));
    message.on("error", () => resolve("cut"));
    message.on("close", () => resolve("cut"));
  });
}

function send(response: ServerResponse, reply: WebReply): void {
  const body = typeof reply.body === "string" ? Buffer.from(reply.body) : reply.body;
  response.writeHead(reply.status, {
    // Names are the handler's; an engine refuses those, and values, that would begin a new line.
    ...reply.headers,
    "Content-Length": body.length,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
  });
  response.end(body);
}

/** Answers without a body; what else the client sends is not read. */
function refuse(message: IncomingMessage, response: ServerResponse, status: number): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  response.writeHead(status, { Connection: "close", "Content-Length": 0 });
  response.end(() => {
    if (!message.complete) message.socket.destroySoon();
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => server.closeAllConnections(), farewellMs);
    server.close(() => {
      clearTimeout(timer);
      resolve();
    });
    server.closeIdleConnections();
  });
}
