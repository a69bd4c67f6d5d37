/** UDP and TCP sockets: who is told what by whom, sources of answers, interfaces, ends, refusals, back-pressure. */

import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import type { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Endpoint, Stream, StreamHandlers, UdpHandlers } from "../../src/system/system.ts";
import { nativePath, until } from "./until.ts";

const system = openLinux({ nativePath });
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (content: Uint8Array) => new TextDecoder().decode(content);
const at = (address: string, port: number): Endpoint => ({ address: address as Address, port });
const descriptors = () => readdirSync("/proc/self/fd").length;
const run = (line: string) => execFileSync("ip", line.split(" "));
const ifindex = (name: string) =>
  JSON.parse(execFileSync("ip", ["-j", "link", "show", name]).toString())[0].ifindex as number;

function listen() {
  const told: { readonly text: string; readonly from: Endpoint }[] = [];
  const ends: (Fault | undefined)[] = [];
  const handlers: UdpHandlers = {
    onMessage: (content, from) => told.push({ text: text(content), from }),
    onOverrun: () => told.push({ text: "overrun", from: at("0.0.0.0", 0) }),
    onClose: (fault) => ends.push(fault),
  };
  return { told, ends, handlers };
}

function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return (error as Fault).code;
  }
  return "no fault";
}

run("link add left type veth peer name right");
for (const each of ["left", "right"]) {
  execFileSync("sysctl", ["-q", "-w", `net.ipv6.conf.${each}.accept_dad=0`]);
}
run("addr add 127.0.0.2/8 dev lo");
run("addr add 10.9.0.1/24 dev left");
run("addr add fd09::1/64 dev left nodad");
run("link set left up");
run("link set right up");

for (const [one, two] of [
  ["127.0.0.1", "127.0.0.2"],
  ["::1", "fd09::1"],
] as const) {
  test(`udp: an answer leaves from the address that was asked (${two})`, async () => {
    const [server, client] = [listen(), listen()];
    const wire = system.udp({ ...at(two, 0) }, server.handlers);
    assert.is(wire.local.address, two);
    const caller = system.udp({ ...at(one, 0) }, client.handlers);
    caller.send(bytes("question"), wire.local);
    await until(() => server.told.length === 1, "the question");
    assert.equal(server.told, [{ text: "question", from: caller.local }]);
    wire.send(bytes("answer"), server.told[0]!.from);
    await until(() => client.told.length === 1, "the answer");
    assert.equal(client.told, [{ text: "answer", from: wire.local }]);
    wire.close();
    wire.close();
    caller.close();
    await until(() => server.ends.length + client.ends.length === 2, "both ends");
    assert.equal([...server.ends, ...client.ends], [undefined, undefined]);
    assert.is(
      codeOf(() => caller.send(bytes("late"), at(two, 9))),
      "closed",
    );
  });
}

for (const [any, groups] of [
  ["0.0.0.0", ["224.0.0.251", "239.255.255.250"]],
  ["::", ["ff02::fb", "ff05::c"]],
] as const) {
  test(`udp: is a member of groups on one interface until it is closed (${any})`, async () => {
    const joined = (device: string) => {
      const listed = execFileSync("ip", ["maddr", "show", "dev", device]).toString().split(/\s+/);
      return groups.filter((each) => listed.includes(each));
    };
    const member = { ...at(any, 0), groups: groups as unknown as readonly Address[] };
    const socket = system.udp({ ...member, ifindex: ifindex("left") }, listen().handlers);
    assert.equal(joined("left"), groups);
    assert.equal(joined("right"), []);
    socket.close();
    await until(() => joined("left").length === 0, "the end of the membership");
    assert.throws(() => system.udp(member, listen().handlers), TypeError);
    const before = descriptors();
    const nowhere = () =>
      system.udp({ ...member, groups: [at("10.0.0.1", 0).address], ifindex: 1 }, listen().handlers);
    assert.is.not(codeOf(nowhere), "no fault");
    assert.is(descriptors(), before);
  });
}

test("udp: the kernel's ports are not guessable by counting", () => {
  const sockets = Array.from({ length: 16 }, () => system.udp(at("127.0.0.1", 0), listen().handlers));
  const ports = sockets.map(({ local }) => local.port);
  for (const each of sockets) each.close();
  assert.is(new Set(ports).size, 16);
  const steps = ports.slice(1).map((port, index) => port - ports[index]!);
  assert.ok(new Set(steps).size > 8, `steps ${steps}`);
});

