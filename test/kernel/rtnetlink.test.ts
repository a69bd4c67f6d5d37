/** rtnetlink: links, addresses, neighbours and default routes decoded, row by row and of whatever bytes. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type AttributeList, concat, encodeAttributes, host } from "../../src/kernel/attribute.ts";
import type { Message } from "../../src/kernel/netlink.ts";
import {
  decodeDefaultRoute,
  decodeInterfaceAddress,
  decodeLink,
  decodeNeighbour,
} from "../../src/kernel/rtnetlink.ts";
import { messageOf, recorded, recordedElsewhere } from "./yard.ts";

const text = (value: string) => Buffer.from(`${value}\0`);
const bytes = (...values: number[]) => Uint8Array.from(values);

function linkPayload(options: { family?: number; ifindex?: number; flags?: number; list: AttributeList }) {
  const { family = 0, ifindex = 3, flags = 0x11043, list } = options;
  const header = [bytes(family, 0), host.bytes16(1), host.bytes32(ifindex), host.bytes32(flags)];
  return concat([...header, new Uint8Array(4), encodeAttributes(list)]);
}

function addressPayload(options: { family: number; prefix?: number; flags?: number; list: AttributeList }) {
  const { family, prefix = 24, flags = 0x80, list } = options;
  return concat([bytes(family, prefix, flags, 0), host.bytes32(3), encodeAttributes(list)]);
}

function neighbourPayload(options: { family: number; state?: number; flags?: number; list: AttributeList }) {
  const { family, state = 2, flags = 0, list } = options;
  const header = [bytes(family, 0, 0, 0), host.bytes32(3), host.bytes16(state), bytes(flags, 1)];
  return concat([...header, encodeAttributes(list)]);
}

interface MadeUpRoute {
  family: number;
  /** Length of the prefix that it is for. */
  to?: number;
  table?: number;
  type?: number;
  flags?: number;
  list: AttributeList;
}

function routePayload({ family, to = 0, table = 254, type = 1, flags = 0, list }: MadeUpRoute) {
  const header = [bytes(family, to, 0, 0, table, 4, 0, type), host.bytes32(flags)];
  return concat([...header, encodeAttributes(list)]);
}

/** One way of several. */
function hopBytes(
  ifindex: number,
  list: AttributeList,
  { size, flags = 0 }: { size?: number; flags?: number } = {},
) {
  const attributes = encodeAttributes(list);
  const length = host.bytes16(size ?? 8 + attributes.length);
  return concat([length, bytes(flags, 0), host.bytes32(ifindex), attributes]);
}

