/** UDP of all sizes through the data plane on the real kernel. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
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
          if (tries++ > 80) { console.log("stuck at " + sizes[at]); process.exit(1); }
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
      const { stdout } = await homes.exec("mine-laptop", node(client));
      assert.is(stdout.trim(), "all", `IPv${lan}`);
    });
  }
});

test("every small packet of a burst that a gateway took arrives", async () => {
  await between({}, async ({ homes, parents }) => {
    await homes.must("mine-laptop", ["ping", "-c", "1", "-W", "20", encoded[4]]);
    // Says how many came whenever it is asked.
    const sink = `
      let count = 0;
      const socket = require("node:dgram").createSocket({ type: "udp4", recvBufferSize: 200_000 });
      socket.on("message", () => count++);
      process.stdin.on("data", () => console.log(count));
      socket.bind(7007, () => console.log("ready"));`;
    const receiver = homes.spawn("parents-laptop", node(sink), { stdio: ["pipe", "pipe", "inherit"] });
    let told = "";
    receiver.stdout!.on("data", (chunk) => (told += chunk));
    await eventually("the sink", () => told.includes("ready"));
    const before = (await parents.counts()).counts.inPackets!;
    const taken = async () => (await parents.counts()).counts.inPackets! - before;
    const arrived = async () => {
      told = "";
      receiver.stdin!.write("?");
      await eventually("its count", () => told.endsWith("\n"));
      return Number(told);
    };
    const lostAtSocket = async () => {
      const snmp = await homes.must("parents-laptop", ["cat", "/proc/net/snmp"]);
      const [names, values] = snmp.split("\n").filter((line) => line.startsWith("Udp:"));
      return Number(values!.split(" ")[names!.split(" ").indexOf("RcvbufErrors")]);
    };
    // In bursts that a receive buffer has room for.
    const source = `
      const socket = require("node:dgram").createSocket("udp4");
      let burst = 0;
      const more = () => {
        if (burst++ === 40) return void setTimeout(() => process.exit(), 100);
        for (let index = 0; index < 100; index++) socket.send(Buffer.alloc(32), 7007, "${encoded[4]}");
        setTimeout(more, 20);
      };
      more();`;
    // A slow machine loses some before the gateway takes them.
    await eventually("three thousand", async () => {
      await homes.must("mine-laptop", node(source));
      return (await taken()) > 3_000;
    });
    await eventually("all that were taken", async () => {
      const [there, lost] = [await arrived(), await lostAtSocket()];
      return there + lost === (await taken());
    }).catch(async (thrown) => {
      const counts = [await taken(), await arrived(), await lostAtSocket()];
      throw new Error(`${thrown}: ${counts} ${JSON.stringify(await parents.counts())}`);
    });
    receiver.kill();
  });
});

if (!runGateway()) test.run();
