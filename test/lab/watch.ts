/**
 * Packets counted by a host's kernel: exact at the moment they are read, whatever the machine does meanwhile.
 *
 * Each counter is a table of its own in the host, `inet watch<number>`, which ends with the host. It decides nothing.
 */

import { eventually } from "./children.ts";
import type { Lab } from "./network.ts";
import { sleep } from "./time.ts";

let count = 0;

/** Each look is a process: whoever sees nothing yet waits a little before the next. */
async function unhurried(look: () => Promise<boolean>): Promise<boolean> {
  const isThere = await look();
  if (!isThere) await sleep(50);
  return isThere;
}

export class Counter {
  readonly #lab: Lab;
  readonly #host: string;
  readonly #table: string;

  private constructor(lab: Lab, host: string, table: string) {
    this.#lab = lab;
    this.#host = host;
    this.#table = table;
  }

  /**
   * Counts from now on what comes into a host, before anybody there has dropped any of it.
   *
   * @param matches each the matching part of a rule of nft; packets that match several count several times
   */
  static async of(lab: Lab, host: string, matches: readonly string[]): Promise<Counter> {
    const table = `watch${++count}`;
    const rules = matches.map((match) => `${match} counter`);
    const lines = ["type filter hook prerouting priority -400;", ...rules];
    const input = `table inet ${table} {\nchain come {\n${lines.join("\n")}\n}\n}\n`;
    await lab.must(host, ["nft", "-f", "-"], { input });
    return new Counter(lab, host, table);
  }

  /** Packets of each match. */
  async each(): Promise<number[]> {
    const text = await this.#lab.must(this.#host, ["nft", "list", "table", "inet", this.#table]);
    return [...text.matchAll(/counter packets (\d+)/g)].map((hit) => Number(hit[1]));
  }

  /** Packets of all matches. */
  async read(): Promise<number> {
    return (await this.each()).reduce((sum, each) => sum + each, 0);
  }

  /** Waits until so many more have come by each match. */
  async more(packets: number): Promise<void> {
    const before = await this.each();
    await eventually(`${packets} packets more into ${this.#host}`, () =>
      unhurried(async () => (await this.each()).every((now, at) => now >= before[at]! + packets)),
    );
  }
}

/** The router's own firewall lets everything in from the internet, so that only blocks stop it. */
export async function letIn(lab: Lab, backend: "nft" | "ipset"): Promise<void> {
  if (backend === "nft") {
    await lab.must("router", ["nft", "insert", "rule", "inet", "fw4", "forward_wan", "accept"]);
    return;
  }
  for (const tool of ["iptables", "ip6tables"]) {
    await lab.must("router", [tool, "-I", "zone_wan_forward", "-j", "ACCEPT"]);
  }
}

/** Waits until the kernel enforces something about an address: until our sets or rules hold it. */
export async function enforced(lab: Lab, backend: "nft" | "ipset", address: string): Promise<void> {
  const argv = backend === "nft" ? ["nft", "list", "table", "inet", "gatehouse_flows"] : ["ipset", "save"];
  await eventually(`${address} in the kernel`, () =>
    unhurried(async () => {
      const { stdout } = await lab.exec("router", argv);
      return stdout.split(/[\s,{}]+/).includes(address);
    }),
  );
}

/** Whether pings of a client get past the router to a server, by what arrives there while some are tried. */
export async function pingsPass(lab: Lab, host: string, to: string): Promise<boolean> {
  const match = `ip daddr ${to} icmp type echo-request`;
  const tried = await Counter.of(lab, "router", [`iifname "br-lan" ${match}`]);
  const arrived = await Counter.of(lab, "internet", [match]);
  const ping = lab.spawn(host, ["ping", "-n", "-q", "-i", "0.1", to], { stdio: "ignore" });
  await tried.more(3);
  ping.kill();
  return (await arrived.read()) > 0;
}
