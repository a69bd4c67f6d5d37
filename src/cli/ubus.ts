/**
 * The verbs of the real `ubus`: same output, same messages, same exit statuses.
 *
 * An outcome is what the real program's verbs return: 0, a status of the bus, or below zero an error that was
 * reported already. A positive one is reported as "Command failed", -2 prints the usage text, and the shell sees
 * it modulo 256. A call that fails while standard error is no terminal reports itself and returns the status
 * negated: so a call that ends with "Invalid argument" prints the usage text as well.
 */

import { type Attributes, encodeFields, MessageType, Status, textOf } from "../ubus/ubus.ts";
import { parseFields } from "./json.ts";
import { checkTypes, formatSighting } from "./monitor.ts";
import { formatFields, formatMethod, readFields } from "./print.ts";
import { Talk } from "./talk.ts";
import { type CommandLine, type Context, type Flags, parseFlags, type Verb } from "./verb.ts";

const defaultTimeoutSeconds = 30;
/** What was wrong has been said. */
const reported = -1;
/** The operands make no sense. */
const misused = -2;

interface Task {
  readonly operands: readonly string[];
  readonly flags: Flags;
  readonly io: CommandLine;
  readonly talk: Talk;
}

/** The verbs by name, in the order of the usage text. */
export const ubusVerbs: ReadonlyMap<string, Verb> = new Map([
  verb("list [-v] [PATH]", "list objects; -v with their methods", list),
  verb("call OBJECT METHOD [JSON]", "call a method of an object", call),
  verb("subscribe PATH…", "print the notifications of objects", subscribe),
  verb("listen [PATTERN…]", "print events", listen),
  verb("send EVENT [JSON]", "send an event", send),
  verb("wait_for OBJECT…", "wait until all of the objects are there", waitFor),
  verb("monitor [-m TYPE] [-M r|t]", "print every message on the bus", monitor),
]);

function verb(
  synopsis: string,
  summary: string,
  act: (task: Task) => Promise<number> | number,
): [string, Verb] {
  const run = async (args: readonly string[], context: Context): Promise<number> => {
    const { flags, operands } = parseFlags(args, context.flags);
    checkTypes(flags.types);
    const { io, system } = context;
    const talk = await Talk.open(system, flags.socket);
    if (!talk) {
      if (!flags.simple) io.stderr("Failed to connect to ubus\n");
      return exitStatus(reported);
    }
    try {
      const outcome = await act({ operands, flags, io, talk });
      if (outcome > 0 && !flags.simple) io.stderr(`Command failed: ${textOf(outcome)}\n`);
      else if (outcome === misused) context.usage();
      return exitStatus(outcome);
    } finally {
      talk.close();
    }
  };
  return [synopsis.split(" ")[0]!, { synopsis, summary, run }];
}

function exitStatus(outcome: number): number {
  return outcome & 255;
}

function list({ operands, flags, io, talk }: Task): Promise<number> | number {
  if (operands.length > 1) return misused;
  return talk.lookup(operands[0], ({ path, objectId = 0, signature }) => {
    if (flags.simple || !flags.verbose) return io.stdout(`${path}\n`);
    const methods = signature ? readFields(signature) : [];
    const lines = methods.map((method) => `\t${formatMethod(method)}\n`);
    io.stdout(`'${path}' @${hex(objectId)}\n${lines.join("")}`);
  });
}

async function call(task: Task): Promise<number> {
  const { operands, flags, io, talk } = task;
  const [path, method, json] = operands;
  if (path === undefined || method === undefined || operands.length > 3) return misused;
  const data = encodeArguments(json);
  if (!data) return refuseCall(task, Status.ParseError);
  let objectId: number | undefined;
  const found = await talk.lookup(path, (attributes) => {
    objectId = attributes.objectId;
  });
  if (found !== Status.Ok) return found;
  // An object of which we may call nothing is found without being told.
  if (objectId === undefined) return refuseCall(task, Status.NotFound);
  const status = await talk.ask(
    { type: MessageType.Invoke, peer: objectId, attributes: { objectId, method, data } },
    {
      timeoutMs: 1000 * (flags.timeoutSeconds ?? defaultTimeoutSeconds),
      onData: (answer) => {
        if (answer.data) io.stdout(`${formatData(answer.data, !flags.simple)}\n`);
      },
    },
  );
  return status === Status.Ok ? status : refuseCall(task, status);
}

function refuseCall({ operands, flags, io }: Task, status: number): number {
  if (flags.simple || io.stderrIsTty) return status;
  io.stderr(`Command failed: ubus call ${operands.map((each) => `${each} `).join("")}(${textOf(status)})\n`);
  return -status;
}

