/**
 * What our web server offers of LuCI's own calls, beside the methods of the agent: nothing that no page of ours uses.
 *
 * On a router, the package luci-base grants these; which configuration they may touch is said by our access rules.
 */

import type { JsonObject } from "../../src/lib/json.ts";

/** Methods of rpcd's object `uci`, by the right that they need. */
export const uciCalls: Readonly<Record<string, "read" | "write">> = {
  get: "read",
  changes: "read",
  add: "write",
  set: "write",
  delete: "write",
  revert: "write",
  apply: "write",
  confirm: "write",
};

/** What a real LuCI asks of the router before it shows any page, with an answer that will do. */
export const frameCalls: Readonly<Record<string, JsonObject>> = {
  "luci getFeatures": {},
  "uci get luci": { values: {} },
  "uci get network": { values: {} },
  "file list": { entries: [] },
  "luci getConntrackHelpers": { result: [] },
};
