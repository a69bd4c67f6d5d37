/**
 * The scripts that OpenWrt runs, with stand-ins for what they call there: rc.common and procd, uci, hotplug.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

const root = process.cwd();
const file = (path: string) => join(root, "files", path);
const init = file("etc/init.d/gatehouse");

/** Runs shell text after these stand-ins; each writes a line of what it was called with. */
function shell(text: string, environment: Readonly<Record<string, string>> = {}): string[] {
  const standIns = `
say() { echo "$*"; }
for name in procd_open_instance procd_set_param procd_close_instance procd_add_reload_trigger procd_send_signal \\
  procd_add_jail procd_add_jail_mount procd_add_jail_mount_rw \\
  config_load restart uci; do eval "$name() { say $name \\"\\$@\\"; }"; done
extra_command() { :; }
config_get() { eval "$1=\${STATE_DIR:-\\$4}"; }
sh() { say sh "$@"; }
start() { say start; start_service; }
`;
  const { stdout, stderr, status } = spawnSync("dash", ["-eu", "-c", standIns + text], {
    encoding: "utf8",
    env: { PATH: process.env.PATH, ...environment },
  });
  assert.is(status, 0, stderr);
  assert.is(stderr, "");
  return stdout.split("\n").filter(Boolean);
}

test("every script is clean by shellcheck", () => {
  const scripts = [
    init,
    file("usr/lib/gatehouse/boot.sh"),
    file("usr/lib/gatehouse/firewall.sh"),
    file("usr/lib/gatehouse/zones.sh"),
    file("usr/lib/gatehouse/segments.sh"),
    file("usr/lib/gatehouse/remove.sh"),
    file("etc/hotplug.d/iface/90-gatehouse"),
    file("etc/uci-defaults/90-gatehouse"),
    join(root, "openwrt/package.sh"),
  ];
  const { stdout, error } = spawnSync("shellcheck", ["--shell=dash", ...scripts], { encoding: "utf8" });
  assert.is(error, undefined);
  assert.is(stdout, "");
});

test("init: boots before the network, and puts blocks in force before the program starts", () => {
  const [, number] = /^START=(\d+)$/m.exec(readFileSync(init, "utf8"))!;
  assert.ok(Number(number) < 20, "network starts at 20");
  const lines = shell(`. ${init}; boot`);
  const load = lines.indexOf("sh /usr/lib/gatehouse/boot.sh /etc/gatehouse");
  const program = lines.findIndex((line) => line.startsWith("procd_set_param command"));
  assert.ok(load >= 0 && load < program, lines.join("\n"));
});

test("init: the state directory is the configured one", () => {
  const lines = shell(`. ${init}; boot`, { STATE_DIR: "/mnt/usb/gatehouse" });
  assert.ok(lines.includes("sh /usr/lib/gatehouse/boot.sh /mnt/usb/gatehouse"));
});

test("init: one instance, started again for ever, its lines in the log", () => {
  const lines = shell(`. ${init}; start_service`).filter((line) => line.startsWith("procd_"));
  assert.is(lines[0], "procd_open_instance");
  assert.is(lines.at(-1), "procd_close_instance");
  for (const wanted of [
    "command /usr/sbin/gatehouse run -c /etc/config/gatehouse",
    "respawn 3600 5 0",
    "stdout 1",
    "stderr 1",
    "term_timeout 10",
    "reload_signal HUP",
  ]) {
    assert.ok(lines.includes(`procd_set_param ${wanted}`), wanted);
  }
});

test("init: where there is a jail it runs as a user of its own, with the rights in the file and no others", () => {
  const lines = shell(`. ${init}; can_jail() { true; }; hand_over() { say hand_over; }; start_service`);
  const program = lines.findIndex((line) => line.startsWith("procd_set_param command"));
  assert.ok(lines.indexOf("hand_over") >= 0 && lines.indexOf("hand_over") < program, lines.join("\n"));
  for (const wanted of [
    "command /usr/bin/node /usr/lib/gatehouse/gatehouse run -c /etc/config/gatehouse",
    "user gatehouse",
    "group gatehouse",
    "capabilities /etc/capabilities/gatehouse.json",
    "no_new_privs 1",
    "reload_signal HUP",
  ]) {
    assert.is(lines.filter((line) => line === `procd_set_param ${wanted}`).length, 1, wanted);
  }
  const mounts = lines
    .filter((line) => line.startsWith("procd_add_jail_mount "))
    .join(" ")
    .split(" ");
  for (const path of ["/usr/lib/gatehouse", "/etc/config", "/etc/passwd", "/tmp"])
    assert.ok(mounts.includes(path), path);
  const writable = lines.filter((line) => line.startsWith("procd_add_jail_mount_rw ")).at(-1);
  assert.is(writable, "procd_add_jail_mount_rw /etc/gatehouse /var/run/gatehouse /proc/sys/net");
});

