/**
 * The command line against recordings of the real `ubus`: what it prints, how it ends, what it says to the bus.
 *
 * Our bus serves a real socket. The other programs of a recording are played from it; commands run in this
 * process, those of other users through a process of that user.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { createConnection, type Socket } from "node:net";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { runCli } from "../../src/cli/cli.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Stream, StreamHandlers, System } from "../../src/system/system.ts";
import { type Bus, openBus } from "../../src/ubus/bus.ts";
import { countingIds } from "../ubus/stage.ts";

interface Command {
  readonly argv: readonly string[];
  readonly exit: number;
  readonly stdout?: string;
  readonly stderr?: string;
}

interface Recording {
  readonly name: string;
  readonly uids: Readonly<Record<string, number>>;
  readonly acl?: unknown;
  readonly messages: readonly (readonly [string, string, string])[];
}

const commands: Readonly<Record<string, Record<string, Command>>> = JSON.parse(
  readFileSync("test/cli/fixtures/recorded.json", "utf8"),
);
const recordings = (
  JSON.parse(readFileSync("test/ubus/fixtures/bus/recorded.json", "utf8")) as Recording[]
).filter((recording) => recording.name in commands);

const expand = (text: string) =>
  text.replace(/\((..?)\)\*(\d+) /g, (_, part: string, count: string) => part.repeat(Number(count)));
const bytesOf = (hex: string) => Buffer.from(expand(hex), "hex");

const scratch = process.env.TMPDIR!;
const linux = openLinux({ nativePath: `${process.cwd()}/dist/netio.node`, log: () => {} });

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 8000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`It never happened that ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** A program at the bus, with what it has read and written. */
interface Player {
  receivedBytes: number;
  readonly sent: Uint8Array[];
  close(): Promise<void>;
}

/** Somebody else's end of a connection, opened by a process of that user. */
function relay(path: string, uid: number): ChildProcess {
  return spawn("socat", ["-", `UNIX-CONNECT:${path}`], { uid, gid: uid, stdio: ["pipe", "pipe", "ignore"] });
}

class RawPlayer implements Player {
  receivedBytes = 0;
  readonly sent: Uint8Array[] = [];
  #closed = false;
  readonly #socket: Socket | undefined;
  readonly #child: ChildProcess | undefined;

  constructor(path: string, uid: number) {
    if (uid === 0) this.#socket = createConnection(path);
    else this.#child = relay(path, uid);
    const input = this.#socket ?? this.#child!.stdout!;
    input.on("data", (chunk: Buffer) => {
      this.receivedBytes += chunk.length;
    });
    input.on("error", () => {});
    input.on("close", () => {
      this.#closed = true;
    });
  }

