/** dnsmasq is told which domains the gateway answers, in the folders of every OpenWrt, and restarted only for a change. */

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

const script = join(process.cwd(), "files/usr/lib/gatehouse/zones.sh");
const name = "gatehouse-ipref.conf";

/** A router on paper: its settings, and what its dnsmasq's service was told. */
class Router {
  readonly folder = mkdtempSync(join(tmpdir(), "zones-"));
  /** What `uci` says, by option. */
  settings: Record<string, string> = {};
  sections = ["cfg01411c"];
  running = true;

  /** @param words how the service's own script names its folder */
  constructor(words: string) {
    mkdirSync(join(this.folder, "tmp"), { recursive: true });
    const told = join(this.folder, "told");
    writeFileSync(
      join(this.folder, "dnsmasq"),
      `#!/bin/sh\n# ${words}\ncase $1 in running) [ -e ${this.folder}/running ] ;; *) echo "$1" >>${told} ;; esac\n`,
      { mode: 0o755 },
    );
    const text = readFileSync(script, "utf8")
      .replaceAll("/etc/init.d/dnsmasq", join(this.folder, "dnsmasq"))
      .replaceAll("/tmp/dnsmasq", join(this.folder, "tmp/dnsmasq"));
    writeFileSync(join(this.folder, "zones.sh"), text);
    const uci = `#!/bin/sh
[ "$1" = -q ] && shift
[ "$1" = -X ] && shift
case $1 in show) cat ${this.folder}/sections ;; get) cat "${this.folder}/uci.$2" 2>/dev/null ;; esac
`;
    writeFileSync(join(this.folder, "uci"), uci, { mode: 0o755 });
  }

  /** Runs it. @returns what the service was told. */
  run(verb: "put" | "clear"): string[] {
    for (const file of readdirSync(this.folder)) {
      if (file.startsWith("uci.") || file === "told" || file === "running")
        spawnSync("rm", [join(this.folder, file)]);
    }
    if (this.running) writeFileSync(join(this.folder, "running"), "");
    for (const [option, value] of Object.entries(this.settings))
      writeFileSync(join(this.folder, `uci.${option}`), value);
    const lines = this.sections.flatMap((each) => [`dhcp.${each}=dnsmasq`, `dhcp.${each}.port='53'`]);
    writeFileSync(join(this.folder, "sections"), `${lines.join("\n")}\ndhcp.lan=dhcp\n`);
    const { status, stdout, stderr } = spawnSync("dash", [join(this.folder, "zones.sh"), verb], {
      encoding: "utf8",
      env: { PATH: `${this.folder}:${process.env.PATH}` },
    });
    assert.equal([status, stdout, stderr], [0, "", ""]);
    const told = join(this.folder, "told");
    return existsSync(told) ? readFileSync(told, "utf8").trim().split("\n") : [];
  }

  read(folder: string): string | undefined {
    const path = join(this.folder, "tmp", folder, name);
    return existsSync(path) ? readFileSync(path, "utf8") : undefined;
  }
}

const older = 'config_get dnsmasqconfdir "$cfg" confdir "/tmp/dnsmasq.d"';
// biome-ignore lint/suspicious/noTemplateCurlyInString: it is the shell's
const newer = 'config_get dnsmasqconfdir "$cfg" confdir "/tmp/dnsmasq${cfg:+.$cfg}.d"';
const on = { "gatehouse.ipref.enabled": "1", "gatehouse.ipref.zone": "parents.example. cabin.example" };
const lines = (port: number) =>
  ["parents.example", "cabin.example"]
    .map((zone) => `server=/${zone}/127.0.0.1#${port}\nrebind-domain-ok=/${zone}/\n`)
    .join("");

test("zones: are written where this OpenWrt's dnsmasq looks, which is restarted once", () => {
  for (const [words, folder] of [
    [older, "dnsmasq.d"],
    [newer, "dnsmasq.cfg01411c.d"],
  ] as const) {
    const router = new Router(words);
    router.settings = on;
    assert.equal(router.run("put"), ["restart"]);
    assert.is(router.read(folder), lines(5_364));
    assert.equal(readdirSync(join(router.folder, "tmp")), [folder]);
    assert.equal(readdirSync(join(router.folder, "tmp", folder)), [name], "nothing else stays there");
    assert.equal(router.run("put"), [], "nothing has changed");
    router.settings = { ...on, "gatehouse.ipref.dns_port": "5399" };
    assert.equal(router.run("put"), ["restart"]);
    assert.is(router.read(folder), lines(5_399));
    assert.equal(router.run("clear"), ["restart"]);
    assert.is(router.read(folder), undefined);
    assert.equal(router.run("clear"), []);
  }
});

test("zones: go when the gateway is switched off or has none, and a gateway that is off leaves dnsmasq alone", () => {
  const router = new Router(newer);
  for (const settings of [
    {},
    { ...on, "gatehouse.ipref.enabled": "0" },
    { "gatehouse.ipref.enabled": "1" },
  ] as Record<string, string>[]) {
    router.settings = settings;
    assert.equal(router.run("put"), []);
    router.settings = { ...on, "gatehouse.ipref.enabled": "yes" };
    assert.equal(router.run("put"), ["restart"]);
    router.settings = settings;
    assert.equal(router.run("put"), ["restart"]);
    assert.is(router.read("dnsmasq.cfg01411c.d"), undefined);
  }
});

test("zones: every dnsmasq gets them, in the folder of its own that it was given", () => {
  const router = new Router(newer);
  router.sections = ["cfg01411c", "guest_dns"];
  const own = join(router.folder, "tmp/own");
  router.settings = { ...on, "dhcp.guest_dns.confdir": `${own},*.conf` };
  assert.equal(router.run("put"), ["restart"]);
  for (const folder of ["own", "dnsmasq.cfg01411c.d"]) assert.is(router.read(folder), lines(5_364), folder);
});

test("zones: a dnsmasq that does not run is not started", () => {
  const router = new Router(newer);
  router.settings = on;
  router.running = false;
  assert.equal(router.run("put"), []);
  assert.is(router.read("dnsmasq.cfg01411c.d"), lines(5_364));
});

test("zones: what is no domain, or no port, never becomes a line", () => {
  const router = new Router(newer);
  router.settings = { ...on, "gatehouse.ipref.zone": 'a/b parents.example x#y cabin.example "q" *' };
  router.run("put");
  assert.is(router.read("dnsmasq.cfg01411c.d"), lines(5_364));
  router.settings = { ...on, "gatehouse.ipref.dns_port": "53\nconf-file=/etc/shadow" };
  router.run("put");
  assert.is(router.read("dnsmasq.cfg01411c.d"), undefined);
});

test("zones: dnsmasq takes the lines", () => {
  const router = new Router(newer);
  router.settings = on;
  router.run("put");
  const { status, stderr } = spawnSync(
    "dnsmasq",
    ["--test", `--conf-dir=${join(router.folder, "tmp/dnsmasq.cfg01411c.d")}`, "--conf-file=/dev/null"],
    { encoding: "utf8" },
  );
  assert.is(status, 0, stderr);
});

test("zones: a wrong word is answered with how it is used", () => {
  const { status, stderr } = spawnSync("dash", [script, "nonsense"], { encoding: "utf8" });
  assert.equal([status, stderr], [2, "usage: zones.sh put|clear\n"]);
});

test.run();
