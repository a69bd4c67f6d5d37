/**
 * The service as a user of its own, in a jail with what the init script asks for and nothing else: what it prepares as
 * root, then its command line, in the lab's router. procd and ujail are not here: jail.ts does what they do.
 */

import { type ChildProcess, execFileSync } from "node:child_process";
import {
  chownSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseUci } from "../../src/config/uci.ts";
import { eventually } from "../lab/children.ts";
import { Lab, root } from "../lab/network.ts";
import { paths, servers } from "../lab/topology.ts";
import { askedOf, initScript, jailed, programIn } from "./jail.ts";

const uid = 65_123;
const acl = "/usr/share/acl.d";
const init = join(root, "files/etc/init.d/gatehouse");
const secrets = "/etc/elsewhere";
let lab: Lab;
let log = "";
let child: ChildProcess;

/** What rc.common would make of the file: each option, by section and name; of a list the whole. */
function settings(): string {
  const { sections } = parseUci(readFileSync(paths.configuration, "utf8"));
  const lines = sections.flatMap((section) =>
    [...section.options].map(
      ([name, value]) => `${section.name}.${name}) eval "$1='${[value].flat().join(" ")}'" ;;`,
    ),
  );
  return `
can_jail() { true; }
config_get() {
	case "$2.$3" in
	${lines.join("\n\t")}
	*) eval "$1=\${4:-}" ;;
	esac
}
`;
}

/** Runs a function of the init script as root, with rc.common's reading of the configuration. */
function asRoot(text: string): string {
  return initScript(init, "router", `${settings()}\n${text}`);
}

const asked = () => askedOf(asRoot("start_service"));

function rights(): readonly string[] {
  const file = readFileSync(join(root, "files/etc/capabilities/gatehouse.json"), "utf8");
  const lists = Object.values(JSON.parse(file) as Record<string, string[]>);
  assert.is(lists.length, 5);
  for (const list of lists) assert.equal(list, lists[0]);
  return lists[0]!.map((name) => name.replace("CAP_", ""));
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
    `${readFileSync(paths.configuration, "utf8")
      .replace(/^config gatehouse.*$/m, `$&\n\toption rpc_socket '${paths.run}/spin_rpc.sock'`)
      .replace(
        /^config mqtt.*$/m,
        `$&\n\toption user 'us'\n\toption password_file '/etc/gatehouse-password'`,
      )}
config ipref 'ipref'
	option enabled '1'
	option gateway_bind '203.0.113.2'
	option mapper_socket '${paths.run}/mapper.sock'

config isolation 'isolation'
	option enabled '1'
	option http '127.0.0.1:8443'
	option http_cert '${secrets}/door.pem'
	option http_key '${secrets}/door.key'
	option key_file '${secrets}/network.key'
`,
    { mode: 0o600 },
  );
  mkdirSync(secrets, { mode: 0o755 });
  const subject = ["-subj", "/CN=databox-network", "-days", "2"];
  const files = ["-keyout", `${secrets}/door.key`, "-out", `${secrets}/door.pem`];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", ...subject, ...files], {
    stdio: "ignore",
  });
  writeFileSync(`${secrets}/network.key`, "the key of the door\n", { mode: 0o600 });
  writeFileSync(`${secrets}/others.key`, "not ours\n", { mode: 0o644 });
  // The machine's own is left alone.
  execFileSync("sh", ["-c", "mount -t tmpfs tmpfs /dev/net && mknod -m 600 /dev/net/tun c 10 200"]);
  writeFileSync("/etc/config/dhcp", readFileSync("/etc/config/dhcp"), { mode: 0o600 });
  await lab.bus.start();
});

test.after(async () => {
  await lab?.close();
  execFileSync("umount", ["--lazy", acl, "/dev/net"]);
});

test("hand_over: gives folders, configuration and secrets to the user, and nothing through a link", () => {
  mkdirSync(paths.state, { recursive: true });
  writeFileSync(join(paths.state, "old.json"), "{}", { mode: 0o600 });
  writeFileSync("/etc/gatehouse-password", "secret\n", { mode: 0o600 });
  writeFileSync("/etc/theirs", "theirs", { mode: 0o600 });
  symlinkSync("/etc/theirs", join(paths.state, "link"));
  asRoot("hand_over");
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
  asRoot("hand_over");
  assert.is(lstatSync(paths.configuration).gid, uid);
});

