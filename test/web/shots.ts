/**
 * The screenshots in the README: a home of seven devices, one of them blocked. `npm run shots` takes them anew.
 */

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { eventually } from "../lab/children.ts";
import { enclose } from "../lab/enclosure.ts";
import { servers } from "../lab/topology.ts";
import type { Host } from "./host.ts";
import { Street } from "./street.ts";

const folder = join(process.cwd(), "test/web/shots");

/** What each does all day, see peer.ts. */
const habits: Readonly<Record<string, readonly string[]>> = {
  laptop: [
    "tcp:4:web.example.net",
    "udp:4:time.example.net",
    "dns:4:www.example.net",
    "tcp:6:cdn-a.example.net",
  ],
  camera: ["tcp:4:cdn-b.example.net", "udp:6:time.example.net", "tcp:6:video.example.net"],
  phone: ["tcp:4:web.example.net", "udp:6:video.example.net"],
  television: ["tcp:6:video.example.net", "tcp:4:cdn-a.example.net"],
  tablet: ["tcp:4:cdn-b.example.net"],
  printer: ["udp:4:time.example.net"],
  thermostat: ["tcp:6:web.example.net"],
};

async function take(
  street: Street,
  host: Host,
  view: string,
  about: { height: number; ready: string },
): Promise<void> {
  const page = await street.browser.open(host.urlOf(view), { width: 1120, height: about.height });
  await page.until(view, about.ready);
  await page.screenshot(join(folder, `${view}.png`));
  await page.close();
}

async function takeAll(): Promise<void> {
  const street = await Street.up({
    clients: Object.keys(habits).filter((each) => !["laptop", "camera"].includes(each)),
  });
  try {
    for (const [name, plan] of Object.entries(habits)) street.lab.peer(name, ["traffic", ...plan]);
    await street.lab.stream({ from: "television", to: servers.web.address4, kind: "tcp" });
    const web = await eventually("all of them at work", async () => {
      const nodes = await street.nodes();
      const busy = nodes.filter(({ kind, ips }) => kind === "device" && ips.length > 0).length;
      const found = nodes.find(({ domains }) => domains.includes("web.example.net."));
      return busy >= Object.keys(habits).length ? found?.id : undefined;
    });
    await street.ubus.call("gatehouse.flows", "list_add", {
      list: "block",
      node: await street.idOf("10.77.0.11"),
    });
    await street.ubus.call("gatehouse.flows", "block", {
      node1: await street.idOf("10.77.0.10"),
      node2: web,
    });
    const host = await street.host();
    const rates = `(document.body.innerText.match(/bit\\/s/g) || []).length > 8 && document.querySelectorAll("svg path").length > 8`;
    await take(street, host, "devices", { height: 560, ready: rates });
    await take(street, host, "flows", {
      height: 760,
      ready: `document.querySelector("svg[data-still]") !== null`,
    });
    await take(street, host, "settings", {
      height: 560,
      ready: `document.querySelector(".cbi-value") !== null`,
    });
  } finally {
    await street.down();
  }
}

if (process.argv[1]?.endsWith("shots.cjs")) {
  if (process.argv[2] === "--inside") {
    takeAll().then(
      () => process.exit(0),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  } else {
    const [program, ...args] = enclose([process.execPath, process.argv[1], "--inside"]);
    process.exitCode = spawnSync(program!, args, { stdio: "inherit" }).status ?? 1;
  }
}
