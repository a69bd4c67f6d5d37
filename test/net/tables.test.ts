/**
 * Leases of routing tables and neighbours on a running router: rules in the kernel as the answer says, kept over
 * kill -9, gone with the address; the old client's command line; who answers at an address.
 */

import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab, root } from "../lab/network.ts";
import { router } from "../lab/topology.ts";

let lab: Lab;
const it = suite("one lab");
it.before(async () => {
  lab = await Lab.up();
});
it.after(() => lab?.close());

const rulesOf = async (family: "-4" | "-6") => lab.must("router", ["ip", family, "-N", "rule", "show"]);

it("a leased table has its rules in both families, the same after kill -9, and none when the address goes", async () => {
  await lab.must("router", ["ip", "address", "add", "192.0.2.5/24", "dev", "wan"]);
  await lab.must("router", ["ip", "-6", "address", "add", "2001:db8:5::5/64", "dev", "wan"]);
  const wish4 = { family: "inet", interface: "wan", address: "192.0.2.5", follow: true };
  const wish6 = { family: "inet6", interface: "wan", address: "2001:db8:5::5", follow: true };
  const request = (wish: object) =>
    eventually("a lease", () => lab.call("gatehouse.tables", "request", wish).catch(() => undefined));
  const { table } = await request(wish4);
  const { table: table6 } = await request(wish6);
  assert.is(typeof table, "number");
  const expect4 = [
    `10000:\tfrom 192.0.2.5 lookup ${table} proto 71`,
    `20000:\tfrom all to 192.0.2.0/24 lookup ${table} proto 71`,
    `91000:\tfrom all iif lo lookup ${table} proto 71`,
  ];
  const shown = await rulesOf("-4");
  for (const line of expect4) assert.ok(shown.includes(line), `${line} is not in\n${shown}`);
  assert.match(await rulesOf("-6"), new RegExp(`from 2001:db8:5::5 lookup ${table6} proto 71`));

  await lab.agent.kill();
  assert.is(await rulesOf("-4"), shown);
  await lab.agent.start();
  assert.is((await request(wish4)).table, table);
  assert.is(await rulesOf("-4"), shown);

  await lab.must("router", ["ip", "address", "delete", "192.0.2.5/24", "dev", "wan"]);
  await eventually("no rules any more", async () => !(await rulesOf("-4")).includes("proto 71"));
  const { leases } = (await lab.call("gatehouse.tables", "list")) as { leases: { address: string }[] };
  assert.equal(
    leases.map((lease) => lease.address),
    ["2001:db8:5::5"],
  );
  await lab.call("gatehouse.tables", "release", {
    family: "inet6",
    interface: "wan",
    address: "2001:db8:5::5",
  });
});

it("gatehouse lease in a DHCP hook prints the same table at once, however often it is run", async () => {
  await lab.must("router", ["ip", "address", "add", "192.0.2.5/24", "dev", "wan"]);
  const hook =
    'T=$(gatehouse lease -4 -s -a 192.0.2.5 -n 255.255.255.0 -i wan -d tas_socket); echo "table $T"; ' +
    'T=$(gatehouse lease -4 -s -a 192.0.2.5 -n 255.255.255.0 -i wan -d tas_socket); echo "table $T"';
  const text = await eventually("a table", async () => {
    const { stdout } = await lab.exec("router", ["sh", "-c", hook]);
    return /^table [1-9]\d+\n/.test(stdout) ? stdout : undefined;
  });
  const [one, other] = text.trim().split("\n");
  assert.is(one, other);
  assert.match(await rulesOf("-4"), new RegExp(`from 192\\.0\\.2\\.5 lookup ${one!.slice(6)}`));
  const refused = await lab.exec("router", ["gatehouse", "lease", "-4", "-i", "wan"]);
  assert.is(refused.status, 1);
  assert.is(refused.stdout, "");
});

it("a name of the old socket that somebody squats is said, and taken as soon as it is free", async () => {
  await lab.agent.stop();
  const script = `
    const module = { exports: {} };
    process.dlopen(module, process.argv[1]);
    const { open, bind } = module.exports;
    const name = new Uint8Array(110);
    name[0] = 1;
    name.set(new TextEncoder().encode("tas_socket"), 3);
    if (bind(open(1, 2, 0), name) === 0) console.log("squats");
    setInterval(() => {}, 1e9);`;
  const squatter = lab.spawn("router", [process.execPath, "-e", script, join(root, "dist/netio.node")], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => squatter.stdout!.once("data", resolve));
  await lab.agent.start();
  await eventually("a word about it", () => lab.agent.log.includes("another program has the name"));
  squatter.kill("SIGKILL");
  await eventually("the socket", () => lab.agent.log.includes("tas_socket is ours now"));
  const { tables } = (await lab.call("gatehouse", "status")) as {
    tables: { socket: { granted?: number } };
  };
  assert.is(tables.socket.granted, 0);
});

it("resolve says who answers at an address in both families, and that nobody does", async () => {
  const resolve = (address: string, timeout = 10_000) =>
    lab.call("gatehouse.neighbours", "resolve", { address, device: "br-lan", timeout });
  const laptop = lab.clients.find((each) => each.name === "laptop")!;
  for (const address of [laptop.address4, laptop.address6]) {
    const found = await eventually("an answer", () => resolve(address).catch(() => undefined));
    assert.is(found.lladdr, laptop.mac, JSON.stringify(found));
  }
  const nobody = await resolve("10.77.0.222").catch((thrown: Error) => thrown);
  assert.instance(nobody, Error);
  const own = await resolve(router.lan4).catch((thrown: Error) => thrown);
  assert.instance(own, Error);
});

it.run();
