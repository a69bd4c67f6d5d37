/** Status codes, their texts and faults. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault, type FaultCode } from "../../src/lib/fault.ts";
import { faultOf, Status, statusOf, textOf } from "../../src/ubus/status.ts";
import { readTranscript } from "./transcript.ts";

test("the codes are those of the wire", () => {
  assert.equal(Object.values(Status), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
});

test("textOf says what the real command line says", () => {
  let compared = 0;
  for (const [conn, { stderr }] of Object.entries(readTranscript("10-error-statuses").connections)) {
    const code = /^status(-?\d+)$/.exec(conn)?.[1];
    if (code === undefined) continue;
    assert.match(stderr!, `(${textOf(Number(code))})`);
    compared++;
  }
  assert.is(compared, 15);
  assert.is(textOf(0), "Success");
});

test("statusOf and faultOf agree, as far as ubus has a code for it", () => {
  const codes: FaultCode[] = [
    "invalid",
    "not-found",
    "denied",
    "limit",
    "timeout",
    "closed",
    "kernel",
    "unsupported",
  ];
  for (const code of codes) assert.is(faultOf(statusOf(new Fault(code, "x")), "Cannot x").code, code);
  assert.is(statusOf(new Fault("conflict", "x")), Status.InvalidArgument);
  assert.is(statusOf(new Fault("storage", "x")), Status.SystemError);
  assert.is(statusOf(new TypeError("x")), Status.UnknownError);
  assert.is(statusOf("x"), Status.UnknownError);
  for (const status of [1, 5, 9, 12, 14, -1, 2147483647]) assert.instance(faultOf(status, "Cannot x"), Fault);
  assert.is(faultOf(20, "Cannot call a b").message, "Cannot call a b: Unknown error: 20");
});

test.run();
