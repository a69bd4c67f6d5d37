/**
 * Two homes with a gateway in each router, for tests of the data plane. The gateways are the test's own bundle, started
 * again (test/lab/gateway.ts), so a test file ends with `if (!runGateway()) test.run();`.
 */

import { type GatewayPlan, GatewayProcess } from "../lab/gateway.ts";
import { type Home, Homes, type HomesOptions } from "../lab/homes.ts";
import { nativePath } from "../system/until.ts";

/** The laptop of the other home. */
export const encoded = { 4: "10.248.2.222", 6: "fd00:240::2:222" } as const;
/** A host of the other home that is nowhere. */
export const lost4 = "10.248.2.99";
/** A program for Node, given as text. */
export const node = (text: string, ...args: string[]) => [process.execPath, "-e", text, ...args];

export interface Site {
  readonly homes: Homes;
  readonly mine: GatewayProcess;
  readonly parents: GatewayProcess;
}

function planOf(
  home: Home,
  other: Home,
  more: Partial<GatewayPlan> & { lan?: 4 | 6; tunnel?: 4 | 6 },
): GatewayPlan {
  const { lan = 4, tunnel = 4, ...rest } = more;
  const laptop = home.hosts[0]!;
  const context = tunnel === 4 ? other.public4 : other.public6;
  return {
    nativePath,
    encodeNet: lan === 4 ? "10.240.0.0/12" : "fd00:240::/32",
    ownEncoded: lan === 4 ? "10.240.0.1" : "fd00:240::1",
    public: tunnel === 4 ? home.public4 : home.public6,
    ours: [{ address: lan === 4 ? laptop.address4 : laptop.address6, reference: "b07" }],
    theirs: [
      { address: encoded[lan], context, reference: "b07" },
      ...(lan === 4 && tunnel === 4 ? [{ address: lost4, context: "203.0.113.77", reference: "1234" }] : []),
    ],
    peers: "all",
    ...rest,
  };
}

async function startGateway(homes: Homes, home: Home, plan: GatewayPlan): Promise<GatewayProcess> {
  const argv = [process.execPath, process.argv[1]!, "--gateway", JSON.stringify(plan)];
  const gateway = new GatewayProcess(homes.spawn(home.name, argv, { stdio: ["pipe", "pipe", "inherit"] }));
  await gateway.ready();
  return gateway;
}

/** Builds everything, and takes it down whatever happens. */
export async function between(
  options: HomesOptions & Partial<GatewayPlan> & { lan?: 4 | 6; tunnel?: 4 | 6 },
  act: (site: Site) => Promise<void>,
): Promise<void> {
  const { hosts = ["laptop"], wire = false, ...more } = options;
  const homes = await Homes.up({ hosts, wire });
  try {
    const [mine, parents] = await Promise.all([
      startGateway(homes, homes.mine, planOf(homes.mine, homes.parents, more)),
      startGateway(homes, homes.parents, planOf(homes.parents, homes.mine, more)),
    ]);
    await act({ homes, mine, parents });
  } finally {
    await homes.close();
  }
}
