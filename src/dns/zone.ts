/**
 * A zone's records over TCP (AXFR, RFC 5936): messages whose answers follow on each other, from the zone's SOA record
 * to the same again.
 *
 * Kept while it runs: the records so far, bounded. What is not exactly that is no zone: it ends with a fault and
 * nothing of it is given out, so that half a zone is never taken for the whole.
 */

import { CLASS_IN, type DnsMessage, type DnsRecord, decodeMessage, foldName, TYPE_SOA } from "../lib/dns.ts";
import { Fault, type FaultCode, messageOf } from "../lib/fault.ts";
import type { Clock, Endpoint, Sockets } from "../system/system.ts";
import { Frames, frame } from "./framing.ts";
import { tcpBytes } from "./query.ts";

export interface TransferOptions {
  /** Default 100,000. */
  readonly maxRecords?: number;
  /** Of messages, all together. Default 16 MiB. */
  readonly maxBytes?: number;
  /** For all of it. Default 30 s. */
  readonly limitMs?: number;
}

export interface Transfer extends TransferOptions {
  readonly zone: string;
  readonly server: Endpoint;
  readonly id: number;
  /** The question, as a message. */
  readonly query: Uint8Array;
  /** Keeps a way to end the transfer from outside, and gives it up. */
  register(end: (fault: Fault) => void): () => void;
}

/** See `DnsClient.transfer`. */
export function transferZone(
  system: Clock & Pick<Sockets, "tcpConnect">,
  transfer: Transfer,
): Promise<DnsRecord[]> {
  const { limitMs = 30_000, maxRecords = 100_000, maxBytes = 16 * 1024 * 1024 } = transfer;
  const { query, server, zone } = transfer;
  const faultOf = (code: FaultCode, state: string) =>
    new Fault(code, `Cannot transfer ${zone} from ${server.address}: ${state}`);
  return new Promise((resolve, reject) => {
    const frames = new Frames(tcpBytes);
    let taken = 0;
    const zoneRecords = new ZoneRecords(transfer, maxRecords, faultOf);
    const finish = (then: () => void): void => {
      cancel();
      unregister();
      stream.close();
      then();
    };
    const fail = (fault: Fault): void => finish(() => reject(fault));
    const cancel = system.after(limitMs, () => fail(faultOf("timeout", `no end within ${limitMs} ms`)));
    const unregister = transfer.register(fail);
    const stream = system.tcpConnect(server, {
      onConnect: () => stream.write(frame(query)),
      onBytes: (bytes) => {
        taken += bytes.length;
        try {
          if (taken > maxBytes) throw faultOf("limit", `more than ${maxBytes} bytes`);
          for (const message of frames.take(bytes)) {
            if (!zoneRecords.take(decodeMessage(message))) continue;
            finish(() => resolve(zoneRecords.records));
            return;
          }
        } catch (thrown) {
          if (thrown instanceof Fault) fail(thrown);
          else if (thrown instanceof SyntaxError) fail(faultOf("closed", messageOf(thrown)));
          else throw thrown;
        }
      },
      onClose: (fault) => fail(fault ?? faultOf("closed", "it ended before its end")),
    });
  });
}

class ZoneRecords {
  readonly records: DnsRecord[] = [];
  readonly #about: Pick<Transfer, "id" | "zone">;
  readonly #maxRecords: number;
  readonly #faultOf: (code: FaultCode, state: string) => Fault;

  constructor(
    about: Pick<Transfer, "id" | "zone">,
    maxRecords: number,
    faultOf: (code: FaultCode, state: string) => Fault,
  ) {
    this.#about = about;
    this.#maxRecords = maxRecords;
    this.#faultOf = faultOf;
  }

  /** Whether the zone is whole now. @throws Fault if it never will be. */
  take({ answers, flags, id, questions }: DnsMessage): boolean {
    const zone = foldName(this.#about.zone);
    const [question] = questions;
    if (!flags.response || id !== this.#about.id || (question && foldName(question.name) !== zone)) {
      throw this.#faultOf("closed", "it answers something else");
    }
    if (flags.rcode !== 0) throw this.#faultOf("denied", `rcode ${flags.rcode}`);
    for (const [index, record] of answers.entries()) {
      const isBorder = record.type === TYPE_SOA && foldName(record.name) === zone;
      if (this.records.length === 0 && !isBorder) throw this.#faultOf("closed", "it begins with no SOA");
      if (this.records.length > 0 && isBorder) {
        if (index !== answers.length - 1) throw this.#faultOf("closed", "something follows its end");
        if (record.authority?.serial !== this.records[0]!.authority?.serial) {
          throw this.#faultOf("closed", "it changed on the way");
        }
        return true;
      }
      if (record.class !== CLASS_IN) continue;
      if (this.records.length >= this.#maxRecords) {
        throw this.#faultOf("limit", `more than ${this.#maxRecords} records`);
      }
      this.records.push(record);
    }
    return false;
  }
}
