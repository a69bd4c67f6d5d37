/** The MQTT session as the configuration has it: with the password from its file, and a client id of our own. */

import type { MqttConfig } from "../config/config.ts";
import { messageOf } from "../lib/fault.ts";
import type { MqttOptions, System } from "../system/system.ts";

const maxPasswordBytes = 4_096;

/** Never fails: a password file that cannot be used is logged, and the session is opened without a password. */
export async function brokerOf(system: System, config: MqttConfig): Promise<Omit<MqttOptions, "will">> {
  const password = config.passwordFile === "" ? undefined : await readPassword(system, config.passwordFile);
  return {
    host: config.host,
    port: config.port,
    clientId: config.clientId === "" ? `gatehouse-${hex(system.random(6))}` : config.clientId,
    ...(config.user !== "" && { username: config.user }),
    ...(password !== undefined && { password }),
    keepaliveSeconds: config.keepalive,
    maxQueuedBytes: config.maxQueue,
  };
}

async function readPassword(system: System, path: string): Promise<string | undefined> {
  try {
    const status = await system.stat(path);
    if (!status) throw new Error(`Cannot read ${path}: it is not there`);
    if ((status.mode & 0o077) !== 0)
      throw new Error(`Cannot use ${path}: others may read it (mode 0600 is wanted)`);
    const bytes = await system.read(path, maxPasswordBytes);
    return bytes && new TextDecoder().decode(bytes).split(/\r?\n/)[0];
  } catch (thrown) {
    system.log("error", messageOf(thrown));
    return undefined;
  }
}

function hex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
