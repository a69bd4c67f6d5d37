/**
 * A jail as procd-ujail makes it of what the init script asks for: an empty root with nothing in it but what is mounted
 * there, /dev, /proc and /sys as it makes them, the libraries that programs need, one user, and the rights in a file.
 *
 * What is to be mounted and is not there ends it, so that a test tells. The program keeps its command line.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import * as assert from "uvu/assert";

/** What the init script asks procd for. */
export interface Asked {
  readonly command: readonly string[];
  readonly shown: readonly string[];
  readonly writable: readonly string[];
  readonly user: string;
}

/** Text that stands in for rc.common and procd: each call that asks for something is a line. */
export const procd = `
extra_command() { :; }
config_load() { :; }
uci() { :; }
sh() { :; }
for name in procd_open_instance procd_set_param procd_close_instance procd_send_signal \\
	procd_add_jail procd_add_jail_mount procd_add_jail_mount_rw restart; do
	eval "$name() { echo $name \\"\\$@\\"; }"
done
`;

/** Reads the lines that calls of `procd` left. */
export function askedOf(lines: string): Asked {
  const all = (name: string) =>
    lines
      .split("\n")
      .flatMap((line) => (line.startsWith(`${name} `) ? line.slice(name.length + 1).split(" ") : []));
  return {
    command: all("procd_set_param command"),
    shown: all("procd_add_jail_mount"),
    writable: all("procd_add_jail_mount_rw"),
    user: all("procd_set_param user").join(" "),
  };
}

/** The libraries of a program, and its loader. */
function librariesOf(path: string): string[] {
  const { stdout, status } = spawnSync("ldd", [path], { encoding: "utf8" });
  return status === 0 ? [...stdout.matchAll(/(?:^|\s)(\/\S+)(?= \()/g)].map(([, each]) => each!) : [];
}

export interface Cell {
  /** Shown where they are not: path in the jail → path outside. */
  readonly from: Readonly<Record<string, string>>;
  readonly uid: number;
  /** NET_ADMIN, … */
  readonly rights: readonly string[];
  /** Where the jail's script may lie. */
  readonly script: string;
}

/** The command that runs what was asked for; its process becomes the program. */
export function jailed(asked: Asked, cell: Cell): string[] {
  const { from, uid, rights, script } = cell;
  const sourceOf = (path: string) => from[path] ?? path;
  // ujail adds the user's files and what programs need; setpriv is what we have in its place.
  const programs = [asked.command[0]!, ...asked.shown, "/usr/bin/setpriv"];
  const libraries = programs.flatMap((path) => librariesOf(sourceOf(path)));
  const more = [
    ...libraries,
    asked.command[0]!,
    "/usr/bin/setpriv",
    "/etc/nsswitch.conf",
    ...Object.keys(from),
  ];
  const shown = [...asked.shown, ...more].filter((path) => !asked.writable.includes(path));
  const quote = (text: string) => `'${text}'`;
  const caps = rights.map((name) => `+${name.toLowerCase()}`).join(",");
  // One after the other, in the order of their places: what is within another comes after it.
  const mounts = new Map([
    ...shown.map((path) => [path, `show ${quote(sourceOf(path))} ${quote(path)} ro`] as const),
    ...asked.writable.map((path) => [path, `show ${quote(sourceOf(path))} ${quote(path)} rw`] as const),
    ["/dev", "mkdir $jail/dev && mount -t tmpfs -o mode=755 tmpfs $jail/dev"],
    ...["null", "zero", "full", "random", "urandom"].map(
      (name) => [`/dev/${name}`, `show /dev/${name} /dev/${name} rw`] as const,
    ),
    ["/proc", "mkdir $jail/proc && mount -t proc proc $jail/proc"],
    ["/proc/sys", "mount --bind $jail/proc/sys $jail/proc/sys && mount -o remount,bind,ro $jail/proc/sys"],
    ["/sys", "mkdir $jail/sys && mount -t sysfs -o ro sysfs $jail/sys"],
  ]);
  const lines = [
    "jail=$(mktemp -d /run/jail.XXXXXX)",
    "mount -t tmpfs -o mode=755 tmpfs $jail",
    "show() {",
    '  [ -e "$1" ] || { echo "Cannot mount $1: it is not there" >&2; exit 1; }',
    '  if [ -d "$1" ]; then mkdir -p "$jail$2"; else mkdir -p "$jail$(dirname "$2")"; [ -e "$jail$2" ] || : >"$jail$2"; fi',
    '  mount --bind "$1" "$jail$2"',
    '  [ "$3" = rw ] || mount -o remount,bind,ro "$jail$2"',
    "}",
    ...[...mounts].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, line]) => line),
    `exec env -i /usr/sbin/chroot $jail /usr/bin/setpriv --reuid=${uid} --regid=${uid} --clear-groups --no-new-privs \\
      --inh-caps=-all,${caps} --ambient-caps=-all,${caps} --bounding-set=-all,${caps} \\
      ${asked.command.map(quote).join(" ")}`,
  ];
  writeFileSync(script, `${lines.join("\n")}\n`);
  const apart = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"];
  return ["unshare", ...apart, "sh", "-eu", script];
}

/** Runs text of the init script under dash in a network, after stand-ins. @returns what it said */
export function initScript(path: string, netns: string, text: string): string {
  const script = `${procd}\n. ${path}\n${text}`;
  return execFileSync("ip", ["netns", "exec", netns, "dash", "-eu", "-c", script], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
}

/** The child whose program is the one that was asked for. */
export function programIn(asked: Asked): number {
  const { stdout } = spawnSync("pgrep", ["-f", `^${asked.command.slice(0, 3).join(" ")} `], {
    encoding: "utf8",
  });
  const pids = stdout.split("\n").filter(Boolean);
  assert.is(pids.length, 1, stdout);
  return Number(pids[0]);
}