test("udp: with a peer nobody else is heard, and its refusal ends the socket with why", async () => {
  const [peer, other, own] = [listen(), listen(), listen()];
  const far = system.udp(at("127.0.0.1", 0), peer.handlers);
  const stranger = system.udp(at("127.0.0.2", 0), other.handlers);
  const near = system.udp({ ...at("127.0.0.1", 0), peer: far.local }, own.handlers);
  stranger.send(bytes("forged"), near.local);
  near.send(bytes("question"));
  await until(() => peer.told.length === 1, "the question");
  far.send(bytes("answer"), peer.told[0]!.from);
  await until(() => own.told.length === 1, "the answer");
  assert.equal(
    own.told.map((each) => each.text),
    ["answer"],
  );
  far.close();
  stranger.close();
  await until(() => peer.ends.length === 1, "the peer's end");
  near.send(bytes("anybody there?"));
  await until(() => own.ends.length === 1, "the refusal");
  assert.is(own.ends[0]?.code, "closed");
});

test("udp: a receiver that refuses does not end a socket for all", async () => {
  const own = listen();
  const near = system.udp(at("127.0.0.1", 0), own.handlers);
  near.send(bytes("nobody"), at("127.0.0.1", 9));
  const far = system.udp(at("127.0.0.1", 0), listen().handlers);
  far.send(bytes("still here?"), near.local);
  await until(() => own.told.length === 1, "a message after the refusal");
  near.close();
  far.close();
});

test("udp: a socket of an interface hears nothing of another", async () => {
  const [there, here] = [listen(), listen()];
  const left = system.udp({ ...at("0.0.0.0", 5300), ifindex: ifindex("left") }, there.handlers);
  const loop = system.udp({ ...at("0.0.0.0", 5300), ifindex: ifindex("lo") }, here.handlers);
  const caller = system.udp(at("127.0.0.1", 0), listen().handlers);
  caller.send(bytes("by lo"), at("127.0.0.2", 5300));
  await until(() => here.told.length === 1, "the message by lo");
  assert.is(there.told.length, 0);
  for (const each of [left, loop, caller]) each.close();
});

test("udp: a link-local sender is answered by the interface that it is on", async () => {
  await until(
    () =>
      Object.values(networkInterfaces())
        .flat()
        .some((each) => each?.scopeid),
    "link-local",
  );
  const own = (name: string) =>
    networkInterfaces()[name]!.find((each) => each.scopeid !== undefined && each.scopeid > 0)!;
  const server = listen();
  const wire = system.udp({ ...at("::", 5301), ifindex: ifindex("left") }, server.handlers);
  const client = listen();
  const caller = system.udp({ ...at(own("left").address, 0), ifindex: ifindex("left") }, client.handlers);
  caller.send(bytes("question"), { ...at(own("left").address, 5301), zone: ifindex("left") });
  await until(() => server.told.length === 1, "the question");
  assert.is(server.told[0]!.from.zone, ifindex("left"));
  wire.send(bytes("answer"), server.told[0]!.from);
  await until(() => client.told.length === 1, "the answer");
  wire.close();
  caller.close();
});

test("udp: IPv4 and IPv6 wildcards share a port; a port that is taken is a conflict and leaks nothing", async () => {
  const four = system.udp(at("0.0.0.0", 5302), listen().handlers);
  const six = system.udp(at("::", 5302), listen().handlers);
  const before = descriptors();
  assert.is(
    codeOf(() => system.udp(at("0.0.0.0", 5302), listen().handlers)),
    "conflict",
  );
  assert.is(
    codeOf(() => system.udp(at("192.0.2.1", 0), listen().handlers)),
    "kernel",
  );
  assert.is(descriptors(), before);
  assert.throws(
    () => system.udp({ ...at("127.0.0.1", 0), peer: at("::1", 53) }, listen().handlers),
    (thrown: unknown) => thrown instanceof TypeError,
  );
  four.close();
  six.close();
});

test("udp: an empty datagram and the longest one arrive whole, a longer one is refused", async () => {
  const server = listen();
  const sizes: number[] = [];
  const wire = system.udp(at("127.0.0.1", 0), {
    ...server.handlers,
    onMessage: (content) => sizes.push(content.length),
  });
  const caller = system.udp(at("127.0.0.1", 0), listen().handlers);
  caller.send(new Uint8Array(0), wire.local);
  caller.send(new Uint8Array(65_507), wire.local);
  assert.is(
    codeOf(() => caller.send(new Uint8Array(65_508), wire.local)),
    "limit",
  );
  await until(() => sizes.length === 2, "both");
  assert.equal(sizes, [0, 65_507]);
  wire.close();
  caller.close();
});

