/**
 * UDP and TCP in memory, by address and port.
 *
 * Keeps the bound UDP sockets; TCP is the streams of `wire.ts` under another name. What is sent arrives in a later
 * microtask, as a copy; a datagram to nobody is lost.
 */

import type { Address } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import type {
  Endpoint,
  Stream,
  StreamHandlers,
  TcpListener,
  TcpListenOptions,
  UdpHandlers,
  UdpOptions,
  UdpSocket,
} from "../../src/system/system.ts";
import type { FakeSwitchboard } from "./wire.ts";

const nameOf = ({ address, port }: Endpoint) => `${address} ${port}`;

export class FakeInet {
  readonly #switchboard: FakeSwitchboard;
  readonly #bound = new Map<string, (bytes: Uint8Array, from: Endpoint) => void>();
  #nextPort = 40_000;

  constructor(switchboard: FakeSwitchboard) {
    this.#switchboard = switchboard;
  }

  udp(options: UdpOptions, handlers: UdpHandlers): UdpSocket {
    const local: Endpoint = { address: options.address, port: options.port || this.#nextPort++ };
    if (this.#bound.has(nameOf(local))) {
      throw new Fault("conflict", `Cannot open UDP socket on ${nameOf(local)}: address already in use`);
    }
    const { peer } = options;
    this.#bound.set(nameOf(local), (bytes, from) => {
      if (peer === undefined || nameOf(peer) === nameOf(from)) handlers.onMessage(bytes, from);
    });
    let isOpen = true;
    return {
      local,
      send: (bytes, to = peer) => {
        if (to === undefined) throw new Fault("kernel", "Cannot send: destination address required");
        if (!isOpen) throw new Fault("closed", "Cannot send: the socket is closed");
        const copy = bytes.slice();
        const from = this.#sourceOf(local, to);
        queueMicrotask(() => this.#find(to)?.(copy, from));
      },
      close: () => {
        if (!isOpen) return;
        isOpen = false;
        this.#bound.delete(nameOf(local));
        queueMicrotask(() => handlers.onClose());
      },
    };
  }

  async tcpListen(options: TcpListenOptions): Promise<TcpListener> {
    const port = options.port || this.#nextPort++;
    const listener = this.#switchboard.listen(`tcp ${options.address} ${port}`, {
      mode: 0,
      accept: (stream) => options.accept(stream, { address: options.address, port: this.#nextPort++ }),
    });
    return { port, close: () => listener.close() };
  }

  tcpConnect(to: Endpoint, handlers: StreamHandlers): Stream {
    return this.#switchboard.connect(`tcp ${nameOf(to)}`, handlers);
  }

  #find(to: Endpoint): ((bytes: Uint8Array, from: Endpoint) => void) | undefined {
    const any = to.address.includes(":") ? "::" : "0.0.0.0";
    return this.#bound.get(nameOf(to)) ?? this.#bound.get(`${any} ${to.port}`);
  }

  /** A wildcard socket talks from the address that it talks to: there is one machine only. */
  #sourceOf(local: Endpoint, to: Endpoint): Endpoint {
    const isAny = local.address === ("::" as Address) || local.address === ("0.0.0.0" as Address);
    return isAny ? { address: to.address, port: local.port } : local;
  }
}
