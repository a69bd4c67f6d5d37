/** Waiting for what happens elsewhere. */

import { join } from "node:path";
import { loadNetio, type Netio } from "../../src/system/native.ts";

/** Only what fails waits so long, and no machine is slower. */
const deadlineMs = 60_000;

/** Where the addon under test lies. */
export const nativePath = join(process.cwd(), process.env.NETIO ?? "dist/netio.node");

export const native = (): Netio => loadNetio(nativePath);

/** Resolves once the condition holds. @throws Error after a minute. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const endAt = performance.now() + deadlineMs;
  while (!(await condition())) {
    if (performance.now() > endAt) throw new Error(`Waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
