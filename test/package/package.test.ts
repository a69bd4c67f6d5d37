/**
 * The packages: built twice they are the same bytes, and what is in them is where OpenWrt looks for it.
 *
 * They are made in a copy of the tree, so that nobody else's dist/ is touched.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { languages, readCatalogue } from "../web/catalogue.ts";
import { menu } from "../web/page.ts";

const root = process.cwd();
const version = `${(JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }).version}-r1`;
/** Of this machine's processor, as its addon is packed. */
const arch = process.arch === "arm64" ? "aarch64_cortex-a53" : "x86_64";
const ipks = [`gatehouse_${version}_${arch}.ipk`, `luci-app-gatehouse_${version}_all.ipk`] as const;
let tree: string;

function make(): string {
  const folder = mkdtempSync(join(tmpdir(), "package-"));
  for (const part of ["files", "openwrt", "package.json", "dist/gatehouse", "dist/netio.node"]) {
    mkdirSync(join(folder, "dist"), { recursive: true });
    cpSync(join(root, part), join(folder, part), { recursive: true, verbatimSymlinks: true });
  }
  execFileSync("sh", ["openwrt/package.sh"], { cwd: folder, env: { PATH: process.env.PATH, ARCH: arch } });
  return folder;
}

test.before(() => {
  tree = make();
});

const hash = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");
const tar = (...args: string[]) => execFileSync("tar", args, { maxBuffer: 2 ** 26 });

/** Path → mode and owner of what a part of a package holds. */
function listing(
  ipk: string,
  part: "data" | "control",
): Map<string, { mode: string; owner: string; time: string }> {
  const inner = tar("-xzOf", join(tree, "dist", ipk), `./${part}.tar.gz`);
  const text = execFileSync("tar", ["-tvz", "--numeric-owner", "--full-time"], {
    input: inner,
    encoding: "utf8",
    env: { ...process.env, TZ: "UTC" },
  });
  return new Map(
    text
      .trim()
      .split("\n")
      .map((line) => {
        const [mode, owner, , date, time, path] = line.split(/\s+/);
        return [path!.replace(/^\./, ""), { mode: mode!, owner: owner!, time: `${date} ${time}` }];
      }),
  );
}

function content(ipk: string, part: "data" | "control", path: string): Buffer {
  const inner = tar("-xzOf", join(tree, "dist", ipk), `./${part}.tar.gz`);
  return execFileSync("tar", ["-xzO", path], { input: inner, maxBuffer: 2 ** 26 });
}

test("packages: made twice, at other times and out of another folder, they are the same bytes", () => {
  const again = make();
  for (const path of ipks) assert.is(hash(join(again, "dist", path)), hash(join(tree, "dist", path)), path);
  const files = (folder: string) =>
    readdirSync(join(folder, "dist/apk"), { recursive: true, encoding: "utf8" })
      .filter((each) => statSync(join(folder, "dist/apk", each)).isFile())
      .sort();
  assert.equal(files(again), files(tree));
  for (const path of files(tree))
    assert.is(hash(join(again, "dist/apk", path)), hash(join(tree, "dist/apk", path)), path);
});

test("packages: a file that was touched changes nothing, one that was changed does", () => {
  const before = ipks.map((path) => hash(join(tree, "dist", path)));
  utimesSync(join(tree, "files/www/luci-static/resources/gatehouse/bus.js"), 1, 1);
  execFileSync("sh", ["openwrt/package.sh"], { cwd: tree, env: { PATH: process.env.PATH, ARCH: arch } });
  assert.equal(
    ipks.map((path) => hash(join(tree, "dist", path))),
    before,
  );
});

test("packages: none is made for a processor that the addon is not for", () => {
  const wrong = process.arch === "arm64" ? "x86_64" : "aarch64_generic";
  const options = { cwd: tree, encoding: "utf8", env: { PATH: process.env.PATH, ARCH: wrong } } as const;
  const { status, stderr } = spawnSync("sh", ["openwrt/package.sh"], options);
  assert.is(status, 1);
  assert.match(stderr, new RegExp(`^Cannot pack for ${wrong}: `));
});

