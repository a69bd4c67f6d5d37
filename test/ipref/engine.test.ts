/**
 * The data plane on the real kernel carries what hosts send each other, whole: TCP in super-packets and in frames, over
 * a path that narrows, with the receivers' own counters of damaged packets as witnesses.
 */

import { createHash } from "node:crypto";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { runGateway } from "../lab/gateway.ts";
import type { Homes } from "../lab/homes.ts";
import { between, encoded, node, type Site } from "./site.ts";

/** The receiver's counters of damaged packets. */
async function damaged(homes: Homes, host: string): Promise<number> {
  const text = await homes.must(host, ["cat", "/proc/net/snmp", "/proc/net/snmp6"]);
  const lines = text.split("\n");
  let count = 0;
  for (const protocol of ["Tcp:", "Udp:", "Icmp:"]) {
    const [names, values] = lines.filter((line) => line.startsWith(protocol)).map((line) => line.split(" "));
    names!.forEach((name, index) => {
      if (name === "InCsumErrors") count += Number(values![index]);
    });
  }
  for (const line of lines) if (/^\w+InCsumErrors\s/.test(line)) count += Number(line.split(/\s+/)[1]);
  return count;
}

async function carriesTcp({ homes }: Site, to: string, totalBytes: number): Promise<void> {
  const server = `
    const hash = require("node:crypto").createHash("sha256");
    const block = Buffer.alloc(50021, 1).map((_, index) => (index * 31 + (index >> 7)) & 255);
    require("node:net").createServer((socket) => {
      let left = ${totalBytes};
      const more = () => {
        while (left > 0) {
          const part = block.subarray(0, Math.min(left, block.length)); left -= part.length; hash.update(part);
          if (!socket.write(part)) return void socket.once("drain", more);
        }
        socket.end();
      };
      more();
    }).listen(5001, "::", () => console.log("ready"));`;
  const child = homes.spawn("parents-laptop", node(server), { stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((resolve) => child.stdout!.once("data", resolve));
  const client = `
    const hash = require("node:crypto").createHash("sha256"); let count = 0;
    require("node:net").connect(5001, "${to}").on("data", (part) => { hash.update(part); count += part.length; })
      .on("end", () => console.log(count, hash.digest("hex")));`;
  const got = (await homes.must("mine-laptop", node(client))).trim().split(" ");
  const block = Buffer.alloc(50021, 1).map((_, index) => (index * 31 + (index >> 7)) & 255);
  const hash = createHash("sha256");
  for (let left = totalBytes; left > 0; left -= block.length)
    hash.update(block.subarray(0, Math.min(left, block.length)));
  assert.equal(got, [String(totalBytes), hash.digest("hex")]);
  child.kill();
}

test("hosts with the same addresses ping and copy data, in all four pairs of LAN and tunnel, checksums whole", async () => {
  for (const [lan, tunnel] of [
    [4, 4],
    [6, 6],
    [4, 6],
    [6, 4],
  ] as const) {
    await between({ lan, tunnel }, async (site) => {
      const { homes, mine, parents } = site;
      for (const from of ["mine-laptop", "parents-laptop"]) {
        await homes.must(from, ["ping", "-c", "3", "-i", "0.05", "-W", "20", encoded[lan]]);
      }
      await carriesTcp(site, encoded[lan], 5_000_000);
      for (const host of ["mine-laptop", "parents-laptop"])
        assert.is(await damaged(homes, host), 0, `${lan} ${tunnel}`);
      // The data went in super-packets, joined again at the other end.
      assert.ok((await parents.counts()).counts.split! > 20, JSON.stringify(await parents.counts()));
      assert.ok((await mine.counts()).counts.joined! > 20, JSON.stringify(await mine.counts()));
      assert.is((await mine.counts()).restarts, 0);
    });
  }
});

test("data go as fast as frames of a wire do, and are joined from single packets", async () => {
  await between({ wire: true }, async (site) => {
    await carriesTcp(site, encoded[4], 5_000_000);
    const [mine, parents] = [await site.mine.counts(), await site.parents.counts()];
    assert.is(parents.counts.split, 0);
    assert.ok(mine.counts.joined! > 20, JSON.stringify(mine));
    for (const host of ["mine-laptop", "parents-laptop"]) assert.is(await damaged(site.homes, host), 0);
  });
});

test("a path that narrows in the tunnel is told to the host with the exact MTU, and data go on", async () => {
  await between({}, async (site) => {
    const { homes, mine } = site;
    await homes.narrow(homes.parents, 1400);
    const ping = (size: number) =>
      homes.exec("mine-laptop", ["ping", "-M", "do", "-c", "1", "-W", "10", "-s", String(size), encoded[4]]);
    // The first is lost on the way, and its sender told at once.
    const first = await ping(1420);
    assert.match(
      first.stdout,
      /Frag needed.*mtu = 1372|message too long, mtu=1372/i,
      first.stdout + first.stderr,
    );
    assert.ok((await mine.counts()).counts.tooLong! >= 1);
    // 1400 less the outer IP and UDP headers and the tunnel's twenty bytes, plus the host's own IP header.
    assert.is((await ping(1372 - 28)).status, 0);
    assert.is((await ping(1372 - 27)).status, 1);
    await carriesTcp(site, encoded[4], 3_000_000);
  });
});

if (!runGateway()) test.run();
