/** Which boot of the machine this is: what is written with it says whether its instants still mean anything. */

import type { Disk } from "../system/system.ts";

/** A text that tells boots apart; "" where the kernel does not say: then this boot is like no other. */
export async function bootOf(disk: Pick<Disk, "read">): Promise<string> {
  const bytes = await disk.read("/proc/sys/kernel/random/boot_id").catch(() => undefined);
  return bytes ? new TextDecoder().decode(bytes).trim() : "";
}
