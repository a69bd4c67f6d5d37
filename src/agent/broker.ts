/**
 * The MQTT session as the configuration has it: with a client id of our own, and its secrets from their files.
 *
 * Nothing is kept: the files are read before each try for a session, so that what is renewed counts from the next
 * one on. A secret that others may read, and any file that cannot be used, is why there is no session.
 */

import type { MqttConfig } from "../config/config.ts";
import { Fault } from "../lib/fault.ts";
import type { MqttOptions, MqttSecrets, System } from "../system/system.ts";

const maxPasswordBytes = 4_096;
const maxPemBytes = 1024 * 1024;

type Machine = Pick<System, "stat" | "read" | "random" | "self">;

/** Never fails: what is wrong with the files is told by the session, each time that it is tried. */
export function brokerOf(system: Machine, config: MqttConfig): Omit<MqttOptions, "will"> {
  return {
    host: config.host,
    port: config.port,
    clientId: config.clientId === "" ? `gatehouse-${hex(system.random(6))}` : config.clientId,
    version: config.version,
    ...(config.user !== "" && { username: config.user }),
    secrets: () => secretsOf(system, config),
    keepaliveSeconds: config.keepalive,
    maxQueuedBytes: config.maxQueue,
  };
}

/** @throws Fault if a file is not there, is too long, or is open to others. */
async function secretsOf(system: Machine, config: MqttConfig): Promise<MqttSecrets> {
  const { passwordFile, user, version } = config;
  if (passwordFile !== "" && user === "" && version === "3.1.1") {
    throw new Fault("invalid", `Cannot use ${passwordFile}: MQTT 3.1.1 has no password without a user`);
  }
  const password = await readSecret(system, passwordFile, maxPasswordBytes);
  return {
    ...(password !== undefined && { password: password.split(/\r?\n/)[0]! }),
    ...(config.tls && { tls: await tlsOf(system, config) }),
  };
}

async function tlsOf(system: Machine, config: MqttConfig): Promise<NonNullable<MqttSecrets["tls"]>> {
  const { caFile, certFile, keyFile } = config;
  if ((certFile === "") !== (keyFile === "")) {
    throw new Fault("invalid", `Cannot use ${certFile}${keyFile}: a certificate and its key go together`);
  }
  const authorities = await readOwn(system, caFile, maxPemBytes);
  const certificate = await readOwn(system, certFile, maxPemBytes);
  const key = await readSecret(system, keyFile, maxPemBytes);
  return {
    ...(authorities !== undefined && { authorities }),
    ...(certificate !== undefined && { certificate }),
    ...(key !== undefined && { key }),
  };
}

/** A file that nobody else may read. */
async function readSecret(system: Machine, path: string, maxBytes: number): Promise<string | undefined> {
  const status = path === "" ? undefined : await system.stat(path);
  if (status && (status.mode & 0o077) !== 0) {
    throw new Fault("denied", `Cannot use ${path}: others may read it (mode 0600 is wanted)`);
  }
  return readOwn(system, path, maxBytes);
}

/** A file that nobody else may change. */
async function readOwn(system: Machine, path: string, maxBytes: number): Promise<string | undefined> {
  if (path === "") return undefined;
  const status = await system.stat(path);
  const bytes = status && (await system.read(path, maxBytes));
  if (!status || !bytes) throw new Fault("not-found", `Cannot use ${path}: it is not there`);
  if ((status.mode & 0o022) !== 0) throw new Fault("denied", `Cannot use ${path}: others may change it`);
  if (status.uid !== 0 && status.uid !== system.self.uid) {
    throw new Fault("denied", `Cannot use ${path}: it belongs to user ${status.uid}`);
  }
  return new TextDecoder().decode(bytes);
}

function hex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
