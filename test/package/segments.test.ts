/**
 * The firewall passes what isolation decides: rules in chains like fw4's and fw3's, in a real kernel, with a stand-in
 * for uci.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

const script = join(process.cwd(), "files/usr/lib/gatehouse/segments.sh");
const folder = mkdtempSync(join(tmpdir(), "segments-"));
writeFileSync(
  join(folder, "uci"),
  `#!/bin/sh
[ "$1" = -q ] && shift
case $1 in
show) cat ${folder}/lines ;;
get) sed -n "s/^$2='\\(.*\\)'\\$/\\1/p" ${folder}/lines | tr -d "'" | grep . ;;
esac
`,
  { mode: 0o755 },
);

// As netifd answers for a network, and what jsonfilter takes of it.
writeFileSync(
  join(folder, "ubus"),
  `#!/bin/sh
[ "$1 $2 $4" = "-S call status" ] || exit 2
cat ${folder}/$3 2>/dev/null || exit 4
`,
  { mode: 0o755 },
);
writeFileSync(
  join(folder, "jsonfilter"),
  `#!/bin/sh
text=$(cat)
for each; do
	case $each in @.*) echo "$text" | sed -n 's/.*"'"\${each#@.}"'":"\\([^"]*\\)".*/\\1/p' ;; esac
done
`,
  { mode: 0o755 },
);

/** As `uci show` has them. */
const configured = [
  "gatehouse.isolation=isolation",
  "gatehouse.isolation.enabled='1'",
  "gatehouse.apps=segment",
  "gatehouse.apps.device='br-apps' 'eth1.7'",
  "gatehouse.iot=segment",
  "gatehouse.iot.device='br-iot'",
  "gatehouse.iot.mdns='0'",
  "gatehouse.web=service",
  "gatehouse.web.segment='apps'",
];

/** What they need of the firewall, as rules of nft. */
const needed = {
  forward: `iifname { "br-apps", "eth1.7", "br-iot" } ct status dnat accept`,
  input: `iifname { "br-apps", "eth1.7", "br-iot" } udp dport { 67, 547 } accept
iifname { "br-apps", "eth1.7", "br-iot" } icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept
iifname { "br-apps", "eth1.7", "br-iot" } meta l4proto { tcp, udp } th dport 5365 accept
iifname { "br-apps", "eth1.7" } udp dport 5353 accept`,
};

function run(verb: string, lines: readonly string[] = configured): void {
  writeFileSync(join(folder, "lines"), `${lines.join("\n")}\n`);
  const { status, stderr } = spawnSync("dash", [script, verb], {
    encoding: "utf8",
    env: { PATH: `${folder}:${process.env.PATH}` },
  });
  assert.equal([status, stderr], [0, ""]);
}

const nft = (text: string) => execFileSync("nft", ["-f", "-"], { input: text });
const chain = (name: string, table = "fw4") =>
  execFileSync("nft", ["list", "chain", "inet", table, name], { encoding: "utf8" })
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => !/^(?:table|chain|type|\})/.test(line));

/** Its chains and their first rules, as fw4 renders them for a zone that forwards nothing of itself. */
function fw4(): void {
  nft(`table inet fw4
