/** The MQTT session's secrets: from files that nobody else may read, or no session. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { brokerOf } from "../../src/agent/broker.ts";
import { loadConfig } from "../../src/config/config.ts";
import { Machine } from "../fake/machine.ts";

async function secretsOf(lines: string, files: Readonly<Record<string, readonly [string, number]>> = {}) {
  const machine = new Machine();
  for (const [path, [text, mode]] of Object.entries(files)) machine.put(path, text, mode);
  const { config, warnings } = loadConfig(`config mqtt\n${lines}`);
  assert.equal(warnings, []);
  const broker = await brokerOf(machine, config.mqtt);
  return { broker, machine, secrets: () => broker.secrets!() };
}

test("brokerOf says what is configured, with a client id of our own, and plain TCP by default", async () => {
  const { broker, secrets } = await secretsOf("option version 5\noption user us\noption keepalive 9");
  assert.match(broker.clientId, /^gatehouse-[0-9a-f]{12}$/);
  assert.equal([broker.version, broker.username, broker.keepaliveSeconds], ["5", "us", 9]);
  assert.equal(await secrets(), {});
});

test("secrets are read from their files anew each time", async () => {
  const { machine, secrets } = await secretsOf(
    "option tls 1\noption user us\noption password_file /p\noption ca_file /ca\noption cert_file /c\noption key_file /k",
    { "/p": ["one\r\nrest", 0o600], "/ca": ["CA", 0o644], "/c": ["CERT", 0o644], "/k": ["KEY", 0o400] },
  );
  const tls = { authorities: "CA", certificate: "CERT", key: "KEY" };
  assert.equal(await secrets(), { password: "one", tls });
  machine.put("/p", "two\n", 0o600);
  assert.equal(await secrets(), { password: "two", tls });
});

const refused: readonly [
  why: string,
  lines: string,
  files: Record<string, [string, number]>,
  message: RegExp,
][] = [
  ["a password that is not there", "option user u\noption password_file /p", {}, /\/p: it is not there/],
  [
    "a password for all",
    "option user u\noption password_file /p",
    { "/p": ["x", 0o640] },
    /mode 0600 is wanted/,
  ],
  ["a password for nobody", "option password_file /p", { "/p": ["x", 0o600] }, /no password without a user/],
  [
    "a giant password",
    "option user u\noption password_file /p",
    { "/p": ["x".repeat(5_000), 0o600] },
    /longer than/,
  ],
  ["an authority that is not there", "option tls 1\noption ca_file /ca", {}, /\/ca: it is not there/],
  [
    "an authority of everybody",
    "option tls 1\noption ca_file /ca",
    { "/ca": ["x", 0o666] },
    /others may change it/,
  ],
  ["a certificate without a key", "option tls 1\noption cert_file /c", { "/c": ["x", 0o644] }, /go together/],
  [
    "a key for all",
    "option tls 1\noption cert_file /c\noption key_file /k",
    { "/c": ["x", 0o644], "/k": ["x", 0o644] },
    /\/k: others may read it/,
  ],
];

for (const [why, lines, files, message] of refused) {
  test(`${why} is why there is no session, never a weaker one`, async () => {
    const { secrets } = await secretsOf(lines, files);
    try {
      await secrets();
    } catch (thrown) {
      assert.match((thrown as Error).message, message);
      return;
    }
    assert.unreachable("there were secrets");
  });
}

test.run();
