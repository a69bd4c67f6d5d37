/**
 * SPIN's JSON-RPC: one request in, at most one answer out, whatever carries them.
 *
 *     {"jsonrpc":"2.0","id":7,"method":"list_iplist","params":{"list":"block"}}
 *     {"jsonrpc":"2.0","id":7,"result":["10.77.0.12"]}
 *     {"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"Wrong type of argument"}}
 *
 * Keeps nothing but the door that decides. Codes and messages are SPIN's wherever SPIN has one, also 1 for text
 * that is no JSON and for batches, which it does not take. What differs, and why:
 *
 * - Blocking a pair with an unknown node, or a node from itself, is an error; SPIN said done and did nothing.
 *   Unblocking what is not blocked stays a success: it is as asked.
 * - Names of lists are whole names; to SPIN every beginning of one was one, also "", which then was broadcast.
 * - A prefix stays a prefix; SPIN cut it to its first address. A length of 0, which to SPIN was one address and
 *   to everybody else is all of them, is refused.
 * - `node_add_ip` for a new node answers `{"id":N}`; SPIN's callers could not learn the number.
 * - A blocked partner in `list_device_flows` has port 0; SPIN showed what was on its stack.
 * - Counters are exact up to 2⁵³ − 1, where they stay; SPIN's turned negative at 2³¹.
 * - A request without `id` that is well formed is a notification, and never answered; SPIN answered with a bare
 *   result. One that is not well formed is answered, without `id`, as SPIN does.
 * - A name that is too long or has control characters is refused; SPIN cut it, and wrote a second line of it into
 *   its file of names.
 * - Any number of parameters is counted, not stored: SPIN wrote past its hundred.
 * - A machine that does not do what was decided is error -32603, with what it said; SPIN did not look.
 * - Text is bounded in size and in nesting (SPIN: 4,096 bytes).
 */

import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type Json, type JsonObject } from "../lib/json.ts";
import { type Answer, type Call, calls, refusal, type Turn, takeArguments } from "./calls.ts";
import type { SpinDoor } from "./door.ts";
import { nestingOf } from "./frame.ts";

/** A request is at most this long, on every way in. */
export const maxRequestBytes = 64 * 1024;
/** As deep as JSON libraries of routers go. */
const maxNesting = 32;
const internalError = -32_603;

/** A request that waits to be run. */
export interface Request {
  readonly turn: Turn;
  /** Runs it, once; the answer without a newline, or undefined if there is none to send. Never fails. */
  run(): string | undefined | Promise<string | undefined>;
}

/** Faults that the caller's arguments, not the machine, are the reason of. */
const causedByCaller: readonly string[] = ["invalid", "not-found", "conflict", "denied", "limit"];
const decoder = new TextDecoder("utf-8", { fatal: true });
const wrongVersion = refusal("Wrong JSON-RPC version, expected 2.0", 1);

export class Rpc {
  readonly #door: SpinDoor;
  readonly #log: (line: string) => void;

  /** @param log told of defects: what a door throws that is no Fault. */
  constructor(door: SpinDoor, log: (line: string) => void) {
    this.#door = door;
    this.#log = log;
  }

  /** Reads the bytes of one request. */
  read(bytes: Uint8Array): Request {
    if (bytes.length > maxRequestBytes) return oversize;
    let text: string;
    try {
      text = decoder.decode(bytes);
    } catch {
      return garbage;
    }
    return this.open(text);
  }

  /** Reads a request. Whatever the text is, running what comes back gives the answer to it. */
  open(text: string): Request {
    if (text.length > maxRequestBytes) return oversize;
    if (nestingOf(text) > maxNesting) return refused(refusal("Request is nested too deeply", 1));
    const request = parse(text);
    if (!isObject(request)) return refused(wrongVersion);
    const id = Object.hasOwn(request, "id") ? idOf(request.id as Json, text) : undefined;
    const envelope = readEnvelope(request as JsonObject);
    if ("error" in envelope) return refused(envelope, id);
    const render = (answer: Answer) => (id === undefined ? undefined : renderAnswer(answer, id));
    return {
      turn: envelope.call?.turn ?? "look",
      run: () => {
        const answer = this.#run(envelope);
        return answer instanceof Promise ? answer.then(render) : render(answer);
      },
    };
  }

  /** Answers a request that came as an object, with or without version and id, by its result or error alone. */
  answer(request: JsonObject): Answer | Promise<Answer> {
    const envelope = readEnvelope(
      Object.hasOwn(request, "jsonrpc") ? request : { ...request, jsonrpc: "2.0" },
    );
    return "error" in envelope ? envelope : this.#run(envelope);
  }

  #run({ call, params }: Envelope): Answer | Promise<Answer> {
    if (call === undefined) return refusal("No such function registered");
    const args = takeArguments(call, params);
    if ("error" in args) return args;
    try {
      const answer = call.run(this.#door, args);
      return answer instanceof Promise ? answer.catch((thrown) => this.#failure(thrown)) : answer;
    } catch (thrown) {
      return this.#failure(thrown);
    }
  }

  #failure(thrown: unknown): Answer {
    if (!(thrown instanceof Fault)) {
      this.#log(`Cannot answer JSON-RPC: ${messageOf(thrown)}`);
      return refusal("Internal error", internalError);
    }
    return refusal(thrown.message, causedByCaller.includes(thrown.code) ? -1 : internalError);
  }
}

/** A request that is answered with an error whatever happens. @param id as JSON text. */
function refused(error: Answer, id?: string): Request {
  return { turn: "look", run: () => renderAnswer(error, id) };
}

/** What is answered to bytes that are no request. */
export const garbage: Request = refused(wrongVersion);
/** What is answered to bytes that are too many for a request. */
export const oversize: Request = refused(refusal("Request is too large", 1));

interface Envelope {
  /** Undefined: there is no such method. */
  readonly call: Call | undefined;
  readonly params: JsonObject;
}

function readEnvelope(request: JsonObject): Envelope | ReturnType<typeof refusal> {
  if (own(request, "jsonrpc") !== "2.0") return wrongVersion;
  const method = own(request, "method");
  if (typeof method !== "string") return refusal("'method' object must be a string", 2);
  const params = own(request, "params") ?? (Object.hasOwn(request, "params") ? null : {});
  if (!isObject(params)) return refusal("'params' object must be a dict", 3);
  return { call: calls.get(method), params: params as JsonObject };
}

/** A member of an object from outside, where `constructor` is a name like any other. */
function own(object: JsonObject, name: string): Json | undefined {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** An id as the text that is sent back: a number that JavaScript would round goes back digit for digit. */
function idOf(id: Json, text: string): string {
  if (typeof id === "number" && !Number.isSafeInteger(id)) {
    // Inside a string the quotes would be escaped, so this finds members only.
    for (const [, digits] of text.matchAll(/"id"\s*:\s*(-?\d+)(?=[\s,}])/g)) {
      if (Number(digits) === id) return digits!;
    }
  }
  return JSON.stringify(id);
}

function renderAnswer(answer: Answer, id?: string): string {
  const head = id === undefined ? '{"jsonrpc":"2.0"' : `{"jsonrpc":"2.0","id":${id}`;
  const body = JSON.stringify(answer);
  return body === "{}" ? `${head}}` : `${head},${body.slice(1)}`;
}