test("init: where nothing can be handed over, it runs as root", () => {
  const lines = shell(`. ${init}; can_jail() { true; }; hand_over() { return 1; }; start_service`);
  assert.ok(lines.includes("procd_set_param command /usr/sbin/gatehouse run -c /etc/config/gatehouse"));
  assert.not.ok(lines.some((line) => / (?:user|capabilities) |procd_add_jail/.test(line)));
});

test("init: a folder that others may use too is not given away", () => {
  for (const folder of [
    "/",
    "/etc",
    "/etc/",
    "/etc/gatehouse/..",
    "/mnt/gatehouse/../../etc",
    "gatehouse",
    "/etc/gatehouses",
  ])
    assert.equal(shell(`. ${init}; is_own '${folder}' && say own || say shared`), ["shared"], folder);
  for (const folder of ["/etc/gatehouse", "/mnt/usb/gatehouse", "/var/run/gatehouse/x"])
    assert.equal(shell(`. ${init}; is_own '${folder}' && say own || say shared`), ["own"], folder);
});

test("boot: lines that would run a program are not loaded, whatever they look like", () => {
  const boot = file("usr/lib/gatehouse/boot.sh");
  for (const [line, status] of [
    ["-A INPUT -s 192.0.2.1 -j DROP", 0],
    ["-A INPUT -m mac --mac-source 02:00:00:00:00:01 -j DROP", 0],
    ["-A INPUT -s 192.0.2.1 -m comment --comment \"gatehouse 12ab: -M of 'ours'\" -j DROP", 0],
    ['-A INPUT -m comment --comment "x" --modprobe=/run/scratch/program -j DROP', 1],
    ["-A INPUT --modprobe=/run/scratch/program -s 192.0.2.1 -j DROP", 1],
    ["-A INPUT --mod /run/scratch/program -s 192.0.2.1 -j DROP", 1],
    ["-A INPUT -M /run/scratch/program -j DROP", 1],
    ["-A INPUT -nM/run/scratch/program -j DROP", 1],
    [`-A INPUT -"-modprobe"=/run/scratch/program -j DROP`, 1],
  ] as const) {
    const state = mkdtempSync(join(tmpdir(), "state-"));
    writeFileSync(join(state, "flows.iptables"), `*filter\n${line}\nCOMMIT\n# complete\n`);
    assert.is(spawnSync("sh", [boot, state]).status, status, line);
    const rules = execFileSync("iptables-save", { encoding: "utf8" });
    assert.is(/-j DROP/.test(rules), status === 0, line);
    execFileSync("nft", ["flush", "ruleset"]);
  }
});

test("init: a change of network, dhcp, firewall, system or its own reloads it, by a signal and not by a restart", () => {
  assert.equal(
    shell(`. ${init}; service_triggers`).filter((line) => line.includes("trigger")),
    ["procd_add_reload_trigger gatehouse network dhcp firewall system"],
  );
  const reload = (text: string) =>
    shell(`. ${init}; hears() { true; }; fits() { say fits "$@"; }; ${text}; reload_service`);
  const signal = [
    "uci -q show gatehouse",
    "procd_send_signal gatehouse",
    "sh /usr/lib/gatehouse/zones.sh put",
    "sh /usr/lib/gatehouse/segments.sh put",
  ];
  const said = (lines: readonly string[]) => lines.filter((line) => !/^(?:fits|hand_over|uci)/.test(line));
  assert.equal(said(reload("can_jail() { false; }")), signal.slice(1));
  // What was written anew meanwhile belongs to root again.
  const jailed = reload("can_jail() { true; }; hand_over() { say hand_over; }");
  assert.is(jailed[0], "hand_over");
  assert.equal(said(jailed), signal.slice(1));
  // Who does not hear yet reads all that there is when it does.
  const deaf = reload("can_jail() { false; }; hears() { false; }");
  assert.equal(said(deaf), signal.slice(2));
  const another = reload("can_jail() { false; }; fits() { false; }");
  assert.equal(said(another), ["restart"]);
});

test("init: dnsmasq is told of the gateway's domains at each start, and that there are none at the end", () => {
  const told = (text: string) => shell(`. ${init}; ${text}`).filter((line) => line.includes("zones.sh"));
  assert.equal(told("start_service"), ["sh /usr/lib/gatehouse/zones.sh put"]);
  assert.equal(told("action=stop; stop_service"), ["sh /usr/lib/gatehouse/zones.sh clear"]);
  assert.equal(told("action=restart; stop_service; start_service"), ["sh /usr/lib/gatehouse/zones.sh put"]);
});