test("the agent as that user sees, blocks, leases, publishes and saves, without a complaint", async () => {
  const start = asked();
  assert.is(start.user, "gatehouse");
  const argv = jailed(start, {
    from: {
      "/usr/lib/gatehouse": join(root, "dist"),
      "/usr/bin/node": process.execPath,
      "/var/run/ubus/ubus.sock": paths.bus,
    },
    uid,
    rights: rights(),
    script: join(paths.folder, "jail.sh"),
  });
  child = lab.spawn("router", argv, { stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (chunk) => (log += String(chunk)));
  const ask = (object: string, method: string, args: object = {}) => lab.call(object, method, args);
  await eventually("an agent", async () => {
    assert.is(child.exitCode, null, log);
    return (await ask("gatehouse", "status").catch(() => ({}) as Record<string, unknown>)).ready === true;
  });

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
  // The door has its certificate and key, and knows its own.
  const door = ["curl", "-s", "-k", "-H", "X-API-KEY: the key of the door", "https://127.0.0.1:8443/status"];
  assert.match(await lab.must("router", door), /\S/);
  assert.match(await lab.must("router", ["ip", "link", "show", "ipref"]), /ipref/);
  // What it may not do, it does not try: nothing was denied, and nothing was missed.
  const denied = log.split("\n").filter((line) => /denied|EACCES|EPERM|not permitted|Cannot/i.test(line));
  assert.equal(denied, []);
  const pid = programIn(start);
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  assert.match(status, new RegExp(`^Uid:\\s+${uid}\\s+${uid}\\s+${uid}\\s+${uid}$`, "m"));
  for (const set of ["CapPrm", "CapEff", "CapBnd", "CapAmb"])
    assert.match(status, new RegExp(`^${set}:\\s+0000000000003000$`, "m"));
  assert.match(status, /^NoNewPrivs:\s+1$/m);
  // Of the folder with its secrets it sees these, and nothing that is not its own.
  assert.equal(readdirSync(`/proc/${pid}/root${secrets}`), ["door.key", "door.pem", "network.key"]);
  for (const path of ["/etc/shadow", "/root", "/work"])
    assert.not.ok(existsSync(`/proc/${pid}/root${path}`), path);
  await download.end();
});

/** What a reload comes to. */
const reload = () =>
  asRoot("reload_service")
    .split("\n")
    .filter((line) => /^(?:restart|procd_send_signal)/.test(line));

test("reload: a signal, as long as the jail shows what it has to; else another jail", () => {
  const before = readFileSync(paths.configuration, "utf8");
  assert.equal(reload(), ["procd_send_signal gatehouse"]);
  // What is written in place is seen there, and what is in a folder that is shown.
  writeFileSync("/etc/hosts", `${readFileSync("/etc/hosts", "utf8")}# more\n`);
  writeFileSync("/etc/config/new", before);
  renameSync("/etc/config/new", paths.configuration);
  assert.equal(reload(), ["procd_send_signal gatehouse"]);
  for (const path of ["/etc/hosts", `${secrets}/door.pem`, "/etc/gatehouse-password"]) {
    copyFileSync(path, `${path}.new`);
    renameSync(path, `${path}.before`);
    renameSync(`${path}.new`, path);
    assert.equal(reload(), ["restart"], path);
    renameSync(`${path}.before`, path);
    assert.equal(reload(), ["procd_send_signal gatehouse"], path);
  }
  for (const [from, to] of [
    [`option state_dir '${paths.state}'`, "option state_dir '/etc/other/gatehouse'"],
    [`option run_dir '${paths.run}'`, "option run_dir '/run/other/gatehouse'"],
    ["option key_file '", "option key_file '/etc/hostname' #"],
    // What is not for it alone is not given away: then it is root, and in no jail.
    [`option state_dir '${paths.state}'`, "option state_dir '/etc'"],
  ] as const) {
    assert.ok(before.includes(from));
    writeFileSync(paths.configuration, before.replace(from, to));
    assert.equal(reload(), ["restart"], to);
    // As long as nobody can read what is configured, it stays where it is.
    assert.match(asRoot("uci() { false; }; reload_service"), /^procd_send_signal gatehouse$/m);
    writeFileSync(paths.configuration, before);
  }
  assert.equal(reload(), ["procd_send_signal gatehouse"]);
});

test("the jailed agent ends in order", async () => {
  const pid = programIn(asked());
  process.kill(pid, "SIGTERM");
  await eventually("its end", () => child.exitCode !== null);
  assert.is(child.exitCode, 0, log);
  assert.equal(reload(), [], "who is not there is told nothing");
});

test("what it left is loaded again at boot, by root", async () => {
  await lab.must("router", ["nft", "flush", "ruleset"]);
  await lab.must("router", ["sh", join(root, "files/usr/lib/gatehouse/boot.sh"), paths.state]);
  assert.match(await lab.must("router", ["nft", "list", "ruleset"]), /10\.77\.0\.10/);
});

test.run();