const name = [3, text("br-lan")] as const;
const mac = bytes(2, 0, 0, 0, 0, 1);
const v4 = bytes(10, 0, 0, 1);
const v6 = bytes(0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

const linkRows = [
  [
    "a bridge",
    { list: [name, [1, mac], [4, host.bytes32(1500)], [18, [[1, text("bridge")]]]] },
    {
      ifindex: 3,
      name: "br-lan",
      mac: "02:00:00:00:00:01",
      up: true,
      running: true,
      kind: "bridge",
      mtuBytes: 1500,
    },
  ],
  [
    "a VLAN, which this kernel has none of",
    {
      list: [
        [3, text("eth0.7")],
        [5, host.bytes32(2)],
        [10, host.bytes32(9)],
        [
          18,
          [
            [1, text("vlan")],
            [2, [[1, host.bytes16(7)]]],
          ],
        ],
      ],
    },
    { ifindex: 3, name: "eth0.7", up: true, running: true, master: 9, parent: 2, kind: "vlan", vlan: 7 },
  ],
  [
    "switched on, no carrier",
    { flags: 0x1003, list: [name] },
    { ifindex: 3, name: "br-lan", up: true, running: false },
  ],
  [
    "switched off",
    { flags: 0x1002, list: [name] },
    { ifindex: 3, name: "br-lan", up: false, running: false },
  ],
  [
    "a tunnel: its link address is no MAC",
    { list: [name, [1, v4]] },
    { ifindex: 3, name: "br-lan", up: true, running: true },
  ],
  [
    "VLAN data of another kind",
    {
      list: [
        name,
        [
          18,
          [
            [1, text("x")],
            [2, [[1, host.bytes16(7)]]],
          ],
        ],
      ],
    },
    { ifindex: 3, name: "br-lan", up: true, running: true, kind: "x" },
  ],
  ["a bridge's port, leaving it", { family: 7, list: [name] }, "foreign"],
  ["a wireless event", { list: [name, [11, v4]] }, "foreign"],
  ["no name", { list: [[1, mac]] }, "malformed"],
  ["no index", { ifindex: 0, list: [name] }, "malformed"],
] as const;

const addressRows = [
  [
    "v4",
    {
      family: 2,
      list: [
        [1, v4],
        [2, v4],
      ],
    },
    { ifindex: 3, address: "10.0.0.1", prefixLength: 24, flags: 0x80 },
  ],
  [
    "v6",
    {
      family: 10,
      prefix: 64,
      list: [
        [1, v6],
        [8, host.bytes32(0x300)],
      ],
    },
    { ifindex: 3, address: "fe80::1", prefixLength: 64, flags: 0x300 },
  ],
  [
    "point to point: our own is LOCAL",
    {
      family: 2,
      prefix: 32,
      list: [
        [1, bytes(10, 0, 0, 9)],
        [2, v4],
      ],
    },
    { ifindex: 3, address: "10.0.0.1", prefixLength: 32, peer: "10.0.0.9", flags: 0x80 },
  ],
  ["no address", { family: 2, list: [] }, "malformed"],
  ["v4 that says v6", { family: 10, list: [[1, v4]] }, "malformed"],
  ["too long a prefix", { family: 2, prefix: 33, list: [[1, v4]] }, "malformed"],
  ["another family", { family: 12, list: [[1, v4]] }, "foreign"],
] as const;

const neighbourRows = [
  [
    "v4",
    {
      family: 2,
      list: [
        [1, v4],
        [2, mac],
      ],
    },
    { ifindex: 3, address: "10.0.0.1", mac: "02:00:00:00:00:01", state: "reachable", router: false },
  ],
  [
    "v6 router",
    {
      family: 10,
      state: 4,
      flags: 0x80,
      list: [
        [1, v6],
        [2, mac],
      ],
    },
    { ifindex: 3, address: "fe80::1", mac: "02:00:00:00:00:01", state: "stale", router: true },
  ],
  [
    "failed",
    { family: 2, state: 0x20, list: [[1, v4]] },
    { ifindex: 3, address: "10.0.0.1", state: "failed", router: false },
  ],
  [
    "multicast",
    {
      family: 10,
      state: 0x40,
      list: [
        [1, v6],
        [2, mac],
      ],
    },
    { ifindex: 3, address: "fe80::1", mac: "02:00:00:00:00:01", state: "noarp", router: false },
  ],
  ["forwarding table", { family: 7, state: 0x80, list: [[2, mac]] }, "foreign"],
  ["proxied", { family: 2, flags: 8, list: [[1, v4]] }, "foreign"],
  ["no address", { family: 2, list: [[2, mac]] }, "malformed"],
  ["a state that is none", { family: 2, state: 3, list: [[1, v4]] }, "malformed"],
] as const;

const routeRows = [
  [
    "v4 with a metric",
    {
      family: 2,
      list: [
        [5, v4],
        [4, host.bytes32(3)],
        [6, host.bytes32(100)],
      ],
    },
    { family: 4, table: 254, metric: 100, hops: [{ ifindex: 3, gateway: "10.0.0.1" }] },
  ],
  [
    "v6 in a table whose number is too large for the header",
    {
      family: 10,
      table: 252,
      list: [
        [15, host.bytes32(1_000)],
        [5, v6],
        [4, host.bytes32(3)],
      ],
    },
    { family: 6, table: 1_000, metric: 0, hops: [{ ifindex: 3, gateway: "fe80::1" }] },
  ],
  [
    "point to point",
    { family: 2, list: [[4, host.bytes32(7)]] },
    { family: 4, table: 254, metric: 0, hops: [{ ifindex: 7 }] },
  ],
  [
    "v4 by way of a v6 gateway",
    {
      family: 2,
      list: [
        [18, concat([host.bytes16(10), v6])],
        [4, host.bytes32(3)],
      ],
    },
    { family: 4, table: 254, metric: 0, hops: [{ ifindex: 3, gateway: "fe80::1" }] },
  ],
  [
    "several ways",
    {
      family: 2,
      list: [
        [
          9,
          concat([
            hopBytes(3, [[5, v4]]),
            hopBytes(4, [[18, concat([host.bytes16(2), v4])]]),
            hopBytes(5, []),
          ]),
        ],
      ],
    },
    {
      family: 4,
      table: 254,
      metric: 0,
      hops: [{ ifindex: 3, gateway: "10.0.0.1" }, { ifindex: 4, gateway: "10.0.0.1" }, { ifindex: 5 }],
    },
  ],
  [
    "by a nexthop object of which only the number is told",
    { family: 2, list: [[30, host.bytes32(9)]] },
    { family: 4, table: 254, metric: 0, hops: [{ ifindex: 0 }] },
  ],
  ["to somewhere", { family: 2, to: 24, list: [[1, v4]] }, "foreign"],
  ["one that refuses", { family: 10, type: 7, list: [] }, "foreign"],
  ["the kernel's note to itself", { family: 10, flags: 0x200, list: [[5, v6]] }, "foreign"],
  ["another family", { family: 28, list: [] }, "foreign"],
  [
    "several ways, of which one is down",
    { family: 2, list: [[9, concat([hopBytes(3, [[5, v4]], { flags: 1 }), hopBytes(5, [])])]] },
    { family: 4, table: 254, metric: 0, hops: [{ ifindex: 5 }] },
  ],
  ["all ways down", { family: 2, list: [[9, hopBytes(3, [[5, v4]], { flags: 1 })]] }, "foreign"],
  ["a way longer than all of them", { family: 2, list: [[9, hopBytes(3, [], { size: 12 })]] }, "malformed"],
  ["a way shorter than its header", { family: 2, list: [[9, hopBytes(3, [], { size: 4 })]] }, "malformed"],
] as const;

const decoders: readonly {
  payloads: readonly Uint8Array[];
  decode: (message: Message) => unknown;
  header: number;
}[] = [
  { payloads: linkRows.map(([, options]) => linkPayload(options)), decode: decodeLink, header: 16 },
  {
    payloads: addressRows.map(([, options]) => addressPayload(options)),
    decode: decodeInterfaceAddress,
    header: 8,
  },
  {
    payloads: neighbourRows.map(([, options]) => neighbourPayload(options)),
    decode: decodeNeighbour,
    header: 12,
  },
  {
    payloads: routeRows.map(([, options]) => routePayload(options)),
    decode: decodeDefaultRoute,
    header: 12,
  },
];

test("decodeLink, decodeInterfaceAddress, decodeNeighbour and decodeDefaultRoute: row by row", () => {
  const rows = [
    ...linkRows.map(([what, options, expected]) => [
      what,
      decodeLink(messageOf(16, linkPayload(options))),
      expected,
    ]),
    ...addressRows.map(([what, options, expected]) => [
      what,
      decodeInterfaceAddress(messageOf(20, addressPayload(options))),
      expected,
    ]),
    ...neighbourRows.map(([what, options, expected]) => [
      what,
      decodeNeighbour(messageOf(28, neighbourPayload(options))),
      expected,
    ]),
    ...routeRows.map(([what, options, expected]) => [
      what,
      decodeDefaultRoute(messageOf(24, routePayload(options))),
      expected,
    ]),
  ] as const;
  for (const [what, decoded, expected] of rows) assert.equal(decoded, expected, `${what}`);
});

test("the decoders: bytes recorded from a kernel", () => {
  const decoders = { link: decodeLink, address: decodeInterfaceAddress, neighbour: decodeNeighbour };
  let rows = 0;
  for (const { kind, type, hex, expected } of recorded()) {
    if (!(kind in decoders)) continue;
    const payload = Buffer.from(hex, "hex");
    assert.equal(decoders[kind as keyof typeof decoders](messageOf(type, payload)), expected);
    rows++;
  }
  assert.is(rows, recordedElsewhere ? 0 : 7);
});

test("the decoders: cut at every length, either whole attributes are left or it is malformed", () => {
  for (const { payloads, decode, header } of decoders) {
    for (const payload of payloads) {
      for (let end = 0; end < payload.length; end++) {
        const decoded = decode({ ...messageOf(0, payload), end });
        if (end < header) assert.is(decoded, "malformed");
        else assert.ok(typeof decoded === "object" || decoded === "malformed" || decoded === "foreign");
      }
    }
  }
});

test("the decoders never throw, whatever bytes are flipped", () => {
  for (const { payloads, decode } of decoders) {
    for (const payload of payloads) {
      for (let at = 0; at < payload.length; at++) {
        for (const flip of [1, 0x80, 0xff]) {
          const changed = payload.slice();
          changed[at]! ^= flip;
          const decoded = decode(messageOf(0, changed));
          assert.ok(typeof decoded === "object" || decoded === "malformed" || decoded === "foreign");
        }
      }
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (noise) => {
        decode(messageOf(0, noise));
      }),
    );
  }
});

test.run();