test("ipk: a gzipped tar of the three members that opkg wants, in that order", () => {
  for (const path of ipks) {
    const names = tar("-tzf", join(tree, "dist", path))
      .toString()
      .trim()
      .split("\n");
    assert.equal(names, ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]);
    assert.is(tar("-xzOf", join(tree, "dist", path), "./debian-binary").toString(), "2.0\n");
  }
});

test("ipk: everything belongs to root, nobody else may write it, and it has no time", () => {
  for (const path of ipks) {
    for (const part of ["data", "control"] as const) {
      for (const [name, { mode, owner, time }] of listing(path, part)) {
        assert.is(owner, "0/0", name);
        assert.is(time, "1970-01-01 00:00:00", name);
        if (!mode.startsWith("l"))
          assert.match(mode, /^[d-]r.{2}..-..-.$|^[d-]r[w-][x-][r-]-[x-][r-]-[x-]$/, name);
      }
    }
  }
});

test("ipk: gatehouse has each file where OpenWrt looks for it, with its mode", () => {
  const data = listing(ipks[0], "data");
  const wanted: Record<string, string> = {
    "/etc/capabilities/gatehouse.json": "-rw-r--r--",
    "/etc/config/gatehouse": "-rw-------",
    "/etc/init.d/gatehouse": "-rwxr-xr-x",
    "/etc/hotplug.d/iface/90-gatehouse": "-rw-r--r--",
    "/etc/uci-defaults/90-gatehouse": "-rw-r--r--",
    "/lib/upgrade/keep.d/gatehouse": "-rw-r--r--",
    "/usr/lib/gatehouse/boot.sh": "-rwxr-xr-x",
    "/usr/lib/gatehouse/firewall.sh": "-rwxr-xr-x",
    "/usr/lib/gatehouse/gatehouse": "-rwxr-xr-x",
    "/usr/lib/gatehouse/netio.node": "-rw-r--r--",
    "/usr/lib/gatehouse/zones.sh": "-rwxr-xr-x",
    "/usr/lib/gatehouse/segments.sh": "-rwxr-xr-x",
    "/usr/lib/gatehouse/remove.sh": "-rwxr-xr-x",
    "/usr/sbin/gatehouse": "lrwxrwxrwx",
    "/usr/share/acl.d/gatehouse.json": "-rw-r--r--",
  };
  for (const [path, mode] of Object.entries(wanted)) assert.is(data.get(path)?.mode, mode, path);
  const files = [...data].filter(([, { mode }]) => !mode.startsWith("d")).map(([path]) => path);
  assert.equal(files.sort(), Object.keys(wanted).sort());
});

test("ipk: luci-app-gatehouse has pages, menu, access rules and translations, and nothing of the service", () => {
  const paths = [...listing(ipks[1], "data").keys()].filter((path) => !path.endsWith("/"));
  for (const { view } of menu()) {
    assert.ok(paths.includes(`/www/luci-static/resources/view/gatehouse/${view}.js`), view);
  }
  assert.ok(paths.includes("/www/luci-static/resources/view/status/include/45_gatehouse.js"));
  assert.ok(paths.includes("/usr/share/luci/menu.d/luci-app-gatehouse.json"));
  assert.ok(paths.includes("/usr/share/rpcd/acl.d/luci-app-gatehouse.json"));
  for (const code of ["de", "nl", "zh-cn"])
    assert.ok(paths.includes(`/usr/lib/lua/luci/i18n/gatehouse.${code}.lmo`), code);
  const ours =
    /^\/(?:www\/luci-static\/resources\/(?:view\/)?gatehouse|www\/luci-static\/resources\/view\/status\/include|usr\/share\/(?:luci\/menu\.d|rpcd\/acl\.d)|usr\/lib\/lua\/luci\/i18n)\//;
  for (const path of paths) assert.match(path, ours);
});

