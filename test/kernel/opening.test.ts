/** Connections opened ahead, on the real kernel: what it remembers, what it does twice, and what it refuses. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Connection, connectionStatus, deleteConnections, Openings } from "../../src/kernel/kernel.ts";
import { type Address, parseAddress } from "../../src/lib/address.ts";
import { eventually } from "../lab/children.ts";
import { rejects, system } from "./rig.ts";
import { sh } from "./street.ts";

const address = (text: string): Address => parseAddress(text)!;
const ends = {
  4: { source: "10.1.0.2", standin: "198.18.0.2", target: "10.2.0.2", sourceStandin: "198.18.0.1" },
  6: { source: "fd01::2", standin: "fd00:6a7e::2", target: "fd02::2", sourceStandin: "fd00:6a7e::1" },
} as const;

function opening(family: 4 | 6, seconds = 30) {
  const [source, standin, target, sourceStandin] = Object.values(ends[family]).map(address) as [
    Address,
    Address,
    Address,
    Address,
  ];
  return { source, standin, target, sourceStandin, sourcePort: 9999, targetPort: 1900, seconds };
}

async function known(source: Address): Promise<Connection[]> {
  const found: Connection[] = [];
  await deleteConnections(system, (each) => {
    if (each.source === source) found.push(each);
    return false;
  });
  return found;
}

test.before(() =>
  // Without rules that translate, the kernel has no translation.
  sh("nft -f -", ["table inet t { chain c { type nat hook prerouting priority dstnat; }; }"]).then(() => {}),
);

for (const family of [4, 6] as const) {
  test(`open: the answer of the target is expected at the stand-in (v${family}); again it is no fault`, async () => {
    const openings = new Openings(system);
    const wish = opening(family);
    await openings.open(wish);
    await openings.open(wish);
    const [connection, ...more] = await known(wish.source);
    assert.equal(more, []);
    const { source, destination, sourcePort, destinationPort, protocol, reply, status } = connection!;
    assert.equal(
      { source, destination, sourcePort, destinationPort, protocol },
      {
        source: wish.source,
        destination: wish.standin,
        sourcePort: 9999,
        destinationPort: 1900,
        protocol: 17,
      },
    );
    assert.equal(reply, {
      ...{ source: wish.target, destination: wish.sourceStandin },
      ...{ sourcePort: 1900, destinationPort: 9999 },
    });
    const both = connectionStatus.sourceNat | connectionStatus.destinationNat;
    assert.is(status & both, both);
    openings.close();
    await rejects(openings.open(wish), "closed");
  });
}

test("open: who is not answered in time is forgotten", async () => {
  const openings = new Openings(system);
  const wish = { ...opening(4, 1), sourcePort: 7 };
  await openings.open(wish);
  const isKnown = async () => (await known(wish.source)).some(({ sourcePort }) => sourcePort === 7);
  assert.ok(await isKnown());
  await eventually("the end", async () => !(await isKnown()));
  openings.close();
});

test("open: addresses of two families are a mistake, and nothing is opened", async () => {
  const openings = new Openings(system);
  const wrong = { ...opening(4), sourcePort: 8, target: address("fd02::2") };
  const thrown = await openings.open(wrong).catch((each: unknown) => each);
  assert.instance(thrown, TypeError);
  assert.not.ok((await known(wrong.source)).some(({ sourcePort }) => sourcePort === 8));
  openings.close();
});

test.run();
