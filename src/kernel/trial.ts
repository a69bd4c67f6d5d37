/**
 * Whether a kernel lets answers of DNS wait: tried when it is first asked for, and said once if it does not.
 *
 * A try that came to no end is no answer, and is made anew.
 */

import type { System } from "../system/system.ts";
import type { Order } from "./enforcer.ts";

export class Trial {
  readonly #system: Pick<System, "log">;
  readonly #limits: string[];
  readonly #attempt: () => Promise<string | undefined>;
  #holds: Promise<boolean> | undefined;

  /**
   * @param parts `limits`: of the back end, for what it cannot do; `attempt`: has the kernel make an answer wait and
   *   forget it again, and tells why that was refused.
   */
  constructor(
    system: Pick<System, "log">,
    parts: { readonly limits: string[]; readonly attempt: () => Promise<string | undefined> },
  ) {
    this.#system = system;
    this.#limits = parts.limits;
    this.#attempt = parts.attempt;
  }

  /** An order without what this kernel cannot do. @throws what the attempt does. */
  async possible(order: Order): Promise<Order> {
    if (order.kind !== "blocks" || order.tap?.queue === undefined) return order;
    this.#holds ??= this.#try().catch((thrown: unknown) => {
      this.#holds = undefined;
      throw thrown;
    });
    return (await this.#holds) ? order : { ...order, tap: { group: order.tap.group } };
  }

  async #try(): Promise<boolean> {
    const complaint = await this.#attempt();
    if (complaint === undefined) return true;
    const limit = `Answers of DNS do not wait until the rules follow them: ${complaint}`;
    this.#limits.push(limit);
    this.#system.log("warning", limit);
    return false;
  }
}
