/**
 * UDP and TCP sockets: UDP over the native addon, TCP over Node's net.
 *
 * Keeps nothing of its own; messages are drained by `datagram.ts`, connections by `stream.ts`. UDP goes through the
 * addon because Node's dgram can neither be bound to an interface nor be told of a peer without losing who sent
 * what. A socket is bound to one address and its answers leave from there: who has several addresses opens several
 * sockets, since a wildcard socket would let the route pick the source.
 */

import type { Server, Socket } from "node:net";
import { familyOf, parseAddress } from "../lib/address.ts";
import { datagramsOf } from "./datagram.ts";
import {
  AF,
  decodeInet,
  inetAddress,
  kernelFault,
  type Netio,
  nameLength,
  nodeFault,
  SOCK,
} from "./native.ts";
import { SocketStream } from "./stream.ts";
import type {
  Endpoint,
  Stream,
  StreamHandlers,
  TcpListener,
  TcpListenOptions,
  UdpHandlers,
  UdpOptions,
  UdpSocket,
} from "./system.ts";

/** socket(7), ipv6(7). SOL_SOCKET differs on MIPS; SO_BINDTOIFINDEX is the same everywhere but there, too. */
const solSocket = process.arch.startsWith("mips") ? 0xffff : 1;
const bindToInterface = 62;
const solIpv6 = 41;
const ipv6Only = 26;
/** MSG_TRUNC: a datagram was longer than any that UDP has. */
const truncated = 0x20;
const backlog = 128;

/** Loaded with the first socket: it costs start-up time. */
const net = () => require("node:net") as typeof import("node:net");

/** @throws Fault as the kernel says. */
export function openUdp(netio: Netio, options: UdpOptions, handlers: UdpHandlers): UdpSocket {
  const { address, port, ifindex, groups = [], peer } = options;
  const verb = `open UDP socket on ${show(options)}`;
  const six = familyOf(address) === 6;
  if (peer !== undefined && (familyOf(peer.address) === 6) !== six) {
    throw new TypeError(`Cannot ${verb}: ${peer.address} is of the other family`);
  }
  if (groups.length > 0 && ifindex === undefined) {
    throw new TypeError(`Cannot ${verb}: groups are joined on an interface`);
  }
  const must = (answer: number): number => {
    if (answer < 0) throw kernelFault(answer, verb);
    return answer;
  };
  const handle = must(netio.open(six ? AF.inet6 : AF.inet, SOCK.datagram, 0));
  let local: Endpoint | undefined;
  const socket = datagramsOf(netio).adopt(handle, `send from ${show(options)}`, () => {
    if (six) must(netio.option(handle, solIpv6, ipv6Only, 1));
    if (ifindex !== undefined) must(netio.option(handle, solSocket, bindToInterface, ifindex));
    // A link-local address is one of an interface.
    must(netio.bind(handle, sockaddrOf({ address, port, ...(ifindex !== undefined && { zone: ifindex }) })));
    for (const group of groups) must(netio.group(handle, ifindex!, inetAddress(group, 0)));
    if (peer !== undefined) must(netio.connect(handle, sockaddrOf(peer)));
    const name = new Uint8Array(nameLength);
    local = endpointOf(name.subarray(0, must(netio.address(handle, name))));
    return {
      onMessage: (message) => {
        const from = endpointOf(message.name);
        if (message.flags & truncated) handlers.onOverrun();
        else if (from !== undefined) handlers.onMessage(message.bytes, from);
        return true;
      },
      onOverrun: () => handlers.onOverrun(),
      // One receiver that is gone says nothing of the others.
      survives: () => peer === undefined,
      onClose: (fault) => handlers.onClose(fault),
    };
  });
  return {
    local: local!,
    send: (bytes, to) => socket.send(bytes, to && sockaddrOf(to)),
    close: () => socket.close(),
  };
}