const hotplug = (environment: Record<string, string>, running = 0) => {
  const folder = mkdtempSync(join(tmpdir(), "hotplug-"));
  mkdirSync(join(folder, "etc/init.d"), { recursive: true });
  const service = join(folder, "gatehouse");
  writeFileSync(service, `#!/bin/sh\n[ "$1" = running ] && exit ${running}\necho "$1"\n`, { mode: 0o755 });
  const text = readFileSync(file("etc/hotplug.d/iface/90-gatehouse"), "utf8").replaceAll(
    "/etc/init.d/gatehouse",
    service,
  );
  // As hotplug-call does it: sourced, in a subshell, without any of our stand-ins, unset variables allowed.
  return execFileSync("dash", ["-c", text], {
    encoding: "utf8",
    env: { PATH: process.env.PATH, ...environment },
  }).trim();
};

test("hotplug: an interface that comes, goes or gets other addresses reloads the agent, if it runs", () => {
  for (const ACTION of ["ifup", "ifdown"]) assert.is(hotplug({ ACTION, INTERFACE: "wan" }), "reload");
  assert.is(hotplug({ ACTION: "ifupdate", INTERFACE: "wan6", IFUPDATE_ADDRESSES: "1" }), "reload");
  assert.is(hotplug({ ACTION: "ifupdate", INTERFACE: "wan6", IFUPDATE_PREFIXES: "1" }), "reload");
  assert.is(hotplug({ ACTION: "ifupdate", INTERFACE: "wan6", IFUPDATE_DATA: "1" }), "");
  assert.is(hotplug({ ACTION: "ifup", INTERFACE: "loopback" }), "");
  assert.is(hotplug({ ACTION: "ifup-failed", INTERFACE: "wan" }), "");
  assert.is(hotplug({ ACTION: "ifup", INTERFACE: "wan" }, 1), "");
});

/** Sources the firewall's include as fw4 does, with our scripts where the router has them. */
function include(state: string): void {
  const text = readFileSync(file("usr/lib/gatehouse/firewall.sh"), "utf8");
  const folder = mkdtempSync(join(tmpdir(), "include-"));
  const path = join(folder, "firewall.sh");
  writeFileSync(path, text.replaceAll("/usr/lib/gatehouse/", file("usr/lib/gatehouse/")));
  execFileSync("sh", ["-c", `uci() { echo ${state}; }; exec 1>&2; . ${path}`], {
    stdio: ["ignore", "ignore", "pipe"],
  });
}

const ruleset = () => execFileSync("nft", ["list", "ruleset"], { encoding: "utf8" });

test("firewall: its include puts the blocks in force again after a flush, and twice is once", () => {
  const state = mkdtempSync(join(tmpdir(), "state-"));
  const table = "table inet gatehouse_flows";
  const text = `${table}\ndelete ${table}\n${table} {\n\tchain forward {\n\t\ttype filter hook forward priority -5;\n\t\tip saddr 192.0.2.1 drop\n\t}\n}\n# complete\n`;
  writeFileSync(join(state, "flows.nft"), text);
  include(state);
  const once = ruleset();
  assert.match(once, /ip saddr 192\.0\.2\.1 drop/);
  include(state);
  assert.is(ruleset(), once);
  execFileSync("nft", ["flush", "ruleset"]);
  assert.not.match(ruleset(), /gatehouse/);
  include(state);
  assert.is(ruleset(), once);
  execFileSync("nft", ["flush", "ruleset"]);
});

test("uci-defaults: gives the firewall our include, in words of uci, and is done in one go", () => {
  const folder = mkdtempSync(join(tmpdir(), "uci-"));
  writeFileSync(join(folder, "uci"), '#!/bin/sh\necho "$@"\ncat\n', { mode: 0o755 });
  const run = () =>
    execFileSync("sh", [file("etc/uci-defaults/90-gatehouse")], {
      encoding: "utf8",
      env: { PATH: `${folder}:${process.env.PATH}` },
    });
  const lines = run().trim().split("\n");
  assert.is(lines[0], "-q batch");
  assert.is(lines.at(-1), "commit firewall");
  // A named section: set twice it is still one.
  assert.ok(
    lines.slice(1, -1).every((line) => /^set firewall\.gatehouse(?:\.\w+)?=/.test(line)),
    lines.join("\n"),
  );
  assert.is(run(), run());
  const [, path] = /path='([^']+)'/.exec(lines.join("\n"))!;
  assert.ok(readdirSync(file("usr/lib/gatehouse")).includes(path!.split("/").at(-1)!));
});

test("keep.d: sysupgrade keeps the state directory", () => {
  const text = readFileSync(file("lib/upgrade/keep.d/gatehouse"), "utf8");
  assert.is(text, "/etc/gatehouse/\n");
  assert.match(readFileSync(file("etc/config/gatehouse"), "utf8"), /option state_dir '\/etc\/gatehouse'/);
});

test.run();
