/** What the agent says it cannot see, on machines that lack this or that. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Honesty, type Observed, parseFlowtables } from "../../src/agent/honesty.ts";
import { Fault } from "../../src/lib/fault.ts";

const fine: Observed = {
  route: { overruns: 0, dropped: 0 },
  conntrack: { counting: true, overruns: 0, vanished: 0, dropped: 0, offloaded: 0, hardwareOffloaded: 0 },
  dns: { lost: 0, overruns: 0 },
  bridges: [{ name: "br-lan", ports: 1 }],
};

const software = `table inet fw4 {
\tflowtable ft {
\t\thook ingress priority filter
\t\tdevices = { eth0, eth1 }
\t\tcounter
\t}
}
`;
const hardware = software.replace("\t\tcounter\n", "\t\tflags offload;\n");

const files = new Map([
  ["/proc/sys/net/netfilter/nf_conntrack_count", "89\n"],
  ["/proc/sys/net/netfilter/nf_conntrack_max", "100\n"],
]);

/** A machine with these flowtables and files; `asked` grows with each question to nft. */
function machine(options: { flowtables?: string; files?: ReadonlyMap<string, string> } = {}) {
  const shared = { asked: 0, now: 0, flowtables: options.flowtables ?? "" };
  const honesty = new Honesty({
    now: () => shared.now,
    read: async (path) => {
      const text = (options.files ?? files).get(path);
      return text === undefined ? undefined : Buffer.from(text);
    },
    run: async (argv) => {
      assert.equal(argv, ["nft", "list", "flowtables"]);
      shared.asked++;
      if (shared.flowtables === "none") throw new Fault("not-found", "Cannot run nft: not there");
      return { status: 0, stdout: shared.flowtables, stderr: "", pid: 7 };
    },
  });
  const look = async (observed: Partial<Observed> = {}) => {
    const spots = await honesty.look({ ...fine, ...observed });
    for (const { what, effect, advice } of spots) assert.ok(what && effect && advice);
    return spots.map(({ what }) => what);
  };
  return { ...{ honesty, look }, shared };
}

const conntrack = (change: Partial<NonNullable<Observed["conntrack"]>>) => ({
  conntrack: { ...fine.conntrack!, ...change },
});

test("Honesty.look: nothing to say of a machine that sees everything, nor without nft and /proc", async () => {
  assert.equal(await machine().look(), []);
  assert.equal(await machine({ flowtables: "none", files: new Map() }).look(), []);
});

test("Honesty.look: what is not watched, and not counted", async () => {
  assert.equal(await machine().look({ route: undefined, conntrack: undefined, dns: undefined }), [
    "interfaces and neighbours are not watched",
    "connections are not watched",
    "DNS answers are not watched",
  ]);
  assert.equal(await machine().look(conntrack({ counting: false })), [
    "the kernel does not count what passes on connections",
  ]);
});

test("Honesty.look: what was lost, with its number", async () => {
  const spots = await machine().look({
    route: { overruns: 1, dropped: 2 },
    ...conntrack({ overruns: 3, vanished: 4, dropped: 5 }),
    dns: { lost: 6, overruns: 7 },
  });
  assert.equal(
    spots.map((what) => what.match(/\d+/g)!.join()),
    ["1,2", "3,4", "5", "6,7"],
  );
});

test("Honesty.look: flowtables of software that count, of software that don't, and of hardware", async () => {
  const effects = async (flowtables: string, offloaded = 0) => {
    const { honesty } = machine({ flowtables });
    const spot = (await honesty.look({ ...fine, ...conntrack({ offloaded }) }))[0];
    return spot && `${spot.what} | ${spot.effect.includes("not counted") ? "not counted" : "counted"}`;
  };
  const past = "forwards established connections past the rules, 0 connections at present";
  assert.is(await effects(software), `a flowtable ${past} | counted`);
  assert.is(await effects(software.replace("counter", "")), `a flowtable ${past} | not counted`);
  assert.is(await effects(hardware), `the hardware ${past} | not counted`);
  assert.match((await effects("", 9)) ?? "", /^a flowtable .* 9 connections at present \| not counted$/);
  const { look } = machine();
  assert.match((await look(conntrack({ offloaded: 2, hardwareOffloaded: 1 })))[0]!, /^the hardware/);
});

test("Honesty.look asks nft once, and again when connections begin or end to be offloaded, not every time", async () => {
  const { look, shared } = machine();
  for (let times = 0; times < 5; times++) assert.equal(await look(), []);
  assert.is(shared.asked, 1);
  shared.flowtables = software;
  await look(conntrack({ offloaded: 1 }));
  assert.is(shared.asked, 1, "not within a minute");
  shared.now = 60_000;
  for (let times = 0; times < 5; times++) await look(conntrack({ offloaded: 1 }));
  assert.is(shared.asked, 2);
});

test("Honesty.look: a connection table that is nearly full, full, or was full", async () => {
  const with_ = (changes: Record<string, string>) => new Map([...files, ...Object.entries(changes)]);
  const count = "/proc/sys/net/netfilter/nf_conntrack_count";
  assert.equal(await machine({ files: with_({ [count]: "90" }) }).look(), [
    "the connection table is nearly full: 90 of 100",
  ]);
  assert.equal(await machine({ files: with_({ [count]: "100" }) }).look(), [
    "the connection table is full: 100 of 100",
  ]);
  const statistics =
    "entries  drop early_drop __proto__\n00000001 0000000a 00000001 1\n00000001 00000001 00000010 1\n";
  assert.equal(await machine({ files: with_({ "/proc/net/stat/nf_conntrack": statistics }) }).look(), [
    "the connection table was full: 11 packets were dropped, 17 connections ended early",
  ]);
  const garbage = with_({ "/proc/net/stat/nf_conntrack": "drop\nzz\n\n", [count]: "many" });
  assert.equal(await machine({ files: garbage }).look(), []);
});

test("Honesty.look: bridges of several ports, unless the kernel shows their packets to the rules", async () => {
  const bridges = [
    { name: "br-lan", ports: 3 },
    { name: "br-iot", ports: 2 },
    { name: "br-one", ports: 1 },
  ];
  assert.equal(await machine().look({ bridges }), [
    "devices on br-lan, br-iot reach each other without passing the router",
  ]);
  const switches = (six: string) =>
    new Map([
      ...files,
      ["/proc/sys/net/bridge/bridge-nf-call-iptables", "1\n"],
      ["/proc/sys/net/bridge/bridge-nf-call-ip6tables", six],
    ]);
  assert.equal(await machine({ files: switches("1\n") }).look({ bridges }), []);
  assert.is((await machine({ files: switches("0\n") }).look({ bridges })).length, 1);
});

test("parseFlowtables: what nft prints, and what it might", () => {
  assert.equal(parseFlowtables(software + hardware), [
    { hardware: false, counting: true },
    { hardware: true, counting: false },
  ]);
  assert.equal(parseFlowtables("\tflags offload\ncounter\n"), [], "no flowtable that they are of");
  assert.equal(parseFlowtables(""), []);
});

test.run();