test("ipk: control says what opkg has to know, and scripts do what packages of OpenWrt do", () => {
  for (const [path, name, of] of [
    [ipks[0], "gatehouse", arch],
    [ipks[1], "luci-app-gatehouse", "all"],
  ] as const) {
    const fields = new Map(
      content(path, "control", "./control")
        .toString()
        .trim()
        .split("\n")
        .map((line) => line.split(/: (.*)/, 2) as [string, string]),
    );
    assert.is(fields.get("Package"), name);
    assert.is(fields.get("Version"), version);
    assert.is(fields.get("Architecture"), of);
    assert.match(fields.get("Maintainer")!, /^[^<>]+ <[^@ ]+@[^@ ]+>$/);
    assert.match(fields.get("Depends")!, /^[a-z0-9-]+(?: \(>= \d+\))?(?:, [a-z0-9-]+(?: \(>= \d+\))?)*$/);
    assert.ok(Number(fields.get("Installed-Size")) > 1_000);
    for (const script of ["postinst", "prerm", "postinst-pkg"]) {
      const text = content(path, "control", `./${script}`).toString();
      assert.match(text, /^#!\/bin\/sh\n/);
      execFileSync("dash", ["-n"], { input: text });
    }
    assert.match(content(path, "control", "./postinst").toString(), /default_postinst \$0 \$@/);
    assert.match(content(path, "control", "./prerm").toString(), /default_prerm \$0 \$@/);
  }
  assert.is(content(ipks[0], "control", "./conffiles").toString(), "/etc/config/gatehouse\n");
  assert.match(content(ipks[1], "control", "./postinst-pkg").toString(), /luci-indexcache[\s\S]*rpcd reload/);
});

/** Scripts of ours as they are packed, for either manager, and in the feed. */
const scriptsOf = (makes: "postinst" | "prerm") => {
  const [own, apk] =
    makes === "postinst"
      ? (["postinst-pkg", ["post-install", "post-upgrade"]] as const)
      : (["prerm-pkg", ["pre-deinstall"]] as const);
  const makefile = readFileSync(join(root, "openwrt/gatehouse/Makefile"), "utf8");
  const [, feed] = new RegExp(`^define Package/gatehouse/${makes}\n([^]*?)^endef$`, "m").exec(makefile)!;
  return {
    opkg: content(ipks[0], "control", `./${own}`).toString(),
    feed: feed!.replaceAll("$$", "$"),
    ...Object.fromEntries(
      apk.map((name) => [name, readFileSync(join(tree, "dist/apk/gatehouse", name), "utf8")]),
    ),
  };
};

/** Runs a script that would find the service running, with what it would do in words. */
function runs(text: string, environment: Readonly<Record<string, string>>): string[] {
  const folder = mkdtempSync(join(tmpdir(), "script-"));
  const service = join(folder, "gatehouse");
  writeFileSync(service, '#!/bin/sh\n[ "$1" = running ] || echo "$1"\n', { mode: 0o755 });
  writeFileSync(
    join(folder, "functions.sh"),
    "default_postinst() { echo default; }; default_prerm() { echo default; }; add_group_and_user() { :; }\n",
  );
  writeFileSync(join(folder, "killall"), "#!/bin/sh\n", { mode: 0o755 });
  const script = text
    .replaceAll("/etc/init.d/gatehouse", service)
    .replaceAll(/\$\{IPKG_INSTROOT\}\/lib\/functions\.sh/g, join(folder, "functions.sh"))
    .replaceAll("sh /usr/lib/gatehouse/remove.sh", "echo remove");
  const { status, stdout, stderr } = spawnSync("dash", ["-c", script], {
    encoding: "utf8",
    env: { PATH: `${folder}:${process.env.PATH}`, ...environment },
  });
  assert.equal([status, stderr], [0, ""], text);
  return stdout.split("\n").filter((line) => line !== "" && line !== "default");
}

test("scripts: an upgrade starts the new program in the place of the old one, an installation does not", () => {
  const scripts = scriptsOf("postinst");
  assert.equal(Object.keys(scripts), ["opkg", "feed", "post-install", "post-upgrade"]);
  for (const [name, text] of Object.entries(scripts)) {
    const upgrades = name === "post-install" ? [] : ["restart"];
    assert.equal(runs(text, { PKG_UPGRADE: name === "post-install" ? "0" : "1" }), upgrades, name);
    // In an image that is being built nothing runs.
    assert.equal(runs(text, { PKG_UPGRADE: "1", IPKG_INSTROOT: "/nowhere" }), [], name);
    if (name !== "post-upgrade") assert.equal(runs(text, {}), [], name);
  }
});

test("scripts: who removes the package is rid of its rules, who upgrades it keeps them", () => {
  for (const [name, text] of Object.entries(scriptsOf("prerm"))) {
    assert.equal(runs(text, {}), ["remove"], name);
    assert.equal(runs(text, { PKG_UPGRADE: "1" }), [], name);
    assert.equal(runs(text, { IPKG_INSTROOT: "/nowhere" }), [], name);
  }
});

test("packages: both ways of making them ask for the same others, among them what the rules need of the kernel", () => {
  const makefile = readFileSync(join(root, "openwrt/gatehouse/Makefile"), "utf8");
  const [, feed] = /^ {2}DEPENDS:=((?:.*\\\n)*.*)$/m.exec(makefile)!;
  const wanted = [...feed!.matchAll(/\+(\S+)/g)].map(([, name]) => name!);
  const control = content(ipks[0], "control", "./control").toString();
  const depends = /^Depends: (.*)$/m.exec(control)![1]!.split(", ");
  assert.equal(
    depends.map((each) => each.replace(/ .*/, "")),
    ["libc", ...wanted],
  );
  // Older ones cannot run the program.
  const { engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    engines: { node: string };
  };
  assert.ok(depends.includes(`node (${engines.node.replace(">=", ">= ")})`));
  for (const module of ["nft-queue", "nft-bridge", "nft-nat", "tun", "nfnetlink-log", "nf-conntrack-netlink"])
    assert.ok(depends.includes(`kmod-${module}`), module);
  const command = readFileSync(join(tree, "dist/apk/make.sh"), "utf8");
  const apk = depends.map((each) => each.replace(/ \((>=) (\d+)\)/, "$1$2")).join(" ");
  assert.ok(command.includes(`"depends:${apk}"`), apk);
});

test("apk: trees hold what apk's packages hold beside, and the command names every script that is there", () => {
  const command = readFileSync(join(tree, "dist/apk/make.sh"), "utf8");
  for (const name of ["gatehouse", "luci-app-gatehouse"]) {
    const folder = join(tree, "dist/apk", name);
    const list = readFileSync(join(folder, `root/lib/apk/packages/${name}.list`), "utf8")
      .trim()
      .split("\n");
    assert.equal(list, [...list].sort());
    for (const path of list) {
      // The program's link points at where it is installed.
      assert.ok(existsSync(join(folder, "root", path)), path);
    }
    for (const script of ["post-install", "post-upgrade", "pre-deinstall"]) {
      assert.ok(command.includes(`--script ${script}:${name}/${script}`));
      const text = readFileSync(join(folder, script), "utf8");
      assert.match(text, /^#!\/bin\/sh\n/);
      assert.match(text, /^export root=/m);
      assert.ok(
        text.search(/^export root="\$\{IPKG_INSTROOT\}"$/m) < text.search(/^default_/m),
        `${name} ${script}`,
      );
      assert.match(text, new RegExp(`^export pkgname="${name}"$`, "m"));
      execFileSync("dash", ["-n"], { input: text });
    }
    assert.match(readFileSync(join(folder, "post-upgrade"), "utf8"), /^export PKG_UPGRADE=1$/m);
  }
  const [path, sum] = readFileSync(
    join(tree, "dist/apk/gatehouse/root/lib/apk/packages/gatehouse.conffiles_static"),
    "utf8",
  )
    .trim()
    .split(" ");
  assert.is(sum, hash(join(tree, "files", path!)));
  execFileSync("dash", ["-n", join(tree, "dist/apk/make.sh")]);
});

/** SuperFastHash of UTF-8 bytes, as LuCI's pages compute it. */
function hashOf(text: string): number {
  const bytes = Buffer.from(text);
  let hash = bytes.length >>> 0;
  let at = 0;
  for (; at + 4 <= bytes.length; at += 4) {
    hash = (hash + bytes.readUInt16LE(at)) >>> 0;
    hash = ((hash << 16) ^ (bytes.readUInt16LE(at + 2) << 11) ^ hash) >>> 0;
    hash = (hash + (hash >>> 11)) >>> 0;
  }
  const left = bytes.length - at;
  if (left >= 2) hash = (hash + bytes.readUInt16LE(at)) >>> 0;
  if (left === 3) hash = (hash ^ (hash << 16) ^ (bytes.readInt8(at + 2) << 18)) >>> 0;
  if (left === 2) hash = (hash ^ (hash << 11)) >>> 0;
  if (left === 1) {
    hash = (hash + bytes.readInt8(at)) >>> 0;
    hash = (hash ^ (hash << 10)) >>> 0;
  }
  if (left > 0) hash = (hash + (hash >>> (left === 3 ? 11 : left === 2 ? 17 : 1))) >>> 0;
  for (const [one, other] of [
    [3, 5],
    [4, 17],
    [25, 6],
  ] as const) {
    hash = (hash ^ (hash << one)) >>> 0;
    hash = (hash + (hash >>> other)) >>> 0;
  }
  return hash;
}

test("lmo: every translation is found by the hash of its English text, in an index in order", () => {
  const codes: Record<string, string> = { de: "de", nl: "nl", zh_Hans: "zh-cn" };
  for (const language of languages) {
    const bytes = content(ipks[1], "data", `./usr/lib/lua/luci/i18n/gatehouse.${codes[language]}.lmo`);
    const index = bytes.readUInt32BE(bytes.length - 4);
    const found = new Map<number, string>();
    let last = -1;
    for (let at = index; at < bytes.length - 4; at += 16) {
      const [key, , from, length] = [0, 4, 8, 12].map((offset) => bytes.readUInt32BE(at + offset)) as [
        number,
        number,
        number,
        number,
      ];
      assert.ok(key > last, "the index is in order");
      last = key;
      found.set(key, bytes.toString("utf8", from, from + length));
    }
    assert.match(found.get(0)!, /^nplurals=\d; plural=/);
    for (const [english, translated] of readCatalogue(`${language}/gatehouse.po`)) {
      assert.is(found.get(hashOf(english)) ?? english, translated, english);
    }
  }
});

test("feed: the Makefiles name the version that is packed, and every file that the package has", () => {
  const [plain] = version.split("-");
  for (const name of ["gatehouse", "luci-app-gatehouse"]) {
    const makefile = readFileSync(join(root, "openwrt", name, "Makefile"), "utf8");
    assert.match(makefile, new RegExp(`^PKG_VERSION:=${plain!.replaceAll(".", "\\.")}$`, "m"));
  }
  const makefile = readFileSync(join(root, "openwrt/gatehouse/Makefile"), "utf8");
  for (const [path, { mode }] of listing(ipks[0], "data")) {
    if (!mode.startsWith("-") || /netio|gatehouse\/gatehouse$/.test(path)) continue;
    assert.ok(makefile.includes(`/files${path}`), `${path} is not in the feed's Makefile`);
  }
  for (const link of ["htdocs", "po", "root/usr/share/luci", "root/usr/share/rpcd"]) {
    assert.ok(readdirSync(join(root, "openwrt/luci-app-gatehouse", link)).length > 0, link);
  }
});

test.run();
