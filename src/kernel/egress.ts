/**
 * LAN devices that are no bridge: table `netdev`, with a hook where packets leave by such a device. Pure.
 *
 * Rules that see addresses cannot know a device's newest one; the MAC that a packet leaves to is known here alone.
 * Routed packets towards a barred MAC end here, as do those from a keeper's partners towards the keeper's MAC. A
 * bridge has hook output of table `bridge` for the same, and only where the kernel lacks that is it served here.
 *
 *     chain to_<device> ─ MAC barred ──────────────────────────────────┐
 *                       └ MAC of a keeper ── t<id>: from a partner? ───┴─ end: no IP, exempt? else drop
 *
 * MACs are matched as bytes of the frame and lie in the rules: `ether daddr` would ask for the type of the device
 * that the packet came in by, and not every kernel names one where it leaves. Dropped packets are counted and not copied: copies
 * would begin with the frame's header, unlike those of other hooks.
 */

import type { Mac } from "../lib/address.ts";
import { labelOf } from "./device.ts";
import type { Dispatch } from "./dispatch.ts";
import {
  addPartners,
  dropRule,
  exemptRules,
  fingerprint,
  holdersOf,
  keeperRules,
  mapOf,
  type NftChain,
  type NftRule,
  type NftSet,
  type NftTable,
  neverDropped,
  rule,
} from "./nftrules.ts";

/** The table of a plan for these devices, or undefined if it has nothing to say there. */
export function egressTable(dispatch: Dispatch, devices: readonly string[]): NftTable | undefined {
  const keepers = dispatch.keepers.filter(({ own }) => own.macs.size > 0);
  const barred = dispatch.barred.macs;
  if (devices.length === 0 || keepers.length + barred.size === 0) return undefined;
  const sets = new Map<string, NftSet>();
  const chains = new Map<string, NftChain>();
  const rules: NftRule[] = [];
  if (barred.size > 0) rules.push(rule(`${towards([...barred])} goto end`, "barred, by MAC"));
  if (keepers.length > 0) {
    for (const keeper of keepers) {
      addPartners(sets, keeper);
      chains.set(`t${keeper.id}`, { rules: keeperRules(keeper, "t") });
    }
    const holders = holdersOf(keepers, ({ own }) => own.macs);
    const { elements } = mapOf({ sets, chains }, "ether_addr", { prefix: "t", holders });
    const verdicts = [...elements].map(([mac, verdict]) => `${bytesOf(mac as Mac)} : ${verdict}`);
    rules.push(rule(`@ll,0,48 vmap { ${verdicts.join(", ")} }`, "to whom, by MAC"));
  }
  const last = [rule("meta protocol != { ip, ip6 } accept", "no traffic"), ...neverDropped];
  last.push(...exemptRules(sets, dispatch));
  const { macs } = dispatch.exempt;
  if (macs.size > 0) last.push(rule(`${towards([...macs])} accept`, "exempt, by MAC"));
  chains.set("end", { rules: [...last, dropRule] });
  for (const device of devices) chains.set(chainOf(device), { hook: "egress", device, rules });
  return { sets, chains, counted: true };
}

/** A match for frames to one of some MACs. */
export function towards(macs: readonly Mac[]): string {
  return `@ll,0,48 { ${macs.map(bytesOf).join(", ")} }`;
}

export function bytesOf(mac: Mac): string {
  return `0x${mac.replaceAll(":", "")}`;
}

/** nft's list in JSON does not tell the device of a chain: its name has to. */
function chainOf(device: string): string {
  return `to_${labelOf(device, fingerprint(device))}`;
}
