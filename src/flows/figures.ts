/**
 * A device's flows as SPIN lists them: by far node, port of the service and ICMP type, whoever began, with blocked
 * pairs that nothing passed yet as lines without figures.
 */

import type { FlowRecord } from "./ledger.ts";
import { numberOf } from "./tally.ts";

/** One line of SPIN's `list_device_flows`. Field order is part of the shape. */
export interface DeviceFlow {
  /** The far node. */
  readonly to: number;
  readonly dst_port: number;
  readonly icmp_type: number;
  /** Both directions; at most 2⁵³ − 1. This and the next two are missing where nothing was seen. */
  readonly packets?: number;
  readonly bytes?: number;
  /** Unix seconds. */
  readonly lastseen?: number;
  readonly blocked?: 1;
}

export interface DeviceFlowsOptions {
  readonly id: number;
  /** The wall-clock date in milliseconds of a monotonic instant. */
  dateOf(at: number): number;
  /** The nodes that it is cut off from. */
  readonly partners: readonly number[];
}

/** @param records all of the device's. */
export function deviceFlows(records: readonly FlowRecord[], options: DeviceFlowsOptions): DeviceFlow[] {
  const { id, dateOf, partners } = options;
  const sums = new Map<string, { far: number; record: FlowRecord }>();
  for (const record of records) {
    const far = record.from === id ? record.to : record.from;
    const key = `${far} ${record.toPort} ${record.icmpType}`;
    const sum = sums.get(key)?.record;
    const packets = record.packets + (sum?.packets ?? 0n);
    const bytes = record.bytes + (sum?.bytes ?? 0n);
    const lastAt = Math.max(record.lastAt, sum?.lastAt ?? record.lastAt);
    sums.set(key, { far, record: { ...record, packets, bytes, lastAt } });
  }
  const cut = new Set(partners);
  const quiet = new Set(partners);
  const flows: DeviceFlow[] = [];
  for (const { far, record } of sums.values()) {
    quiet.delete(far);
    flows.push({
      to: far,
      dst_port: record.toPort,
      icmp_type: record.icmpType,
      packets: numberOf(record.packets),
      bytes: numberOf(record.bytes),
      lastseen: Math.floor(dateOf(record.lastAt) / 1_000),
      ...(cut.has(far) && { blocked: 1 }),
    });
  }
  for (const far of quiet) flows.push({ to: far, dst_port: 0, icmp_type: 0, blocked: 1 });
  return flows.sort(byKey);
}

function byKey(left: DeviceFlow, right: DeviceFlow): number {
  return left.to - right.to || left.dst_port - right.dst_port || left.icmp_type - right.icmp_type;
}
