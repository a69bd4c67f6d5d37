/** Tables over a kernel and a disk in memory, each under the test's control. */

import type { FamilyTable, SteerChange, SteerPlan, SteerRule } from "../../src/kernel/kernel.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json } from "../../src/lib/json.ts";
import { parseRecord } from "../../src/tables/record.ts";
import type { Steers } from "../../src/tables/steering.ts";
import {
  type NewsKind,
  type SavedRecords,
  type TableLease,
  Tables,
  type TablesOptions,
  type Wish,
} from "../../src/tables/tables.ts";

/** What the kernel would have. */
export class FakeKernel implements Steers {
  /** What is there of what was wanted. */
  plan: SteerPlan = { rules: [], routes: [] };
  #wanted: SteerPlan = { rules: [], routes: [] };
  readonly foreign = { 4: new Set<number>(), 6: new Set<number>() };
  readonly flushed: FamilyTable[] = [];
  applied = 0;
  /** Rules and routes that changes brought or took. */
  amended = 0;
  looked = 0;
  /** Tables whose rules are refused. */
  readonly refuses = new Set<number>();
  broken: Fault | undefined;

  async apply(plan: SteerPlan): ReturnType<Steers["apply"]> {
    await undefined;
    this.applied++;
    if (this.broken) throw this.broken;
    this.#wanted = plan;
    const isRefused = ({ table }: FamilyTable) => this.refuses.has(table);
    this.plan = { ...plan, rules: plan.rules.filter((rule) => !isRefused(rule)) };
    const fault = new Fault("kernel", "Cannot steer: refused");
    return plan.rules.filter(isRefused).map((what) => ({ what, fault }));
  }

  async amend({ drop, add }: SteerChange): ReturnType<Steers["apply"]> {
    const stays = <Each>(all: readonly Each[], gone: readonly Each[]) => {
      const texts = new Set(gone.map((each) => JSON.stringify(each)));
      return all.filter((each) => !texts.has(JSON.stringify(each)));
    };
    this.amended += [drop.rules, drop.routes, add.rules, add.routes].flat().length;
    return this.apply({
      rules: [...stays(this.#wanted.rules, drop.rules), ...add.rules],
      routes: [...stays(this.#wanted.routes, drop.routes), ...add.routes],
    });
  }

  async tables() {
    await undefined;
    this.looked++;
    if (this.broken) throw this.broken;
    return this.foreign;
  }

  async flush(tables: readonly FamilyTable[]) {
    await undefined;
    if (this.broken) throw this.broken;
    this.flushed.push(...tables);
    for (const { family, table } of tables) this.foreign[family].delete(table);
  }

  /** Rules as one line each. */
  get lines(): string[] {
    return this.plan.rules.map(ruleLine);
  }
}

export function ruleLine({ priority, from, to, incoming, table }: SteerRule): string {
  const what = from ? `from ${from}` : to ? `to ${to}` : `iif ${incoming}`;
  return `${priority} ${what} lookup ${table}`;
}

/** Keeps what was written, as text. */
export class FakeDisk {
  readonly pieces: string[] = [];
  broken = false;
  writes = 0;

  async keep(boot: string, records: readonly Json[]): Promise<void> {
    await undefined;
    if (this.broken) throw new Fault("storage", "Cannot write: the disk is full");
    this.writes++;
    this.pieces.push(JSON.stringify({ boot, records }));
  }

  get saved(): SavedRecords[] {
    return this.pieces.map((piece) => {
      const { boot, records } = JSON.parse(piece) as { boot: string; records: unknown[] };
      return { boot, records: records.map(parseRecord) };
    });
  }
}

export interface Stage {
  readonly tables: Tables;
  readonly kernel: FakeKernel;
  readonly disk: FakeDisk;
  readonly clock: { nowMs: number; now(): number };
  readonly heard: string[];
  readonly faults: string[];
  /** The agent is started anew on the same machine, or after a reboot. */
  restart(how?: { reboot?: boolean; options?: Partial<TablesOptions> }): Stage;
  wait(seconds: number): Promise<void>;
}

export function stage(options: Partial<TablesOptions> = {}, before?: Stage, boot = "boot-1"): Stage {
  const kernel = before?.kernel ?? new FakeKernel();
  const disk = before?.disk ?? new FakeDisk();
  const clock = before?.clock ?? {
    nowMs: 5_000_000,
    now() {
      return this.nowMs;
    },
  };
  const heard: string[] = [];
  const faults: string[] = [];
  const tables = new Tables(
    clock,
    {
      ...{
        first: 10_000,
        count: 8,
        families: ["inet", "inet6", "unspec"],
        lifetimeMs: 100_000,
        restMs: 60_000,
      },
      ...{ boot, steers: kernel, keep: (records: readonly Json[]) => disk.keep(boot, records) },
      notify: (kind: NewsKind, lease: TableLease, by?: string) =>
        heard.push(`${kind} ${lease.note.key.family} ${lease.value}${by === undefined ? "" : ` ${by}`}`),
      onFault: (fault: Fault) => faults.push(fault.message),
      ...options,
    },
    disk.saved,
  );
  const made: Stage = {
    ...{ tables, kernel, disk, clock, heard, faults },
    restart({ reboot = false, options: more = {} } = {}) {
      if (reboot) clock.nowMs = 10_000;
      return stage({ ...options, ...more }, made, reboot ? `${boot}+` : boot);
    },
    async wait(seconds) {
      clock.nowMs += seconds * 1_000;
      tables.tick();
      await tables.settled();
    },
  };
  return made;
}

export const wish = (more: Partial<Wish> = {}): Wish => ({
  ...{ owner: "root", lifetimeMs: 100_000, follow: false, steer: "none", routes: false },
  ...{ prefixLength: undefined, label: "" },
  ...more,
});
