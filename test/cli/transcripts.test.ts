/**
 * The command line against recordings of the real `ubus`: what it prints, how it ends, what it says to the bus.
 *
 * Twice. Alone, on a machine in memory, each command is told what the real ubusd said. And together, over a real
 * socket that our bus serves: the other programs of a recording are played from it; commands run in this process,
 * those of other users through a process of that user.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { createConnection, type Socket } from "node:net";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { runCli } from "../../src/cli/cli.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Stream, StreamHandlers, System } from "../../src/system/system.ts";
import { type Bus, openBus } from "../../src/ubus/bus.ts";
import { decodeMessage, encodeMessage, MessageType } from "../../src/ubus/message.ts";
import { SystemObject } from "../../src/ubus/requests.ts";
import { type Memory, settle } from "../ubus/memory.ts";
import { type Cut, cuts, linesOf, perform, type Scene } from "../ubus/scene.ts";
import { countingIds } from "../ubus/stage.ts";
import {
  type Command,
  commandsOf,
  hexOf,
  type Line,
  readTranscript,
  type Transcript,
  transcriptNames,
} from "../ubus/transcript.ts";

const recordings = transcriptNames
  .map((name) => readTranscript(name))
  .filter((each) => commandsOf(each).length > 0);
const commands: ReadonlyMap<string, Command> = new Map(
  recordings.flatMap(commandsOf).map((command) => [command.of, command]),
);

const scratch = process.env.TMPDIR!;
const linux = openLinux({ nativePath: `${process.cwd()}/dist/netio.node`, log: () => {} });

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 60_000;
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

/** A run of our command line. */
class Run {
  stdout = "";
  stderr = "";
  ended = false;
  readonly status: Promise<number>;
  #signal = () => {};

  constructor(argv: readonly string[], system: System) {
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
    }).finally(() => {
      this.ended = true;
    });
  }

  /** As the user does who has seen enough. */
  interrupt(): void {
    this.#signal();
  }

  /** It has ended, and printed what the real one has. */
  async check({ of, stdout, stderr, exit }: Command): Promise<void> {
    const [expected = "", usage] = stderr.split("Usage: ubus");
    assert.is(this.stdout, stdout, `${of}: stdout`);
    if (usage === undefined) assert.is(this.stderr, expected, `${of}: stderr`);
    else assert.ok(this.stderr.startsWith(`${expected}Usage: gatehouse`), `${of}: stderr`);
    assert.is(await this.status, exit, `${of}: exit status`);
  }
}

class CommandPlayer implements Player {
  receivedBytes = 0;
  readonly sent: Uint8Array[] = [];
  readonly run: Run;

  constructor(argv: readonly string[], path: string, uid: number) {
    this.run = new Run(argv, {
      ...linux,
      connect: (_path: string, handlers: StreamHandlers) => this.#connect(path, uid, handlers),
    });
  }

