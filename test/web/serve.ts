/**
 * The pages of a running lab at a loopback address of this machine, for whoever started it.
 *
 * The lab's network is its own, and so is its loopback: this server stands outside of it and reaches the lab's bus and
 * configuration through the file system of the lab's first process.
 */

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { openLinux } from "../../src/system/linux.ts";
import { connectUbus } from "../../src/ubus/ubus.ts";
import { paths } from "../lab/topology.ts";
import { Host } from "./host.ts";

export interface ServeOptions {
  /** The first process of the lab's enclosure. */
  readonly pid: number;
  /** Has the agent read its configuration again. */
  reload(): void;
}

export interface Served {
  /** With the token that lets a browser in. */
  readonly url: string;
  close(): void;
}

/** Rejects if the lab's bus cannot be reached. */
export async function servePages({ pid, reload }: ServeOptions): Promise<Served> {
  const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node"), log: () => {} });
  const inLab = (path: string) => `/proc/${pid}/root${path}`;
  const ubus = connectUbus(system, { path: inLab(paths.bus) });
  await ubus.ready();
  const token = randomBytes(16).toString("hex");
  const configuration = { path: inLab(paths.configuration), applied: async () => reload() };
  const host = await Host.start({ ubus, configuration, token });
  return {
    url: `${new URL(host.urlOf("devices")).origin}/?token=${token}`,
    close() {
      host.close();
      ubus.close();
    },
  };
}