delete table inet fw4
table inet fw4 {
  chain input {
    type filter hook input priority filter; policy drop;
    iif "lo" accept comment "!fw4: Accept traffic from loopback"
    ct state vmap { established : accept, related : accept } comment "!fw4: Handle inbound flows"
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept } comment "!fw4: Handle forwarded flows"
    jump handle_reject
  }
  chain handle_reject { meta l4proto tcp reject with tcp reset comment "!fw4: Reject TCP traffic"; }
}
`);
}

/** What a set of rules accepts, each alone: by device, match and verdict. */
function apart(rules: readonly string[]): string[] {
  const all = rules
    .filter((rule) => /iifname/.test(rule))
    .flatMap((rule) => {
      const text = rule.replace(/ comment "gatehouse"$/, "");
      const devices = /iifname (?:\{ ([^}]*) \}|(\S+))/.exec(text)!;
      const match = text.replace(/iifname (?:\{ [^}]* \}|\S+) /, "");
      const protocols = /^meta l4proto \{ tcp, udp \} th (.*)$/.exec(match);
      const matches = protocols ? ["tcp", "udp"].map((each) => `${each} ${protocols[1]}`) : [match];
      return (devices[1] ?? devices[2]!)
        .split(", ")
        .flatMap((device) => matches.map((each) => `${device} ${each}`));
    });
  return all.sort();
}

test("segments: the rules in fw4 accept what services need of the router and between each other, and no more", () => {
  fw4();
  run("put");
  nft(`table inet reference {
  chain forward {
${needed.forward}
  }
  chain input {
${needed.input}
  }
}
`);
  for (const name of ["forward", "input"]) {
    assert.ok(apart(chain(name)).length >= 3);
    assert.equal(apart(chain(name)), apart(chain(name, "reference")), name);
    // Before whatever rejects.
    assert.match(chain(name)[0]!, /comment "gatehouse"$/);
  }
  nft("delete table inet reference\n");
});

test("segments: twice is once, a change replaces, off and clear take all away; the others' rules stay", () => {
  fw4();
  const before = ["forward", "input"].map((name) => chain(name));
  run("put");
  const once = ["forward", "input"].map((name) => chain(name));
  run("put");
  assert.equal(
    ["forward", "input"].map((name) => chain(name)),
    once,
  );
  run("put", [...configured, "gatehouse.isolation.dns_port='5353'"]);
  assert.ok(chain("input").some((line) => /br-iot" udp dport 5353/.test(line)));
  assert.not.ok(chain("input").some((line) => /5365/.test(line)));
  run(
    "put",
    configured.map((line) => line.replace("enabled='1'", "enabled='0'")),
  );
  assert.equal(
    ["forward", "input"].map((name) => chain(name)),
    before,
  );
  run("put");
  run("clear");
  assert.equal(
    ["forward", "input"].map((name) => chain(name)),
    before,
  );
});

test("segments: after a reload of the firewall its include puts them in again", () => {
  fw4();
  run("put");
  const once = chain("forward");
  fw4();
  assert.not.equal(chain("forward"), once);
  run("put");
  assert.equal(chain("forward"), once);
});

test("segments: what is no device's name, and a section without a name, is left out", () => {
  fw4();
  run("put", [
    ...configured.filter((line) => !line.startsWith("gatehouse.iot")),
    "gatehouse.bad=segment",
    `gatehouse.bad.device='a"b' 'x;y' 'much-too-long-a-name' '*' 'br-good'`,
    "gatehouse.@segment[0]=segment",
    "gatehouse.@segment[0].device='br-anon'",
  ]);
  const devices = chain("forward").flatMap((line) => /iifname (\S+)/.exec(line)?.[1] ?? []);
  assert.equal(devices.sort(), ['"br-apps"', '"br-good"', '"eth1.7"']);
});

test("segments: a segment of networks has their devices, each once, as far as there are any", () => {
  const network = (name: string, status: object) =>
    writeFileSync(join(folder, `network.interface.${name}`), JSON.stringify(status));
  network("guest", { up: true, l3_device: "br-guest", device: "eth0" });
  network("guest6", { up: true, l3_device: "br-guest", device: "@guest" });
  network("down", { up: false, device: "eth9" });
  network("odd", { up: true, l3_device: 'x"y' });
  fw4();
  run("put", [
    ...configured.filter((line) => !line.startsWith("gatehouse.iot")),
    "gatehouse.guests=segment",
    "gatehouse.guests.network='guest' 'guest6' 'down' 'none' 'odd' '../x' '*'",
  ]);
  const devices = chain("forward").flatMap((line) => /iifname (\S+)/.exec(line)?.[1] ?? []);
  assert.equal(devices.sort(), ['"br-apps"', '"br-guest"', '"eth1.7"', '"eth9"']);
});

test("segments: the HTTP interface is let in where it listens, unless that is for the router alone", () => {
  fw4();
  const doors = (http: string) => {
    run("put", [...configured, `gatehouse.isolation.http='${http}'`]);
    return chain("input").flatMap(
      (line) => /iifname "br-iot" (.* dport 80\d\d) accept/.exec(line)?.[1] ?? [],
    );
  };
  assert.equal(doors("10.31.0.1:8080"), ["ip daddr 10.31.0.1 tcp dport 8080"]);
  assert.equal(doors("[fd31::1]:8081"), ["ip6 daddr fd31::1 tcp dport 8081"]);
  for (const none of ["127.0.0.1:8080", "[::1]:8080", "none", "", "a;b:8080", "10.31.0.1:80 80"])
    assert.equal(doors(none), [], none);
});

test("segments: without a firewall nothing is asked, and nothing fails", () => {
  execFileSync("nft", ["flush", "ruleset"]);
  run("put");
  run("clear");
  assert.is(execFileSync("nft", ["list", "ruleset"], { encoding: "utf8" }), "");
});

test("segments: in fw4, a translated packet of a segment passes, another does not, nor without our rules", () => {
  const sh = (text: string) => execFileSync("sh", ["-euc", text], { encoding: "utf8" });
  sh(`
    echo 1 >/proc/sys/net/ipv4/ip_forward
    for each in apps iot; do
      ip netns add $each
      ip link add br-$each type veth peer name eth0 netns $each
      ip link set br-$each up
      ip -n $each link set eth0 up
      ip -n $each link set lo up
    done
    ip address add 10.31.0.1/24 dev br-apps; ip -n apps address add 10.31.0.2/24 dev eth0
    ip address add 10.32.0.1/24 dev br-iot; ip -n iot address add 10.32.0.2/24 dev eth0
    ip -n apps route add default via 10.31.0.1; ip -n iot route add default via 10.32.0.1
  `);
  const ping = (to: string) =>
    spawnSync("ip", ["netns", "exec", "apps", "ping", "-c", "1", "-W", "1", to]).status === 0;
  assert.ok(ping("10.32.0.2"), "nothing is in the way yet");
  fw4();
  // What our table does for a route: the target in the place of its stand-in.
  nft(
    `table ip ours {
  chain pre {
    type nat hook prerouting priority dstnat
    ip daddr 198.18.0.9 dnat to 10.32.0.2
  }
}
`,
  );
  assert.not.ok(ping("198.18.0.9"), "fw4 alone drops it");
  run("put");
  assert.ok(ping("198.18.0.9"));
  assert.not.ok(ping("10.32.0.2"), "not translated");
  nft("delete table ip ours\n");
  assert.not.ok(ping("198.18.0.9"), "nobody translates");
  run("clear");
  sh("ip netns delete apps; ip netns delete iot; nft flush ruleset");
});

test("segments: in fw3's chains the same, and twice is once", () => {
  for (const tool of ["iptables", "ip6tables"]) {
    const text = `*filter\n:forwarding_rule -\n:input_rule -\n-A FORWARD -j forwarding_rule\n-A INPUT -j input_rule\n-A input_rule -i lo -j ACCEPT\nCOMMIT\n`;
    execFileSync(`${tool}-restore`, { input: text });
  }
  const rules = (tool: string) =>
    ["forwarding_rule", "input_rule"].flatMap((name) =>
      execFileSync(tool, ["-S", name], { encoding: "utf8" }).trim().split("\n"),
    );
  const before = rules("iptables");
  const all = [...configured, "gatehouse.isolation.http='10.31.0.1:8080'"];
  run("put", all);
  const [once, once6] = [rules("iptables"), rules("ip6tables")];
  for (const wanted of [
    "-A forwarding_rule -i br-iot -m conntrack --ctstate DNAT -m comment --comment gatehouse -j ACCEPT",
    "-A input_rule -i br-apps -p udp -m udp --dport 67 -m comment --comment gatehouse -j ACCEPT",
    "-A input_rule -i eth1.7 -p tcp -m tcp --dport 5365 -m comment --comment gatehouse -j ACCEPT",
    "-A input_rule -i br-apps -p udp -m udp --dport 5353 -m comment --comment gatehouse -j ACCEPT",
  ])
    assert.ok(once.includes(wanted), `${wanted}\n${once.join("\n")}`);
  assert.not.ok(once.some((line) => /br-iot .*5353/.test(line)));
  assert.ok(once6.some((line) => /br-iot .*icmpv6-type 135/.test(line)));
  assert.ok(once.some((line) => line.includes("-d 10.31.0.1/32 -i br-iot -p tcp -m tcp --dport 8080")));
  assert.not.ok(once6.some((line) => line.includes("8080")));
  run("put", all);
  assert.equal([rules("iptables"), rules("ip6tables")], [once, once6]);
  run("clear");
  assert.equal(rules("iptables"), before);
  execFileSync("nft", ["flush", "ruleset"]);
});

test.run();
