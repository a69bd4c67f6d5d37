/**
 * Somebody on the network claims a device's address a thousand times a second: the device stays who it is, with its
 * id, name and block, the liar gains nothing of it, and the claim is told.
 */

import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, parseMac } from "../../src/lib/address.ts";
import { bytesOf, encodeArpReply } from "../../src/lib/arp.ts";
import { openLinux } from "../../src/system/linux.ts";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import { servers } from "../lab/topology.ts";
import { idOf, type NodeRow } from "./trial.ts";

/** In the liar's own network: replies that nobody asked for, until it is killed. */
function lie(ifindex: number, macText: string, address: Address): void {
  const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node"), log: () => {} });
  const socket = system.packet(
    { ifindex, protocol: 0x0806 },
    { onMessage() {}, onOverrun() {}, onClose() {} },
  );
  const mac = parseMac(macText)!;
  const reply = encodeArpReply({ senderMac: mac, sender: address, targetMac: mac, target: address });
  const frame = Uint8Array.from([...new Array(6).fill(0xff), ...bytesOf(mac), 0x08, 0x06, ...reply]);
  setInterval(() => {
    for (let each = 0; each < 50; each++) socket.send(frame);
  }, 50);
}

async function claims(): Promise<void> {
  const lab = await Lab.up();
  try {
    const [laptop, camera] = ["laptop", "camera"].map(
      (name) => lab.clients.find((each) => each.name === name)!,
    );
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const open = await lab.stream({ from: "laptop", to: servers.video.address4, kind: "udp" });
    const [id, web] = [await idOf(lab, laptop!.address4), await idOf(lab, servers.web.address4)];
    const liar = await idOf(lab, camera!.address4);
    await lab.call("gatehouse.nodes", "rename", { node: id, name: "desk" });
    await lab.call("spin", "blockflow", { node1: id, node2: web, block: 1 });
    await stream.isCut();
    const link = JSON.parse(await lab.must("camera", ["ip", "-j", "link", "show", "eth0"])) as {
      ifindex: number;
    }[];
    const child = lab.spawn(
      "camera",
      [process.execPath, process.argv[1]!, "lie", String(link[0]!.ifindex), camera!.mac, laptop!.address4],
      { stdio: ["ignore", "ignore", "inherit"] },
    );
    const nodes = async () =>
      ((await lab.call("gatehouse.nodes", "list")) as unknown as { nodes: (NodeRow & { name?: string })[] })
        .nodes;
    await eventually("the claim with the node", async () =>
      JSON.stringify(await lab.call("gatehouse.nodes", "get", { node: id })).includes(camera!.mac),
    );
    // Many more claims, while the traffic of the device goes on.
    const heard = open.heard;
    const claimed = async () =>
      Number(await lab.must("camera", ["cat", "/sys/class/net/eth0/statistics/tx_packets"]));
    const enough = (await claimed()) + 2_000;
    await eventually("two thousand claims more", async () => (await claimed()) > enough);
    await eventually("packets of the device", () => open.heard > heard);
    const desk = (await nodes()).find((node) => node.mac === laptop!.mac)!;
    assert.is(desk.id, id);
    assert.is(desk.name, "desk");
    assert.ok(desk.ips.includes(laptop!.address4));
    assert.is((await nodes()).find((node) => node.mac === camera!.mac)!.id, liar);
    const { result } = (await lab.call("spin", "get_blockflow")) as unknown as {
      result: { node1: number; node2: number }[];
    };
    assert.equal(
      result.map(({ node1, node2 }) => [node1, node2]),
      [[Math.min(id, web), Math.max(id, web)]],
    );
    await stream.isCut(500);
    child.kill("SIGKILL");
  } finally {
    await lab.close();
  }
}

const [, , word, ...rest] = process.argv;
if (word === "lie") lie(Number(rest[0]), rest[1]!, rest[2] as Address);
else {
  test("a thousand claims a second to a device's address change nobody's id, name, address or block", claims);
  test.run();
}
