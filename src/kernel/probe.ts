/**
 * Which back end a machine is to use: found out by asking its tools once, at start, without changing anything.
 */

import type { Family } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { System } from "../system/system.ts";
import { type Backend, complaint, type Enforcer } from "./enforcer.ts";
import { Ipset } from "./ipset.ts";
import { Nft } from "./nft.ts";

/** What a machine has; a text says why it has it not. */
export interface Surroundings {
  readonly nft: true | string;
  readonly nftBridge: true | string;
  readonly nftEgress: true | string;
  readonly ipset: true | string;
  readonly iptables: Readonly<Record<Family, true | string>>;
}

export interface Choice {
  readonly backend: Backend;
  /** In words, for the log. */
  readonly reason: string;
}

/**
 * nft wherever it works, for it alone changes everything in one step and sees bridged frames; else ipset.
 *
 * @throws Fault "unsupported" if what is wanted does not work here.
 */
export function chooseBackend(wanted: Backend | "auto", around: Surroundings): Choice {
  const whyNot = {
    nft: around.nft === true ? undefined : around.nft,
    ipset:
      around.ipset !== true
        ? around.ipset
        : around.iptables[4] !== true && around.iptables[6] !== true
          ? around.iptables[4]
          : undefined,
  };
  if (wanted !== "auto") {
    const reason = whyNot[wanted];
    if (reason !== undefined) throw new Fault("unsupported", `Cannot use ${wanted}: ${reason}`);
    return { backend: wanted, reason: "the configuration says so" };
  }
  if (whyNot.nft === undefined) return { backend: "nft", reason: "nft works here" };
  if (whyNot.ipset === undefined)
    return { backend: "ipset", reason: `nft does not work here (${whyNot.nft})` };
  throw new Fault("unsupported", `Cannot block anything: nft: ${whyNot.nft}; ipset: ${whyNot.ipset}`);
}

/** Looks around, chooses, says so in one line of the log, and makes the back end. */
export async function openEnforcer(
  system: System,
  wanted: Backend | "auto",
  lanDevices: readonly string[],
): Promise<Enforcer> {
  const nft = wanted === "ipset" ? notAsked : await probeNft(system);
  const around = {
    ...nft,
    ...(wanted === "nft" || nft.nft === true ? notAskedEither : await probeIpset(system)),
  };
  const { backend, reason } = chooseBackend(wanted, around);
  system.log("info", `Rules are made with ${backend}: ${reason}`);
  if (backend === "nft") {
    const [bridge, egress] = [around.nftBridge === true, around.nftEgress === true];
    const enforcer = new Nft(system, { lanDevices, bridge, egress });
    await enforcer.look();
    return enforcer;
  }
  const families = ([4, 6] as const).filter((family) => around.iptables[family] === true);
  return new Ipset(system, { lanDevices, families });
}

const notAsked = { nft: "not looked for", nftBridge: "not looked for", nftEgress: "not looked for" } as const;
const notAskedEither = {
  ipset: "not looked for",
  iptables: { 4: "not looked for", 6: "not looked for" },
} as const;

async function probeNft(system: System): Promise<Pick<Surroundings, "nft" | "nftBridge" | "nftEgress">> {
  // Checked by the kernel, then forgotten.
  const table = (family: string, hook: string) =>
    `table ${family} gatehouse_probe { chain x { type filter hook ${hook} priority filter - 5; }\n}\n`;
  const [nft, nftBridge, nftEgress] = await Promise.all(
    [
      ["inet", "forward"],
      ["bridge", "output"],
      ["netdev", 'egress device "lo"'],
    ].map(([family, hook]) => attempt(system, ["nft", "-c", "-f", "-"], table(family!, hook!))),
  );
  return { nft: nft!, nftBridge: nftBridge!, nftEgress: nftEgress! };
}

async function probeIpset(system: System): Promise<Pick<Surroundings, "ipset" | "iptables">> {
  const save = (program: string) => attempt(system, [`${program}-save`, "-t", "filter"]);
  const [ipset, four, six] = await Promise.all([
    attempt(system, ["ipset", "list", "-n"]),
    save("iptables"),
    save("ip6tables"),
  ]);
  return { ipset: ipset!, iptables: { 4: four!, 6: six! } };
}

async function attempt(system: System, argv: readonly string[], input?: string): Promise<true | string> {
  try {
    const { status, stderr } = await system.run(argv, input === undefined ? {} : { input });
    return status === 0 ? true : complaint(stderr, status);
  } catch (thrown) {
    return messageOf(thrown);
  }
}