  async close(): Promise<void> {
    this.run.interrupt();
    await this.run.status;
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

/** What the real one says and ours does not. */
function isLeftOut(bytes: Uint8Array): boolean {
  const { type, peer, attributes } = decodeMessage(bytes);
  // It answers events, which the bus drops.
  if (type === MessageType.Status && peer === 0) return true;
  // It goes on with an id that it never got, where a lookup told of nothing.
  if (type === MessageType.Invoke && peer === 0x7fff) return true;
  if (type === MessageType.Subscribe && attributes.target === 0) return true;
  // It stops a monitor whose connection ends with the next line.
  return peer === SystemObject.Monitor && attributes.method === "remove";
}

/** Whether a message of the bus answers a request that ours leaves out. */
function answersLeftOut(of: string, bytes: Uint8Array): boolean {
  const { type, seq, peer } = decodeMessage(bytes);
  if (type !== MessageType.Status) return false;
  return requestsOf(of).some((line) => {
    const request = decodeMessage(line.bytes);
    return (
      request.type !== MessageType.Status &&
      request.seq === seq &&
      request.peer === peer &&
      isLeftOut(line.bytes)
    );
  });
}

function requestsOf(of: string): Line[] {
  return linesOf(of).filter(({ dir }) => dir === "C2S");
}

/** As ours says it: the real one sends whatever its buffer held as the arguments of the monitor object. */
function asOurs(bytes: Uint8Array): Uint8Array {
  const message = decodeMessage(bytes);
  if (message.peer !== SystemObject.Monitor) return bytes;
  return encodeMessage({ ...message, attributes: { ...message.attributes, data: new Uint8Array(0) } });
}

/** Commands that go on until they are told to end, unless they cannot begin. */
function waits({ argv, exit }: Command): boolean {
  return exit === 0 && ["listen", "subscribe", "monitor"].some((verb) => argv.includes(verb));
}

// ---- alone: told what ubusd said ----

async function playAlone(command: Command, cut: Cut): Promise<void> {
  const requests = requestsOf(command.of);
  let run: Run | undefined;
  const scene: Scene = {
    of: command.of,
    ...(requests.some(({ bytes }) => isLeftOut(bytes)) && { omits: ({ bytes }) => isLeftOut(bytes) }),
    ...(requests.some(({ bytes }) => asOurs(bytes) !== bytes) && { instead: ({ bytes }) => asOurs(bytes) }),
    after: async (_peer, memory) => {
      if (waits(command)) {
        assert.not(run!.ended, `${command.of} goes on`);
        run!.interrupt();
      } else if (command.argv.includes("-t") && command.stderr.includes("Request timed out")) {
        const timeoutMs = 1000 * Number(command.argv[command.argv.indexOf("-t") + 1]);
        await memory.advance(timeoutMs - 1);
        assert.not(run!.ended, `${command.of} waits`);
        await memory.advance(1);
      }
      await settle();
      assert.ok(run!.ended, `${command.of} ends`);
      await run!.check(command);
    },
  };
  const act = (memory: Memory) => {
    run = new Run(command.argv, memory.system);
    return { played: run.status, close: () => {} };
  };
  await perform(scene, act, cut);
}

for (const command of commands.values()) {
  const text = command.argv.slice(2).join(" ");
  test(`runCli told by ubusd does as ubus in ${command.of}: ${text.slice(0, 40)}`, async () => {
    for (const cut of cuts) await playAlone(command, cut);
  });
}

// ---- together: at our bus ----

function sameRequests(sent: Buffer, recorded: readonly Uint8Array[], of: string): void {
  const expected = recorded.filter((bytes) => !isLeftOut(bytes)).map(asOurs);
  const mine: Uint8Array[] = [];
  for (let at = 0; at < sent.length; ) {
    const end = at + 8 + (sent.readUInt32BE(at + 8) & 0xffffff);
    mine.push(sent.subarray(at, end));
    at = end;
  }
  assert.equal(mine.map(hexOf), expected.map(hexOf), `${of}: what it sends`);
}

async function play(recording: Transcript): Promise<void> {
  const { name: of, acl, connections } = recording;
  const directory = `${scratch}/${of}`;
  const path = `${directory}/ubus.sock`;
  await mkdir(`${directory}/acl`, { recursive: true });
  if (acl) writeFileSync(`${directory}/acl/a.json`, JSON.stringify(acl), { mode: 0o644 });
  const open = (): Promise<Bus> =>
    openBus(linux, { path, aclDirectory: `${directory}/acl`, newId: countingIds() });
  let bus = await open();
  const players = new Map<string, Player>();
  const expectedBytes = new Map<string, number>();
  const caughtUp = () =>
    until("everybody had read", () =>
      [...players].every(([name, player]) => player.receivedBytes >= (expectedBytes.get(name) ?? 0)),
    );
  const commandOf = (name: string) => commands.get(`${of} ${name}`);
  try {
    for (const { conn: name, dir, bytes } of recording.lines) {
      const command = commandOf(name);
      if (dir === "OPEN") {
        await caughtUp();
        const uid = connections[name]?.uid ?? 0;
        players.set(name, command ? new CommandPlayer(command.argv, path, uid) : new RawPlayer(path, uid));
      } else if (dir === "S2C") {
        // What a command is told of a request that ours leaves out is missing.
        if (!command || !answersLeftOut(command.of, bytes)) {
          expectedBytes.set(name, (expectedBytes.get(name) ?? 0) + bytes.length);
        }
      } else if (dir === "C2S" && !command) {
        await caughtUp();
        (players.get(name) as RawPlayer).write(bytes);
      } else if (dir === "CLOSE_BY_CLIENT") {
        await caughtUp();
        const player = players.get(name)!;
        if (command && player instanceof CommandPlayer) {
          // A command that waits for more is ended when it has printed everything; others end by themselves.
          const { run } = player;
          await until(
            `${name} printed everything`,
            () => run.ended || (waits(command) && run.stdout.length >= command.stdout.length),
          );
        }
        await player.close();
        players.delete(name);
        expectedBytes.delete(name);
        if (command && player instanceof CommandPlayer) {
          await player.run.check(command);
          const recorded = requestsOf(command.of).map((line) => line.bytes);
          sameRequests(Buffer.concat(player.sent), recorded, command.of);
        }
      } else if (dir === "CLOSE_BY_UBUSD") {
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
  const tried = commandsOf(readTranscript(recording.name)).map(({ argv }) => argv.slice(2).join(" "));
  const shown = tried.map((text) => (text.length > 40 ? `${text.slice(0, 40)}…` : text));
  test(`runCli does as ubus in ${recording.name}: ${shown.slice(0, 4).join(" | ")}`, () => play(recording));
}

test.run();
