/**
 * SPIN's JSON-RPC through the bus: the method `rpc` of the object `spin`.
 *
 *     ubus call spin rpc '{"method":"list_devices","params":{}}'   →   {"result":[…]} or {"error":{…}}
 *
 * Version and id are neither asked for nor sent back, as in SPIN, whose policy for this method is empty: any
 * argument goes. An answer that no message of the bus can hold is an error, not a part of it.
 */

import type { JsonObject } from "../lib/json.ts";
import { answerBytes, type Methods, maxAnswerBytes } from "../ubus/methods.ts";
import { type Answer, refusal } from "./calls.ts";
import type { Rpc } from "./rpc.ts";

/** The entry `rpc` for the table of the object `spin`. */
export function rpcMethods(rpc: Rpc): Methods {
  return {
    rpc: {
      args: {},
      anyArguments: true,
      access: "write",
      doc: "SPIN's JSON-RPC: takes method and params, answers result or error; list_rpc_methods names all.",
      async call(args) {
        const answer: Answer = await rpc.answer(args);
        const isTooLarge = !("error" in answer) && answerBytes(answer.result ?? null) > maxAnswerBytes;
        const given = isTooLarge ? refusal("Result is too large for a message of the bus") : answer;
        return given as JsonObject;
      },
    },
  };
}