  write(bytes: Uint8Array): void {
    (this.#socket ?? this.#child!.stdin!).write(bytes);
  }

  async close(): Promise<void> {
    this.#socket?.destroy();
    this.#child?.kill();
    await until("a connection closed", () => this.#closed);
  }
}

class CommandPlayer implements Player {
  receivedBytes = 0;
  readonly sent: Uint8Array[] = [];
  stdout = "";
  stderr = "";
  readonly status: Promise<number>;
  #signal = () => {};

  constructor(argv: readonly string[], path: string, uid: number) {
    const system: System = {
      ...linux,
      connect: (_path: string, handlers: StreamHandlers) => this.#connect(path, uid, handlers),
    };
    this.status = runCli(argv, system, {
      stdout: (text) => {
        this.stdout += text;
      },
      stderr: (text) => {
        this.stderr += text;
      },
      stdoutIsTty: false,
      stderrIsTty: false,
      version: "test",
      onSignal: (call) => {
        this.#signal = call;
        return () => {};
      },
    });
  }

  async close(): Promise<void> {
    this.#signal();
    await this.status;
  }

  #connect(path: string, uid: number, handlers: StreamHandlers): Stream {
    const tapped: StreamHandlers = {
      ...handlers,
      onBytes: (bytes) => {
        this.receivedBytes += bytes.length;
        handlers.onBytes(bytes);
      },
    };
    const inner = uid === 0 ? linux.connect(path, tapped) : relayStream(relay(path, uid), tapped);
    const { sent } = this;
    return {
      peer: undefined,
      get queuedBytes() {
        return inner.queuedBytes;
      },
      write(bytes) {
        sent.push(bytes.slice());
        return inner.write(bytes);
      },
      pause: () => inner.pause(),
      resume: () => inner.resume(),
      end: () => inner.end(),
      close: () => inner.close(),
    };
  }
}

function relayStream(child: ChildProcess, handlers: StreamHandlers): Stream {
  child.stdout!.on("data", (chunk: Buffer) => handlers.onBytes(new Uint8Array(chunk)));
  child.stdin!.on("error", () => {});
  child.on("close", () => handlers.onClose());
  return {
    peer: undefined,
    queuedBytes: 0,
    write: (bytes) => child.stdin!.write(bytes),
    pause: () => void child.stdout!.pause(),
    resume: () => void child.stdout!.resume(),
    end: () => void child.stdin!.end(),
    close: () => void child.kill(),
  };
}

/** Requests in which ours may differ from the real one, with the reason. */
function sameRequests(sent: Buffer, recorded: readonly Buffer[], command: string): void {
  const expected = recorded.filter((bytes) => {
    const [type, peer] = [bytes[1]!, bytes.readUInt32BE(4)];
    // The real one answers events, which the bus drops.
    if (type === 1 && peer === 0) return false;
    // It sends whatever its buffer held as the arguments of calls of the monitor object.
    if (type === 5 && peer === 3) return false;
    // It goes on with an id that it never got, where a lookup told of nothing.
    if (type === 5 && peer === 0x7fff) return false;
    return !(type === 8 && bytes.readUInt32BE(bytes.length - 4) === 0);
  });
  const mine: Buffer[] = [];
  for (let at = 0; at < sent.length; ) {
    const end = at + 8 + (sent.readUInt32BE(at + 8) & 0xffffff);
    if (!(sent[at + 1] === 5 && sent.readUInt32BE(at + 4) === 3)) mine.push(sent.subarray(at, end));
    at = end;
  }
  const hex = (all: readonly Buffer[]) => all.map((bytes) => bytes.toString("hex"));
  assert.equal(hex(mine), hex(expected), `${command}: what it sends`);
}

async function play(recording: Recording): Promise<void> {
  const directory = `${scratch}/${recording.name}`;
  const path = `${directory}/ubus.sock`;
  await mkdir(`${directory}/acl`, { recursive: true });
  if (recording.acl) writeFileSync(`${directory}/acl/a.json`, JSON.stringify(recording.acl), { mode: 0o644 });
  const open = (): Promise<Bus> =>
    openBus(linux, { path, aclDirectory: `${directory}/acl`, newId: countingIds() });
  let bus = await open();
  const players = new Map<string, Player>();
  const expectedBytes = new Map<string, number>();
  const caughtUp = () =>
    until("everybody had read", () =>
      [...players].every(([name, player]) => player.receivedBytes >= (expectedBytes.get(name) ?? 0)),
    );
  const commandOf = (name: string) => commands[recording.name]![name];
  try {
    for (const [name, direction, hex] of recording.messages) {
      const command = commandOf(name);
      if (direction === "OPEN") {
        await caughtUp();
        const uid = recording.uids[name] ?? 0;
        players.set(name, command ? new CommandPlayer(command.argv, path, uid) : new RawPlayer(path, uid));
      } else if (direction === "S2C") {
        // What a command is told about an object that it never asked for is missing.
        const odd = name === "call" && recording.name.startsWith("24") && hex.includes("00007fff");
        const zero = name === "subscribe" && recording.name.startsWith("24") && hex.startsWith("00010003");
        if (!odd && !zero) {
          expectedBytes.set(name, (expectedBytes.get(name) ?? 0) + bytesOf(hex).length);
        }
      } else if (direction === "C2S" && !command) {
        await caughtUp();
        (players.get(name) as RawPlayer).write(bytesOf(hex));
      } else if (direction === "CLOSE_BY_CLIENT") {
        await caughtUp();
        const player = players.get(name)!;
        const stdout = expand(command?.stdout ?? "");
        if (player instanceof CommandPlayer) {
          let ended = false;
          void player.status.finally(() => {
            ended = true;
          });
          // A command that waits for more is ended when it has printed everything; others end by themselves.
          const waits = ["listen", "subscribe", "monitor"].some((verb) => command!.argv.includes(verb));
          await until(
            `${name} printed everything`,
            () => ended || (waits && player.stdout.length >= stdout.length),
          );
        }
        await player.close();
        players.delete(name);
        expectedBytes.delete(name);
        if (player instanceof CommandPlayer) {
          const label = `${recording.name}: ${name}`;
          const [expected = "", usage] = (command!.stderr ?? "").split("Usage: ubus");
          assert.is(player.stdout, stdout, `${label}: stdout`);
          if (usage === undefined) assert.is(player.stderr, expected, `${label}: stderr`);
          else assert.ok(player.stderr.startsWith(`${expected}Usage: gatehouse`), `${label}: stderr`);
          assert.is(await player.status, command!.exit, `${label}: exit status`);
          const recorded = recording.messages
            .filter(([connection, direction]) => connection === name && direction === "C2S")
            .map(([, , text]) => bytesOf(text));
          sameRequests(Buffer.concat(player.sent), recorded, label);
        }
      } else if (direction === "CLOSE_BY_UBUSD") {
        await bus.close();
        await players.get(name)!.close();
        players.delete(name);
        expectedBytes.delete(name);
        bus = await open();
      }
    }
  } finally {
    for (const player of players.values()) await player.close().catch(() => {});
    await bus.close();
    await rm(directory, { recursive: true, force: true });
  }
}

for (const recording of recordings) {
  const tried = Object.values(commands[recording.name]!).map((command) => command.argv.slice(2).join(" "));
  const shown = tried.map((text) => (text.length > 40 ? `${text.slice(0, 40)}…` : text));
  test(`runCli does as ubus in ${recording.name}: ${shown.slice(0, 4).join(" | ")}`, () => play(recording));
}

test.run();
