/**
 * Names of running labs: who has which, and where its processes are.
 *
 * A lab holds the lock (flock(2)) of its file /run/gatehouse-lab-NAME.json for as long as its foreground process
 * lives, so a name is free again the moment that ends, however it ends. What the file says of processes counts
 * only together with when they started: a process id that has been reused is not believed. After `kill -9`
 * the file is all that is left; whoever claims a name next removes it.
 */

import { spawnSync } from "node:child_process";
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";

/** A process and the instant it started, in clock ticks since boot: together they are one process only. */
export interface ProcessId {
  readonly pid: number;
  readonly startedAt: number;
}

export interface RunningLab {
  readonly name: string;
  /** The process in the foreground, which ends the lab when asked to. */
  readonly foreground: ProcessId;
  /** The first process of its enclosure; undefined while the network is being built. */
  readonly enclosure: ProcessId | undefined;
  readonly hosts: readonly string[];
}

const folder = "/run";
const prefix = "gatehouse-lab-";
const pathOf = (name: string) => `${folder}/${prefix}${name}.json`;

/** @throws RangeError for what cannot be a lab's name. */
export function checkName(name: string): string {
  if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(name)) {
    throw new RangeError(
      `Cannot use lab name ${JSON.stringify(name)}: lower-case letters, digits and - only`,
    );
  }
  return name;
}

/** A process as it is now, or undefined if there is none, or only its remains (proc_pid_stat(5)). */
export function processOf(pid: number): ProcessId | undefined {
  try {
    // The program's name, in brackets, may hold anything: what follows starts at the last bracket.
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : { pid, startedAt: Number(fields[19]) };
  } catch {
    return undefined;
  }
}

export function isAlive(process: ProcessId): boolean {
  return processOf(process.pid)?.startedAt === process.startedAt;
}

/** Ids of a process' children. */
export function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** A lab's name while this process holds it. */
export class Claim {
  readonly name: string;
  readonly #file: number;

  private constructor(name: string, file: number) {
    this.name = name;
    this.#file = file;
    this.tell(undefined, []);
  }

  /** Takes the name, or without one the first of lab, lab-2, lab-3 … that is free. Undefined: it is taken. */
  static take(name: string | undefined): Claim | undefined {
    sweep();
    if (name !== undefined) {
      const file = lock(checkName(name));
      return file === undefined ? undefined : new Claim(name, file);
    }
    for (let number = 1; ; number++) {
      const free = number === 1 ? "lab" : `lab-${number}`;
      const file = lock(free);
      if (file !== undefined) return new Claim(free, file);
    }
  }

  /** Writes down where the lab is. */
  tell(enclosure: ProcessId | undefined, hosts: readonly string[]): void {
    const lab: RunningLab = { name: this.name, foreground: processOf(process.pid)!, enclosure, hosts };
    ftruncateSync(this.#file, 0);
    writeSync(this.#file, `${JSON.stringify(lab)}\n`, 0);
  }

  release(): void {
    unlinkSync(pathOf(this.name));
    closeSync(this.#file);
  }
}

/** Opens and locks the file of a name. Undefined if somebody else has it. */
function lock(name: string): number | undefined {
  for (;;) {
    if (find(name) !== undefined) return undefined;
    const file = openSync(pathOf(name), "a+", 0o644);
    // The lock belongs to what we have opened, not to the program that asks for it.
    // Whoever sweeps holds it for a moment only.
    const asked = spawnSync("flock", ["--timeout", "1", "3"], {
      stdio: ["ignore", "ignore", "inherit", file],
    });
    const held = asked.status === 0;
    // Its last owner may have removed it between our opening and locking it: then it is nobody's any more.
    const same = statSync(pathOf(name), { throwIfNoEntry: false })?.ino === fstatSync(file).ino;
    if (held && same) return file;
    closeSync(file);
    if (asked.error !== undefined) throw asked.error;
    if (!held) return undefined;
  }
}

function names(): string[] {
  return readdirSync(folder)
    .filter((file) => file.startsWith(prefix) && file.endsWith(".json"))
    .map((file) => file.slice(prefix.length, -".json".length))
    .sort();
}

/** Removes what labs that were killed have left. */
function sweep(): void {
  for (const name of names()) {
    if (find(name) !== undefined) continue;
    const file = lock(name);
    if (file === undefined) continue;
    unlinkSync(pathOf(name));
    closeSync(file);
  }
}

function find(name: string): RunningLab | undefined {
  try {
    const lab = JSON.parse(readFileSync(pathOf(name), "utf8")) as RunningLab;
    return isAlive(lab.foreground) ? lab : undefined;
  } catch {
    return undefined; // Not there, or just being made.
  }
}

/** All labs that run on this machine, by name. */
export function runningLabs(): RunningLab[] {
  return names().flatMap((name) => find(name) ?? []);
}
