/**
 * The pages about tables, neighbours, devices and flows in a real browser, one after the other on one lab with the real
 * agent: a network that others have used before is what a page finds at home, too.
 */

import { devices } from "./devices.ts";
import { flows } from "./flows.ts";
import { sharedStreet } from "./street.ts";
import { tables } from "./tables.ts";

flows.after(async () => (await sharedStreet()).down());
for (const suite of [tables, devices, flows]) suite.run();
