/**
 * The service as a user of its own, with the rights in the shipped file and no others: what the init script prepares as
 * root, then its command line, in the lab's router. procd and ujail are not here: setpriv does what they do.
 */

import { execFileSync, spawnSync } from "node:child_process";
import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab, root } from "../lab/network.ts";
import { paths, servers } from "../lab/topology.ts";

const uid = 65_123;
const acl = "/usr/share/acl.d";
const init = join(root, "files/etc/init.d/gatehouse");
let lab: Lab;
let log = "";

/** Runs a function of the init script as root, with rc.common's reading of the configuration. */
function asRoot(text: string): number {
  const script = `
extra_command() { :; }
config_load() { :; }
config_get() {
	case "$2.$3" in
	main.run_dir) eval "$1=${paths.run}" ;;
	main.state_dir) eval "$1=${paths.state}" ;;
	main.rpc_socket) eval "$1=${paths.run}/spin_rpc.sock" ;;
	mqtt.password_file) eval "$1=/etc/gatehouse-password" ;;
	*) eval "$1=\${4:-}" ;;
	esac
}
. ${init}
${text}`;
  const { status, stderr } = spawnSync("dash", ["-eu", "-c", script], { encoding: "utf8" });
  assert.is(stderr, "");
  return status!;
}

test.before(async () => {
  lab = await Lab.up({ backend: "nft", agent: false });
  writeFileSync(
    "/etc/passwd",
    `${readFileSync("/etc/passwd", "utf8")}gatehouse:x:${uid}:${uid}::/:/bin/false\n`,
  );
  writeFileSync("/etc/group", `${readFileSync("/etc/group", "utf8")}gatehouse:x:${uid}:\n`);
  mkdirSync(acl, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", "mode=755", "tmpfs", acl]);
  writeFileSync(`${acl}/gatehouse.json`, readFileSync(join(root, "files", acl, "gatehouse.json")), {
    mode: 0o644,
  });
  writeFileSync(
    paths.configuration,
    readFileSync(paths.configuration, "utf8").replace(
      /^config gatehouse.*$/m,
      `$&\n\toption rpc_socket '${paths.run}/spin_rpc.sock'`,
    ),
    { mode: 0o600 },
  );
  writeFileSync("/etc/config/dhcp", readFileSync("/etc/config/dhcp"), { mode: 0o600 });
  await lab.bus.start();
});

test.after(async () => {
  await lab?.close();
  execFileSync("umount", ["--lazy", acl]);
});

test("hand_over: gives folders, configuration and secrets to the user, and nothing through a link", () => {
  mkdirSync(paths.state, { recursive: true });
  writeFileSync(join(paths.state, "old.json"), "{}", { mode: 0o600 });
  writeFileSync("/etc/gatehouse-password", "secret\n", { mode: 0o600 });
  writeFileSync("/etc/theirs", "theirs", { mode: 0o600 });
  symlinkSync("/etc/theirs", join(paths.state, "link"));
  assert.is(asRoot("hand_over"), 0);
  for (const path of [paths.state, paths.run, join(paths.state, "old.json"), "/etc/gatehouse-password"])
    assert.is(lstatSync(path).uid, uid, path);
  assert.is(lstatSync("/etc/gatehouse-password").mode & 0o777, 0o600);
  for (const path of [paths.configuration, "/etc/config/dhcp"]) {
    const { gid, uid: owner, mode } = lstatSync(path);
    assert.equal([owner, gid, mode & 0o777], [0, uid, 0o640], path);
  }
  assert.is(lstatSync("/etc/theirs").uid, 0);
  assert.is(readlinkSync("/var/run/spin_rpc.sock"), `${paths.run}/spin_rpc.sock`);
  // What uci or an editor writes anew is root's alone, until the next reload.
  chownSync(paths.configuration, 0, 0);
  assert.is(asRoot("hand_over"), 0);
  assert.is(lstatSync(paths.configuration).gid, uid);
});

test("the agent as that user sees, blocks, leases, publishes and saves, without a complaint", async () => {
  const rights = JSON.parse(
    readFileSync(join(root, "files/etc/capabilities/gatehouse.json"), "utf8"),
  ) as Record<string, string[]>;
  const lists = Object.values(rights);
  assert.is(lists.length, 5);
  for (const list of lists) assert.equal(list, lists[0]);
  const caps = lists[0]!.map((name) => `+${name.replace("CAP_", "").toLowerCase()}`).join(",");
  const child = lab.spawn(
    "router",
    [
      ...["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--no-new-privs"],
      ...[`--inh-caps=-all,${caps}`, `--ambient-caps=-all,${caps}`, `--bounding-set=-all,${caps}`],
      ...[process.execPath, join(root, "dist/gatehouse"), "-s", paths.bus, "run", "-c", paths.configuration],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (chunk) => (log += String(chunk)));
  const ask = (object: string, method: string, args: object = {}) => lab.call(object, method, args);
  await eventually(
    "an agent",
    async () =>
      (await ask("gatehouse", "status").catch(() => ({}) as Record<string, unknown>)).ready === true ||
      undefined,
  );

  const download = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "tcp" });
  const laptop = await eventually("the laptop", async () => {
    const { nodes } = (await ask("gatehouse.nodes", "list")) as unknown as {
      nodes: { id: number; ips: string[] }[];
    };
    return nodes.find(({ ips }) => ips.includes("10.77.0.10"))?.id;
  });
  await ask("gatehouse.flows", "list_add", { list: "block", node: laptop });
  await download.isCut();
  const lease = await ask("gatehouse.tables", "request", {
    family: "inet",
    interface: "wan",
    address: "203.0.113.2",
  });
  assert.match(await lab.must("router", ["ip", "rule"]), new RegExp(`lookup ${lease.table}`));
  const found = await ask("gatehouse.neighbours", "resolve", {
    address: "10.77.0.11",
    device: "br-lan",
    fresh: true,
    probe: "packet",
  });
  assert.is(found.verified, true);
  const { file } = await ask("gatehouse.capture", "start", { node: laptop });
  assert.ok(existsSync(String(file)));
  await lab.must("router", ["mosquitto_sub", "-t", "SPIN/list/block", "-C", "1", "-W", "5"]);
  assert.ok(lstatSync(`${paths.run}/spin_rpc.sock`).isSocket());
  const { damaged, storage, senses } = (await ask("gatehouse", "status")) as Record<string, unknown>;
  assert.equal([damaged, storage], [[], []]);
  assert.ok(senses);
  assert.match(readFileSync(join(paths.state, "flows.json"), "utf8"), new RegExp(`${laptop}`));
  assert.match(readFileSync(join(paths.state, "flows.nft"), "utf8"), /10\.77\.0\.10/);
  // What it may not do, it does not try: nothing was denied.
  const denied = log.split("\n").filter((line) => /denied|EACCES|EPERM|not permitted/i.test(line));
  assert.equal(denied, []);
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  assert.match(status, new RegExp(`^Uid:\\s+${uid}\\s+${uid}\\s+${uid}\\s+${uid}$`, "m"));
  for (const set of ["CapPrm", "CapEff", "CapBnd", "CapAmb"])
    assert.match(status, new RegExp(`^${set}:\\s+0000000000003000$`, "m"));
  assert.match(status, /^NoNewPrivs:\s+1$/m);
  await download.end();
  child.kill("SIGTERM");
  await new Promise((resolve) => (child.exitCode === null ? child.on("exit", resolve) : resolve(undefined)));
  assert.is(child.exitCode, 0, log);
});

test("what it left is loaded again at boot, by root", async () => {
  await lab.must("router", ["nft", "flush", "ruleset"]);
  await lab.must("router", ["sh", join(root, "files/usr/lib/gatehouse/boot.sh"), paths.state]);
  assert.match(await lab.must("router", ["nft", "list", "ruleset"]), /10\.77\.0\.10/);
});

test.run();
