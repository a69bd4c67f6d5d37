/**
 * What isolation's commands and names cost: from the connect call to the first packet and from the disconnect call to
 * the last one, through the agent on the lab's router; and DNS answers per second to services, beside dnsmasq on the
 * same names. Both servers are on loopback, one process each, asked by the same program; ours works out who asks and
 * whom it may resolve for every question, which dnsmasq does not.
 */

import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { addressRecord, noSuchName, openDnsServer, yes } from "../../src/dns/dns.ts";
import { CLASS_IN, encodeMessage, TYPE_A } from "../../src/lib/dns.ts";
import { address, host, openHouse } from "../isolation/house.ts";
import { Town } from "../lab/services.ts";
import { heading, median, spread, table } from "./figure.ts";
import { sleep, system } from "./router.ts";

const rounds = 15;
const seconds = 2;
const inFlight = 64;
const ports = { ours: 5_301, dnsmasq: 5_302 } as const;
const peers = 1_000;
const nameOf = (number: number) => `peer-${number}`;
const realOf = (number: number) => `10.2.${Math.floor(number / 250)}.${(number % 250) + 2}`;

/** `--names PORT`: asks for one name after the other, some at a time; prints how many answers come a second. */
export function askNames(port: number): void {
  const plain = { response: false, opcode: 0, authoritative: false, truncated: false, rcode: 0 } as const;
  const none = { recursionAvailable: false, authenticData: false, checkingDisabled: false } as const;
  const queries = Array.from({ length: peers }, (_, id) =>
    encodeMessage({
      id,
      flags: { ...plain, ...none, recursionDesired: true },
      questions: [{ name: `${nameOf(id)}.`, type: TYPE_A, class: CLASS_IN }],
      answers: [],
    }),
  );
  const socket = createSocket("udp4");
  let [asked, answered] = [0, 0];
  const ask = () => socket.send(queries[asked++ % peers]!);
  socket.on("message", (message) => {
    // A denial is no answer here: then something is wrong with the measurement.
    if ((message[3]! & 15) !== 0) throw new Error("Cannot measure: a name was denied");
    answered++;
    ask();
  });
  socket.connect(port, "127.0.0.1", () => {
    for (let left = inFlight; left > 0; left--) ask();
    setTimeout(() => {
      console.log(answered / seconds);
      process.exit();
    }, seconds * 1_000);
  });
}

/** `--resolver`: isolation's names on loopback, for one service that was given all peers. */
export async function serveNames(): Promise<void> {
  const services = Array.from({ length: peers }, (_, number) => ({
    ...{ name: nameOf(number), segment: "data" },
    addresses: [address(realOf(number))],
  }));
  const { isolation } = openHouse({ services });
  isolation.linkUp({ device: "br-data", addresses: [{ address: address("10.2.255.1"), prefixLength: 16 }] });
  host(isolation, "br-apps", "app", "10.1.0.7");
  await isolation.connect({ name: "app", peers: services.map(({ name }) => name) });
  await openDnsServer(system, {
    places: [{ address: address("127.0.0.1"), port: ports.ours }],
    // One client asks for all.
    perSecond: 1_000_000,
    answer: async ({ question }) => {
      const outcome = await isolation.ask("br-apps", address("10.1.0.7"), question);
      return outcome.kind === "addresses"
        ? yes(outcome.addresses.map((each) => addressRecord(question.name, each, outcome.ttlSeconds)))
        : noSuchName({ zone: ".", ttlSeconds: 5 });
    },
  });
  console.log("ready");
}

function text(argv: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0]!, argv.slice(1), { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (chunk) => (output += chunk));
    child.on("error", reject);
    child.on("close", () => resolve(output));
  });
}

async function measureAnswers(): Promise<void> {
  const configuration = join(process.env.TMPDIR!, "dnsmasq.conf");
  const records = Array.from({ length: peers }, (_, number) => `host-record=${nameOf(number)},198.18.0.1,5`);
  const basics = [
    "keep-in-foreground",
    "user=root",
    "pid-file=",
    "no-hosts",
    "no-resolv",
    "listen-address=127.0.0.1",
  ];
  writeFileSync(configuration, [...basics, `port=${ports.dnsmasq}`, ...records, ""].join("\n"));
  const self = [process.execPath, process.argv[1]!] as const;
  const servers = [
    spawn(self[0], [self[1], "--resolver"], { stdio: ["ignore", "ignore", "inherit"] }),
    spawn("dnsmasq", [`--conf-file=${configuration}`], { stdio: "ignore" }),
  ];
  try {
    await sleep(2_000);
    const found = { ours: [] as number[], dnsmasq: [] as number[] };
    for (let round = 0; round < 3; round++) {
      for (const name of ["ours", "dnsmasq"] as const)
        found[name].push(Number(await text([...self, "--names", String(ports[name])])));
    }
    table([
      ["", "answers/s", "of dnsmasq"],
      ["dnsmasq", spread(found.dnsmasq), "1.00"],
      ["services' names", spread(found.ours), (median(found.ours) / median(found.dnsmasq)).toFixed(2)],
    ]);
  } finally {
    for (const server of servers) server.kill();
  }
}

async function measureCalls(): Promise<void> {
  const figures: string[][] = [["", "median ms", "worst ms"]];
  for (const backend of ["nft", "ipset"] as const) {
    const town = await Town.up({ backend });
    const [first, last, answer]: number[][] = [[], [], []];
    try {
      // A peer keeps its stand-in while somebody else has it.
      await town.connect("boss", ["lamp"]);
      const to = await town.standIn("lamp", 4);
      for (let round = 0; round < rounds; round++) {
        const beganAt = performance.now();
        await town.connect("web", ["lamp"]);
        answer!.push(performance.now() - beganAt);
        while (!(await town.passes("web", { kind: "udp", to })));
        first!.push(performance.now() - beganAt);
        await town.passes("web", { kind: "load", to, port: 81 });
        const loaded = async () => (await town.try("web", { kind: "loaded", to })).bytes!;
        const endsAt = performance.now();
        const call = town.disconnect("web");
        let [bytes, at] = [0, endsAt];
        for (let quiet = 0; quiet < 10; ) {
          await sleep(10);
          const now = await loaded();
          if (now === bytes) quiet++;
          else [bytes, at, quiet] = [now, performance.now(), 0];
        }
        await call;
        last!.push(at - endsAt);
      }
    } finally {
      await town.close();
    }
    for (const [what, list] of [
      ["connect call to its answer", answer!],
      ["connect call to first packet back", first!],
      ["disconnect call to last byte of a download", last!],
    ] as const)
      figures.push([`${backend}: ${what}`, median(list).toFixed(0), Math.max(...list).toFixed(0)]);
  }
  table(figures);
}

export async function measureNames(): Promise<void> {
  heading("Isolation: commands and names");
  await measureAnswers();
  console.log();
  await measureCalls();
}
