/**
 * Those who watch the bus: each gets a copy of every message of every client, as the client sent or gets it.
 *
 * Copies are not themselves copied. They never make anybody wait: a monitor that reads too slowly is closed like
 * everybody whose queue grows too long.
 */

import type { Connection } from "./connection.ts";
import { headerBytes, readU32 } from "./frame.ts";
import { encodeMonitor } from "./message.ts";

/** What a copy adds to a message. */
const overheadBytes = 64;

export interface MonitorsOptions {
  /** The longest blob that a receiver understands. */
  readonly messageBytes: number;
  put(to: Connection, bytes: Uint8Array): void;
  drop(reason: "too long for a monitor"): void;
}

export class Monitors {
  readonly #options: MonitorsOptions;
  readonly #monitors = new Set<Connection>();

  constructor(options: MonitorsOptions) {
    this.#options = options;
  }

  add(client: Connection): void {
    client.sightings = 0;
    this.#monitors.add(client);
  }

  remove(client: Connection): void {
    this.#monitors.delete(client);
  }

  /** Whether anybody watches. */
  get any(): boolean {
    return this.#monitors.size > 0;
  }

  /** Copies a whole message; `send` if it goes to the client, else it came from it. */
  see(client: Connection, message: Uint8Array, send: boolean): void {
    const { drop, messageBytes, put } = this.#options;
    if (message.length > messageBytes - overheadBytes) {
      drop("too long for a monitor");
      return;
    }
    const sighting = {
      client: client.id,
      peer: readU32(message, 4),
      seq: (message[2]! << 8) | message[3]!,
      type: message[1]!,
      send,
      data: message.subarray(headerBytes),
    };
    for (const monitor of this.#monitors) {
      monitor.sightings = (monitor.sightings + 1) & 0xffff;
      put(monitor, encodeMonitor(monitor.sightings, sighting));
    }
  }
}
