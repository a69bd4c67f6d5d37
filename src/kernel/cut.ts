/**
 * Cutting connections: a rule that blocks new packets does not stop what a flowtable forwards past the rules, nor
 * what an older rule accepts as established. Deleting the connection does.
 */

import type { Fault } from "../lib/fault.ts";
import { type Connection, ConnectionReader, connectionMessage, readConnections } from "./connection.ts";
import { errnoOf, Netlink, type NetlinkSystem, netfilterProtocol } from "./netlink.ts";

export interface Deletion {
  /** Connections looked at. */
  readonly examined: number;
  /** Connections cut. */
  readonly deleted: number;
  /** Selected, but gone before we came to it. */
  readonly gone: number;
  /** Selected, and the kernel would not (old kernels keep what a flowtable forwards). */
  readonly refused: number;
}

/** Deletions under way at a time: enough to keep the kernel busy, few enough for its answers to fit a buffer. */
const window = 64;

/**
 * Cuts the connections that `match` selects, and no other: their next packets are looked at as new ones, and a
 * flowtable forwards them no more.
 *
 * @throws Fault as `Netlink.dump` does; single connections that the kernel keeps are counted instead.
 */
export async function deleteConnections(
  system: NetlinkSystem,
  match: (connection: Connection) => boolean,
): Promise<Deletion> {
  const netlink = new Netlink(system, { protocol: netfilterProtocol });
  const reader = new ConnectionReader();
  const names: Uint8Array[] = [];
  const count = { examined: 0, deleted: 0, gone: 0, refused: 0 };
  const cut = async (): Promise<void> => {
    for (let name = names.pop(); name; name = names.pop()) {
      try {
        await netlink.request({ type: connectionMessage.delete, payload: name, verb: "delete connection" });
        count.deleted++;
      } catch (thrown) {
        if (errnoOf(thrown) === undefined) throw thrown;
        if ((thrown as Fault).code === "not-found") count.gone++;
        else if ((thrown as Fault).code === "denied") throw thrown;
        else count.refused++;
      }
    }
  };
  try {
    await netlink.dump(readConnections, {
      onMessage: (answer) => {
        const connection = reader.read(answer) ? reader.decode() : undefined;
        if (!connection) return;
        count.examined++;
        if (match(connection)) names.push(reader.encodeName());
      },
      onRestart: () => {
        count.examined = 0;
        names.length = 0;
      },
    });
    await Promise.all(Array.from({ length: Math.min(window, names.length) }, cut));
  } finally {
    netlink.close();
  }
  return count;
}