function recorder(more: Partial<StreamHandlers> = {}) {
  const told: string[] = [];
  const handlers: StreamHandlers = {
    onConnect: () => told.push("connect"),
    onBytes: (content) => told.push(text(content)),
    onClose: (fault) => told.push(fault === undefined ? "close" : `close ${fault.code}`),
    ...more,
  };
  return { told, handlers };
}

for (const address of ["127.0.0.2", "::1"]) {
  test(`tcp: both sides talk, the server knows who, both hear of the end once (${address})`, async () => {
    const accepted: { readonly stream: Stream; readonly from: Endpoint }[] = [];
    const far = recorder();
    const listener = await system.tcpListen({
      ...at(address, 0),
      accept(stream, from) {
        accepted.push({ stream, from });
        return far.handlers;
      },
    });
    const near = recorder();
    const stream = system.tcpConnect(at(address, listener.port), near.handlers);
    stream.write(bytes("question"));
    await until(() => far.told.length === 1, "the question");
    assert.is(accepted[0]!.from.address, address === "::1" ? "::1" : "127.0.0.1");
    assert.is(stream.peer, undefined);
    accepted[0]!.stream.write(bytes("answer"));
    accepted[0]!.stream.end();
    await until(() => near.told.length === 3 && far.told.length === 2, "both ends");
    assert.equal(near.told, ["connect", "answer", "close"]);
    assert.equal(far.told, ["question", "close"]);
    await listener.close();
    const again = recorder();
    system.tcpConnect(at(address, listener.port), again.handlers);
    await until(() => again.told.length === 1, "the refusal");
    assert.equal(again.told, ["close closed"]);
  });
}

test("tcp: a link-local address is listened on and connected to by its interface", async () => {
  const isLinkLocal = (each: { readonly address: string }) => each.address.startsWith("fe80");
  await until(() => networkInterfaces().left?.some(isLinkLocal) === true, "an address of left");
  const own = networkInterfaces().left!.find(isLinkLocal)!.address;
  const accepted: Endpoint[] = [];
  const far = recorder();
  const listener = await system.tcpListen({
    ...at(own, 0),
    ifindex: ifindex("left"),
    accept(_, from) {
      accepted.push(from);
      return far.handlers;
    },
  });
  const near = recorder();
  const stream = system.tcpConnect({ ...at(own, listener.port), zone: ifindex("left") }, near.handlers);
  stream.write(bytes("question"));
  await until(() => far.told.length === 1, "the question");
  assert.equal([accepted[0]!.address, accepted[0]!.zone], [own, ifindex("left")]);
  stream.end();
  await until(() => far.told.length === 2, "its end");
  await listener.close();
  const gone = await system.tcpListen({ ...at(own, 0), ifindex: 9_999, accept: () => undefined }).then(
    () => "",
    (fault: Fault) => fault.code,
  );
  assert.is(gone, "kernel");
});

test("tcp: nobody listening, a refused connection and a taken port are told", async () => {
  const near = recorder();
  system.tcpConnect(at("127.0.0.1", 9), near.handlers);
  await until(() => near.told.length === 1, "the refusal");
  assert.equal(near.told, ["close closed"]);
  const listener = await system.tcpListen({ ...at("127.0.0.1", 0), accept: () => undefined });
  const refused = recorder();
  system.tcpConnect(at("127.0.0.1", listener.port), refused.handlers);
  await until(() => refused.told.at(-1)?.startsWith("close") === true, "the end");
  let code = "";
  await system
    .tcpListen({ ...at("127.0.0.1", listener.port), accept: () => undefined })
    .catch((fault: Fault) => {
      code = fault.code;
    });
  assert.is(code, "conflict");
  await listener.close();
});

test("tcp: a slow reader makes the writer wait, and nothing is lost", async () => {
  let received = 0;
  let far: Stream | undefined;
  const listener = await system.tcpListen({
    ...at("127.0.0.1", 0),
    accept(stream) {
      far = stream;
      stream.pause();
      return {
        onBytes: (content) => {
          received += content.length;
        },
        onClose() {},
      };
    },
  });
  let drains = 0;
  const near = recorder({ onDrain: () => drains++ });
  const stream = system.tcpConnect(at("127.0.0.1", listener.port), near.handlers);
  await until(() => far !== undefined && near.told.length === 1, "the connection");
  let sent = 0;
  for (let more = true; more; sent += 65_536) more = stream.write(new Uint8Array(65_536));
  assert.is(drains, 0);
  far!.resume();
  await until(() => received === sent && drains === 1, "all of it");
  stream.close();
  await listener.close();
});

test.run();