async function send({ operands, talk }: Task): Promise<number> {
  const [event, json] = operands;
  if (event === undefined || operands.length > 2) return misused;
  try {
    return await talk.send(event, json === undefined ? [] : parseFields(json));
  } catch (thrown) {
    if (thrown instanceof SyntaxError) return Status.ParseError;
    throw thrown;
  }
}

async function listen(task: Task): Promise<number> {
  const { operands, io, talk } = task;
  const ear = await talk.addObject({ onInvoke: (attributes) => printEvent(io, attributes) });
  for (const pattern of operands.length > 0 ? operands : ["*"]) {
    const status = typeof ear === "number" ? await talk.register(ear, pattern) : ear.status;
    if (status !== Status.Ok) return refuseRegistration(task, pattern, status);
  }
  return untilTheEnd(task);
}

async function subscribe(task: Task): Promise<number> {
  const { operands, flags, io, talk } = task;
  const [first] = operands;
  if (first === undefined) {
    if (!flags.simple) io.stderr("You need to specify an object to subscribe to\n");
    return reported;
  }
  const ear = await talk.addObject({
    onInvoke: (attributes, from) => {
      printEvent(io, attributes);
      if (!attributes.noReply) talk.answer(from, Status.Ok);
    },
  });
  for (const path of operands) {
    const status = typeof ear === "number" ? await talk.subscribe(ear, path) : ear.status;
    // The real one names the first object, whichever it was.
    if (status !== Status.Ok) return refuseRegistration(task, first, status);
  }
  return untilTheEnd(task);
}

function refuseRegistration({ flags, io }: Task, name: string, status: number): number {
  if (!flags.simple) io.stderr(`Error while registering for event '${name}': ${textOf(status)}\n`);
  return reported;
}

function printEvent(io: CommandLine, { method, data }: Attributes): void {
  if (method !== undefined && data) io.stdout(`{ "${method}": ${formatData(data, false)} }\n`);
}

async function waitFor({ operands, flags, talk }: Task): Promise<number> {
  if (operands.length === 0) return misused;
  const pending = new Set(operands);
  let all = () => {};
  const seen = (path: string | undefined) => {
    if (path !== undefined && pending.delete(path) && pending.size === 0) all();
  };
  const ear = await talk.addObject({
    onInvoke: ({ method, data }) => {
      if (method !== "ubus.object.add" || !data) return;
      const path = readFields(data).find((field) => field.name === "path")?.value;
      seen(typeof path === "string" ? path : undefined);
    },
  });
  if (typeof ear !== "number") return ear.status;
  const status =
    (await talk.register(ear, "ubus.object.add")) || (await talk.lookup(undefined, ({ path }) => seen(path)));
  if (status !== Status.Ok || pending.size === 0) return status;
  const complete = new Promise<void>((resolve) => {
    all = resolve;
  });
  const end = await talk.until(complete, 1000 * (flags.timeoutSeconds ?? defaultTimeoutSeconds));
  if (end === "closed") return Status.ConnectionFailed;
  return end === "done" ? Status.Ok : Status.Timeout;
}

async function monitor(task: Task): Promise<number> {
  const { flags, io, talk } = task;
  talk.onMonitor = (message) => {
    const line = formatSighting(message, flags);
    if (line !== undefined) io.stdout(line);
  };
  const status = await talk.watch();
  // -t does not end it. The bus stops with the connection.
  return status || untilTheEnd({ ...task, flags: { ...flags, timeoutSeconds: undefined } });
}

/** Until the user or -t ends it. That the bus is gone is an error; the real one would wait for ever. */
async function untilTheEnd({ flags, io, talk }: Task): Promise<number> {
  let cancel = () => {};
  const signal = new Promise<void>((resolve) => {
    cancel = io.onSignal(resolve);
  });
  // 0 is no limit here.
  const end = await talk.until(signal, flags.timeoutSeconds ? 1000 * flags.timeoutSeconds : undefined);
  cancel();
  return end === "closed" ? Status.ConnectionFailed : Status.Ok;
}

/** The fields of a JSON text, encoded; undefined if it is none. */
function encodeArguments(json: string | undefined): Uint8Array | undefined {
  if (json === undefined) return new Uint8Array(0);
  try {
    return encodeFields(parseFields(json));
  } catch (thrown) {
    if (thrown instanceof SyntaxError) return undefined;
    throw thrown;
  }
}

function formatData(data: Uint8Array, indent: boolean): string {
  return formatFields(readFields(data), { indent });
}

function hex(id: number): string {
  return id.toString(16).padStart(8, "0");
}
