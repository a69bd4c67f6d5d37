/**
 * The HTTP door of isolation, on the machine: where the configuration wants it, over TLS if it names a certificate.
 *
 * One that cannot be opened as asked for, such as on an address that is not there yet or with a certificate that cannot
 * be used, is said, stays shut and is tried again: never is it opened in the plain instead.
 */

import type { Config } from "../config/config.ts";
import { type Isolation, isolationDoor } from "../isolation/isolation.ts";
import { parseAddress } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, Endpoint, System, WebServer } from "../system/system.ts";

type Settings = Pick<Config["isolation"], "http" | "httpName" | "httpCert" | "httpKey" | "keyFile">;

const retryMs = 5_000;
const maxFileBytes = 64 * 1024;

export class WebDoor {
  readonly #system: Pick<System, "serve" | "read" | "log" | "after">;
  readonly #settings: Settings;
  readonly #isolation: Isolation;
  #server: WebServer | undefined;
  #cancelRetry: Cancel | undefined;
  #closed = false;

  constructor(
    system: Pick<System, "serve" | "read" | "log" | "after">,
    settings: Settings,
    isolation: Isolation,
  ) {
    this.#system = system;
    this.#settings = settings;
    this.#isolation = isolation;
  }

  /** Where it is open. */
  get port(): number | undefined {
    return this.#server?.port;
  }

  /** Resolves after the first try. Never rejects. */
  async open(isSaid = false): Promise<void> {
    const { http, httpName, httpCert, httpKey, keyFile } = this.#settings;
    const endpoint = endpointOf(http);
    if (!endpoint || this.#closed) return;
    try {
      const tls = httpCert === "" ? {} : { tls: await this.#certificate(httpCert, httpKey || httpCert) };
      const door = isolationDoor({
        isolation: this.#isolation,
        readKey: () => this.#read(keyFile),
        hosts: httpName,
        report: (line) => this.#system.log("warning", line),
      });
      const server = await this.#system.serve({ ...endpoint, ...tls }, door);
      if (this.#closed) await server.close();
      else this.#server = server;
    } catch (thrown) {
      if (!isSaid) this.#system.log("error", messageOf(thrown));
      if (!this.#closed) this.#cancelRetry = this.#system.after(retryMs, () => void this.open(true));
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelRetry?.();
    await this.#server?.close();
  }

  async #certificate(certificatePath: string, keyPath: string) {
    const decoder = new TextDecoder();
    const [certificate, key] = await Promise.all([this.#read(certificatePath), this.#read(keyPath)]);
    return { certificate: decoder.decode(certificate), key: decoder.decode(key) };
  }

  async #read(path: string): Promise<Uint8Array> {
    const bytes = await this.#system.read(path, maxFileBytes);
    if (!bytes) throw new Fault("not-found", `Cannot use ${path}: it is not there`);
    return bytes;
  }
}

/** Where the configuration has the HTTP door; nowhere if it is empty. */
export function endpointOf(http: string): Endpoint | undefined {
  const [, host = "", port = ""] = /^(.*):([0-9]+)$/.exec(http) ?? [];
  const address = parseAddress(host.replace(/^\[|\]$/g, ""));
  return address === undefined ? undefined : { address, port: Number(port) };
}
