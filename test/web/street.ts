/**
 * What a browser test stands on: a lab with the real agent, our web server on its bus, and a Chromium.
 */

import { join } from "node:path";
import { openLinux } from "../../src/system/linux.ts";
import { connectUbus, type Ubus } from "../../src/ubus/ubus.ts";
import { eventually } from "../lab/children.ts";
import { Lab, type LabOptions } from "../lab/network.ts";
import { paths } from "../lab/topology.ts";
import { Browser } from "./browser.ts";
import { Host, type HostOptions } from "./host.ts";

export interface NodeRow {
  readonly id: number;
  readonly kind: string;
  readonly name?: string;
  readonly mac?: string;
  readonly ips: readonly string[];
  readonly domains: readonly string[];
  readonly is_blocked?: boolean;
}

const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node"), log: () => {} });

/** Where screenshots go, to be looked at. */
export const shot = (name: string) => join(process.cwd(), "test/out/web", `${name}.png`);

export class Street {
  readonly lab: Lab;
  readonly ubus: Ubus;
  readonly browser: Browser;
  readonly #hosts: Host[] = [];

  private constructor(lab: Lab, ubus: Ubus, browser: Browser) {
    this.lab = lab;
    this.ubus = ubus;
    this.browser = browser;
  }

  static async up(options: LabOptions = {}): Promise<Street> {
    const [lab, browser] = await Promise.all([Lab.up({ backend: "nft", ...options }), Browser.start()]);
    const ubus = connectUbus(system, { path: paths.bus });
    await ubus.ready();
    return new Street(lab, ubus, browser);
  }

  /** A web server for pages. Unless told otherwise they look five times as often as they do on a router. */
  async host(options: Omit<HostOptions, "ubus"> = {}): Promise<Host> {
    const configuration = {
      path: paths.configuration,
      // What procd does after a change, by our init script.
      applied: async () => void process.kill(this.lab.agent.pid!, "SIGHUP"),
    };
    const host = await Host.start({ ubus: this.ubus, configuration, secondMs: 200, ...options });
    this.#hosts.push(host);
    return host;
  }

  /** Devices on the LAN that say nothing: entries of the router's neighbour table, fd77::1000 upwards. */
  async addDevices(count: number): Promise<void> {
    const lines = Array.from({ length: count }, (_, at) => {
      const mac = `02:99:00:00:${hex(at >> 8)}:${hex(at & 255)}`;
      return `neigh replace fd77::${(0x1000 + at).toString(16)} lladdr ${mac} dev br-lan nud permanent`;
    });
    await this.lab.must("router", ["ip", "-batch", "-"], { input: `${lines.join("\n")}\n` });
    await eventually(`${count} devices`, async () => (await this.devices()).length >= count || undefined);
  }

  async nodes(): Promise<readonly NodeRow[]> {
    return ((await this.ubus.call("gatehouse.nodes", "list")) as unknown as { nodes: NodeRow[] }).nodes;
  }

  async devices(): Promise<readonly NodeRow[]> {
    return (await this.nodes()).filter(({ kind }) => kind === "device" || kind === "local");
  }

  /** The id of the node that has an address, once there is one. */
  idOf(address: string): Promise<number> {
    return eventually(`node with ${address}`, async () => {
      return (await this.nodes()).find((node) => node.ips.includes(address))?.id;
    });
  }

  async down(): Promise<void> {
    for (const host of this.#hosts) host.close();
    await this.browser.close();
    this.ubus.close();
    await this.lab.close();
  }
}

let shared: Promise<Street> | undefined;

/** One that several suites of a file stand on, made when the first asks for it. Who made the file takes it down. */
export function sharedStreet(): Promise<Street> {
  shared ??= Street.up();
  return shared;
}

const hex = (byte: number) => byte.toString(16).padStart(2, "0");