/** @param netio for the credentials that streams ask for. */
export function connectTcp(to: Endpoint, handlers: StreamHandlers, netio: () => Netio): Stream {
  const socket = net().connect({ host: hostOf(to), port: to.port, allowHalfOpen: true, noDelay: true });
  const stream = new SocketStream(socket, netio);
  stream.tell(handlers, `connect to ${show(to)}`);
  socket.on("connect", () => handlers.onConnect?.());
  return stream;
}

/** @throws Fault "conflict" if the port is taken. */
export async function listenTcp(options: TcpListenOptions, netio: () => Netio): Promise<TcpListener> {
  const server = net().createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    const from = remoteOf(socket);
    const stream = new SocketStream(socket, netio);
    const handlers = from && options.accept(stream, from);
    if (handlers === undefined) {
      socket.on("error", () => {});
      socket.destroy();
    } else {
      stream.tell(handlers, `serve a client on ${show(options)}`);
    }
  });
  await listening(server, options);
  // A connection that cannot be accepted stays in the queue; there is nobody to tell.
  server.on("error", () => {});
  const bound = server.address();
  return {
    port: bound !== null && typeof bound === "object" ? bound.port : options.port,
    async close() {
      server.close();
    },
  };
}

function listening(server: Server, options: TcpListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => reject(nodeFault(error, `listen on ${show(options)}`));
    server.once("error", fail);
    const host = hostOf({ ...options, ...(options.ifindex !== undefined && { zone: options.ifindex }) });
    server.listen({ host, port: options.port, backlog, ipv6Only: true }, () => {
      server.off("error", fail);
      resolve();
    });
  });
}

/** Who is at the other end; undefined if he has gone already. */
function remoteOf(socket: Socket): Endpoint | undefined {
  const [text, zone] = (socket.remoteAddress ?? "").split("%");
  const address = parseAddress(text!);
  if (address === undefined || socket.remotePort === undefined) return undefined;
  const index = zone === undefined ? 0 : zoneIndex(zone);
  return { address, port: socket.remotePort, ...(index > 0 && { zone: index }) };
}

/** Node writes a zone by the name of its interface, and takes it by nothing else. */
function zoneIndex(name: string): number {
  if (/^[0-9]+$/.test(name)) return Number(name);
  return zones().find((zone) => zone.name === name)?.index ?? 0;
}

/** A link-local address with its zone, as Node takes it; without, if there is no such zone (now). */
function hostOf({ address, zone }: Pick<Endpoint, "address" | "zone">): string {
  const name = isLinkLocal(address) ? zones().find(({ index }) => index === zone)?.name : undefined;
  return name === undefined ? address : `${address}%${name}`;
}

function zones(): { readonly name: string; readonly index: number }[] {
  const all = (require("node:os") as typeof import("node:os")).networkInterfaces();
  return Object.entries(all).flatMap(([name, own = []]) =>
    own.flatMap((each) =>
      each.family === "IPv6" && each.scopeid > 0 ? [{ name, index: each.scopeid }] : [],
    ),
  );
}

/** sockaddr_in or sockaddr_in6, with the zone in sin6_scope_id, which is in the order of the CPU. */
function sockaddrOf({ address, port, zone }: Endpoint): Uint8Array {
  const bytes = inetAddress(address, port);
  if (zone !== undefined && isLinkLocal(address)) new Uint32Array(bytes.buffer, 24, 1)[0] = zone;
  return bytes;
}

function endpointOf(name: Uint8Array): Endpoint | undefined {
  const end = decodeInet(name);
  if (end === undefined || !isLinkLocal(end.address) || name.length < 28) return end;
  const zone = new Uint32Array(name.slice(24, 28).buffer)[0]!;
  return zone > 0 ? { ...end, zone } : end;
}

function isLinkLocal(address: string): boolean {
  return /^fe[89ab]/.test(address);
}

function show({ address, port }: Endpoint): string {
  return familyOf(address) === 6 ? `[${address}]:${port}` : `${address}:${port}`;
}
