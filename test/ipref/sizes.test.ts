/** UDP of all sizes through the data plane on the real kernel. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { runGateway } from "../lab/gateway.ts";
import { between, encoded, node } from "./site.ts";

const echo = (family: 4 | 6) => `
  const socket = require("node:dgram").createSocket("udp${family}");
  socket.on("message", (bytes, from) => socket.send(bytes, from.port, from.address));
  socket.bind(7007, () => console.log("ready"));`;

test("UDP of every size comes back as it went, fragments too", async () => {
  for (const lan of [4, 6] as const) {
    await between({ lan, tunnel: 4 }, async ({ homes }) => {
      const server = homes.spawn("parents-laptop", node(echo(lan)), { stdio: ["ignore", "pipe", "inherit"] });
      await new Promise((resolve) => server.stdout!.once("data", resolve));
      const most = lan === 4 ? 65_507 : 65_527;
      const sizes = [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 511, 1231, 1232, 1233];
      for (let size = 1380; size <= 1480; size += 3) sizes.push(size);
      sizes.push(1999, 2000, 2001, 2951, 4097, 8191, 16_000, 30_001, 60_000, 65_000);
      // With the tunnel's own fragments on top, the very longest has no room in IPv6's.
      if (lan === 4) sizes.push(most - 1, most);
      const client = `
        const socket = require("node:dgram").createSocket("udp${lan}");
        const sizes = ${JSON.stringify(sizes)}; let at = 0; let tries = 0; let timer;
        const data = (size) => Buffer.alloc(size).map((_, index) => (index * 7 + size + (index >> 8)) & 255);
        const next = () => {
          if (at === sizes.length) { console.log("all"); process.exit(0); }
          if (tries++ > 10) { console.log("stuck at " + sizes[at]); process.exit(1); }
          socket.send(data(sizes[at]), 7007, "${encoded[lan]}");
          timer = setTimeout(next, 500);
        };
        socket.on("message", (bytes) => {
          if (bytes.length !== sizes[at]) return;
          clearTimeout(timer);
          if (!bytes.equals(data(sizes[at]))) { console.log("differs at " + sizes[at]); process.exit(1); }
          at++; tries = 0; next();
        });
        next();`;
      const { stdout } = await homes.exec("mine-laptop", node(client), { limitMs: 60_000 });
      assert.is(stdout.trim(), "all", `IPv${lan}`);
    });
  }
});

if (!runGateway()) test.run();
