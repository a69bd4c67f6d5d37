/** Numbers that are somebody else's, by the files in which they say so. */

import { mkdirSync, writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openLinux } from "../../src/system/linux.ts";
import { parseNetworkTables, parseTableNames } from "../../src/tables/reserved.ts";
import { Reserved } from "../../src/tables/tables.ts";
import { nativePath, until } from "../system/until.ts";

const system = openLinux({ nativePath, log: () => {} });

test("parseTableNames reads numbers with names, and leaves everything else out", () => {
  const text = "# reserved\n255\tlocal\n 0x2710 hexed # why\n\n12345678901 long\nx y\n7\n300 vpn\n";
  assert.equal(
    [...parseTableNames(text)],
    [
      ["local", 255],
      ["hexed", 10_000],
      ["vpn", 300],
    ],
  );
});

test("parseNetworkTables reads tables of interfaces and rules, by number and by name", () => {
  const text = [
    "config interface 'wan'\n\toption ip4table '10001'\n\toption ip6table vpn",
    "config rule\n\toption lookup \"10003\"\n\toption priority '99'\n\toption lookup nosuch",
    "config route\n\toption table '10004'\n\toption 'lookup' '10005' # why",
  ].join("\n");
  const names = new Map([["vpn", 300]]);
  assert.equal([...parseNetworkTables(text, names)], [10_001, 300, 10_003, 10_004, 10_005]);
});

test("Reserved has everybody's numbers, and follows the files", async () => {
  const root = `${process.env.TMPDIR}/reserved`;
  for (const path of ["etc/iproute2/rt_tables.d", "etc/config"])
    mkdirSync(`${root}/${path}`, { recursive: true });
  writeFileSync(`${root}/etc/iproute2/rt_tables`, "255 local\n10010 pbr_wan\n");
  writeFileSync(`${root}/etc/iproute2/rt_tables.d/x.conf`, "10002 mine\n");
  writeFileSync(`${root}/etc/iproute2/rt_tables.d/x.off`, "10003 none\n");
  writeFileSync(`${root}/etc/config/network`, "config interface 'wan'\n\toption ip4table 'mine'\n");
  const reserved = new Reserved(system, root);
  await reserved.open();
  for (const number of [0, 1, 61, 62, 220, 250, 253, 254, 255, 10_002, 10_010, 10_011, 10_042]) {
    assert.ok(reserved.has(number), String(number));
  }
  for (const number of [256, 10_000, 10_003, 10_043]) assert.not.ok(reserved.has(number), String(number));
  // A watch takes a moment to stand; what changes before is found by its next look, which is later.
  await new Promise((resolve) => setTimeout(resolve, 50));
  writeFileSync(`${root}/etc/config/network`, "config rule\n\toption lookup '10003'\n");
  await until(() => reserved.has(10_003), "the change is seen");
  reserved.close();
  const nowhere = new Reserved(system, `${root}/nowhere`);
  await nowhere.open();
  assert.not.ok(nowhere.has(10_000));
  nowhere.close();
});

test.run();
