/**
 * An object that we publish: its signature, what an Invoke of it runs, and how much may run at once.
 *
 * Arguments reach a method as C servers take them: by name and exact type, everything else left out (that is
 * also what becomes of `ubus_rpc_session`, which the web server adds to every call).
 */

import { Fault } from "../lib/fault.ts";
import { isObject, type Json, type JsonObject } from "../lib/json.ts";
import { BlobType, decodeFields, encodeFields, type Field, fieldsOf, jsonOfField } from "./blob.ts";
import type { Attributes } from "./message.ts";
import type { ArgumentType, Method, Methods } from "./methods.ts";
import { Status, statusOf } from "./status.ts";

const blobTypes: Readonly<Record<ArgumentType, number>> = {
  Boolean: BlobType.Int8,
  Integer: BlobType.Int32,
  String: BlobType.String,
  Array: BlobType.Array,
  Table: BlobType.Table,
};

/** What a call is answered with. */
export interface Outcome {
  readonly status: number;
  readonly data?: Uint8Array;
}

/** How many calls run, of each caller and in all, so that no caller takes everything. */
export class Running {
  readonly #maxPerCaller: number;
  readonly #maxInAll: number;
  readonly #byCaller = new Map<number, number>();
  #inAll = 0;

  constructor(limits: { readonly perCaller: number; readonly inAll: number }) {
    this.#maxPerCaller = limits.perCaller;
    this.#maxInAll = limits.inAll;
  }

  /** Whether another call of this caller may run. */
  admits(caller: number): boolean {
    return this.#inAll < this.#maxInAll && (this.#byCaller.get(caller) ?? 0) < this.#maxPerCaller;
  }

  /** A call runs until the promise settles. */
  hold(caller: number, call: Promise<unknown>): void {
    this.#inAll++;
    this.#byCaller.set(caller, (this.#byCaller.get(caller) ?? 0) + 1);
    const release = () => {
      this.#inAll--;
      const left = this.#byCaller.get(caller)! - 1;
      if (left > 0) this.#byCaller.set(caller, left);
      else this.#byCaller.delete(caller);
    };
    call.then(release, release);
  }
}

interface Entry {
  readonly method: Method;
  /** Argument name → the type that it must have. */
  readonly types: ReadonlyMap<string, number>;
}

export class Publication {
  readonly name: string;
  /** The payload of a SIGNATURE attribute. */
  readonly signature: Uint8Array;
  readonly #entries = new Map<string, Entry>();
  readonly #onDefect: (line: string) => void;

  /** @param onDefect told of what a method throws that is no Fault. */
  constructor(name: string, methods: Methods, onDefect: (line: string) => void) {
    this.name = name;
    this.#onDefect = onDefect;
    const signature: Field[] = [];
    for (const [methodName, method] of Object.entries(methods)) {
      const types = new Map(Object.entries(method.args).map(([arg, type]) => [arg, blobTypes[type]]));
      this.#entries.set(methodName, { method, types });
      signature.push({
        name: methodName,
        type: BlobType.Table,
        value: [...types].map(([arg, type]) => ({ name: arg, type: BlobType.Int32, value: type })),
      });
    }
    this.signature = encodeFields(signature);
  }

  /** Runs the method that an Invoke names; looks at its attributes before it returns, not later. */
  run(attributes: Attributes): Outcome | Promise<Outcome> {
    const { method: name, data, user, group } = attributes;
    const entry = name === undefined ? undefined : this.#entries.get(name);
    if (!entry) return { status: Status.MethodNotFound };
    const args = data && takeArguments(data, entry);
    if (!args) return { status: Status.InvalidArgument };
    try {
      const result = entry.method.call(args, { user, group });
      if (!(result instanceof Promise)) return outcomeOf(result);
      return result.then(outcomeOf).catch((thrown) => this.#failure(name!, thrown));
    } catch (thrown) {
      return this.#failure(name!, thrown);
    }
  }

  #failure(method: string, thrown: unknown): Outcome {
    if (!(thrown instanceof Fault)) {
      this.#onDefect(`Cannot answer ${this.name} ${method}: ${thrown}`);
    }
    return { status: statusOf(thrown) };
  }
}

/**
 * The first argument of each name that has the right type, as libubox picks them, or any type where the method
 * takes any; undefined if the bytes are no fields.
 */
function takeArguments(
  data: Uint8Array,
  { method: { anyArguments }, types }: Entry,
): Readonly<Record<string, Json>> | undefined {
  const args: Record<string, Json> = Object.create(null);
  try {
    for (const field of decodeFields(data)) {
      const isTaken = anyArguments || types.get(field.name) === field.type;
      if (isTaken && !(field.name in args)) args[field.name] = jsonOfField(field);
    }
  } catch {
    return undefined;
  }
  return args;
}

function outcomeOf(result: Json | undefined): Outcome {
  if (result === undefined) return { status: Status.Ok };
  if (!isObject(result)) throw new TypeError("a method's result is a JSON object or undefined");
  return { status: Status.Ok, data: encodeFields(fieldsOf(result as JsonObject)) };
}
