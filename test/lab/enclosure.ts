/**
 * An enclosure: a process tree with its own network, mount and process namespaces.
 *
 * Everything that a test or a lab does to the network happens inside one. Named network namespaces, sockets
 * under /run, processes, rules and interfaces vanish with its first process, however that one ends: even
 * `kill -9` leaves nothing behind, whether it hits the first process, the whole tree or whoever started it.
 * /run is a fresh tmpfs with /run/scratch for files (also TMPDIR); loopback is up; nothing else of the
 * machine's network is reachable.
 */

import { statSync } from "node:fs";

const scratch = "/run/scratch";

const prepare = [
  "mount --no-mtab -t tmpfs -o mode=755 tmpfs /run",
  `mkdir -p ${scratch} /run/netns`,
  "ip link set lo up",
  'exec "$@"',
].join(" && ");

/**
 * The command that runs `argv` as the first real process of a new enclosure. Needs root.
 * The enclosure ends with the process that starts this command, if it has not ended before.
 */
export function enclose(argv: readonly string[]): string[] {
  return [
    ...["setpriv", "--pdeathsig", "KILL", "unshare"],
    ...["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"],
    "env",
    `TMPDIR=${scratch}`,
    ...["sh", "-c", prepare, "enclosure"],
    ...argv,
  ];
}

/** Whether this process runs inside an enclosure, and so may change the network and mount what it likes. */
export function enclosed(): boolean {
  return (
    process.env.TMPDIR === scratch && statSync(scratch, { throwIfNoEntry: false })?.isDirectory() === true
  );
}
