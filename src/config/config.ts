/**
 * The configuration of gatehouse: every option there is, and the reader that fills the gaps.
 *
 * `/etc/config/gatehouse` is a UCI file. The tables below are the contract: name, default, what it takes, what
 * it means. A value that an option does not take is reported and its default used, so that one typing error
 * does not stop a router; a section that describes a thing (a segment, a service) and is wrong is left out as a
 * whole, with the reason. Names are snake_case in the file and camelCase in `Config`.
 */

import type { Address, Mac } from "../lib/address.ts";
import { parseReference } from "../lib/reference.ts";
import {
  address,
  addresses,
  anyPrefix,
  boolean,
  choice,
  device,
  host,
  integer,
  listOf,
  mac,
  noneWord,
  type Option,
  orNone,
  path,
  prefix,
  text,
} from "./option.ts";
import { parseUci, quoteUci, type UciSection } from "./uci.ts";

export { parseUci, type UciSection } from "./uci.ts";

const day = 86_400;
const port = { min: 1, max: 65_535 };

const mainOptions = {
  state_dir: path(
    "/etc/gatehouse",
    "What has to survive a reboot: nodes, blocks, leases, the boot-time rules",
  ),
  run_dir: path("/var/run/gatehouse", "What may be lost at a reboot"),
  backend: choice(
    ["auto", "nft", "ipset"],
    "auto",
    "How the kernel is told: nft, or ipset and iptables; auto takes nft where it works",
  ),
  lan_device: listOf(device("", "Where devices of this network are: a MAC seen there identifies a device"), [
    "br-lan",
  ]),
  wan_device: listOf(device("", "Where the internet is: a MAC seen there is a next hop's"), ["wan"]),
  lease_file: orNone(path("/tmp/dhcp.leases", "DHCP leases as dnsmasq writes them")),
  dhcp_config: orNone(path("/etc/config/dhcp", "Where `config host` sections name devices")),
  rpc_socket: orNone(path("/var/run/spin_rpc.sock", "SPIN's JSON-RPC socket; none: off")),
  extsrc_socket: orNone(path("", "SPIN's socket for external sources; none: off")),
  rpc_uid: listOf(
    integer(0, { min: 0, max: 4_294_967_294 }, "Users, by number, that may use that socket beside root"),
    [],
  ),
  spin_dir: orNone(path("/etc/spin", "SPIN's own files: its blocks, lists and names are taken over once")),
  dns_group: integer(53, { min: 1, max: 65_535 }, "NFLOG group that DNS packets are copied to"),
  blocked_group: integer(
    54,
    { min: 1, max: 65_535 },
    "NFLOG group that the heads of blocked packets are copied to",
  ),
  hold_answers: boolean(
    true,
    "While names are blocked: DNS answers wait, for a quarter of a second at most, until the blocks follow them",
  ),
  answer_queue: integer(53, { min: 0, max: 65_535 }, "NFQUEUE that they wait in"),
  max_nodes: integer(
    8_192,
    { min: 16, max: 262_144 },
    "Nodes in all; past it the longest unseen that nothing needs is forgotten",
  ),
  max_node_addresses: integer(64, { min: 1, max: 4_096 }, "Addresses that one node may hold"),
  max_node_names: integer(32, { min: 1, max: 1_024 }, "Names that one node may hold"),
  max_flows: integer(8_192, { min: 16, max: 262_144 }, "Flow records; past it the longest idle is forgotten"),
  max_blocks: integer(20_000, { min: 1, max: 25_000 }, "Blocked pairs of nodes"),
  node_expiry: integer(
    1_800,
    { min: 60, max: 30 * day, unit: "seconds" },
    "When a far node that was not seen is forgotten",
  ),
  device_expiry: integer(
    90 * day,
    { min: 3_600, max: 3_650 * day, unit: "seconds" },
    "When a device that was not seen is forgotten",
  ),
  flow_expiry: integer(
    1_800,
    { min: 60, max: 7 * day, unit: "seconds" },
    "When a flow record without traffic is forgotten",
  ),
};

const mqttOptions = {
  enabled: boolean(true, "Whether nodes and traffic are published"),
  host: host("127.0.0.1", "The broker"),
  port: integer(1_883, port, "Its TCP port"),
  prefix: text("SPIN", "topic levels without + and #", {
    doc: "First level of every topic",
    accepts: (value) => /^[^+#/$][^+#]{0,99}$/.test(value) && !value.endsWith("/"),
  }),
  client_id: text("", "text, or empty for a name made at start", {
    doc: "Who the broker takes us for; no two clients of a broker may share one",
    accepts: (value) => value.length <= 64,
  }),
  user: text("", "text, or empty for none", { doc: "User name for the broker" }),
  password_file: orNone(
    path("", "File with the password on its first line, which nobody else may read (mode 0600)"),
  ),
  version: choice(["3.1.1", "5"], "3.1.1", "The version of MQTT that is spoken"),
  tls: boolean(
    false,
    "Whether the broker is spoken with over TLS, 1.2 or later; its port is then often 8883",
  ),
  ca_file: orNone(
    path("", "Who may vouch for the broker, PEM; without it, the authorities that come with the system"),
  ),
  cert_file: orNone(path("", "Certificate that we show the broker, PEM")),
  key_file: orNone(path("", "Its key, PEM, which nobody else may read (mode 0600)")),
  jsonrpc: boolean(
    false,
    "Whether whoever may publish on <prefix>/jsonrpc/q of the broker may ask and decide everything",
  ),
  keepalive: integer(
    60,
    { min: 5, max: 3_600, unit: "seconds" },
    "A broker that is silent for one and a half times as long is taken for gone",
  ),
  max_queue: integer(
    262_144,
    { min: 16_384, max: 16_777_216, unit: "bytes" },
    "What may wait for a slow broker before messages are dropped",
  ),
};

const tablesOptions = {
  first: integer(10_000, { min: 256, max: 4_294_901_758 }, "Number of the first routing table for lease"),
  count: integer(256, { min: 1, max: 65_536 }, "How many there are"),
  timeout: integer(
    3_600,
    { min: 1, max: 365 * day, unit: "seconds" },
    "How long a lease lasts that nobody renews",
  ),
  rest: integer(
    60,
    { min: 0, max: day, unit: "seconds" },
    "How long a table rests after a lease before another gets it",
  ),
  max_per_owner: integer(64, { min: 1, max: 65_536 }, "Leases that one user may have; root may have all"),
  socket: orNone(
    text("tas_socket", "the name of an abstract unix socket", {
      doc: "Table Allocator's socket; none: off",
      accepts: (value) => value.length <= 107,
    }),
  ),
  family: listOf(choice(["inet", "inet6", "unspec"], "inet", "Address families that tables are leased for"), [
    "inet",
    "inet6",
  ]),
};

const pinOptions = {
  device: device("", "The device that the address is on"),
  address: address("", "The address, such as the gateway's"),
  mac: mac(
    "Whose it is for good; if not given: the first that answers and is verified, as long as the agent lives",
  ),
};

const iprefOptions = {
  enabled: boolean(false, "Whether this router is an IPREF gateway"),
  gateway_bind: address("0.0.0.0", "Own address that tunnel packets are received on"),
  gateway_pub: orNone(
    text("", "an address", {
      doc: "Address that peers reach us by; none: the one bound",
      accepts: isAddress,
    }),
  ),
  gateway_port: integer(1_045, port, "UDP port of the tunnel"),
  remote_gateway_port: integer(1_045, port, "UDP port of peers that have not been heard yet"),
  gateway_ref: text("1", "a reference", {
    doc: "Reference of the gateway itself",
    accepts: isReference,
  }),
  gateway_mtu: integer(
    1_500,
    { min: 1_280, max: 65_535, unit: "bytes" },
    "Longest packet that the way to peers takes, tunnel headers included",
  ),
  encode_net: anyPrefix("10.240.0.0/12", "Addresses that stand for remote hosts on this network"),
  device: device("ipref", "The interface that packets for remote hosts leave by"),
  dec_ttl: boolean(true, "Whether the gateway counts as a hop"),
  clamp_mss: boolean(true, "Whether TCP is told what fits through the tunnel"),
  admit_router: boolean(false, "Whether remote hosts may open connections to this router"),
  hosts: orNone(path("/etc/hosts", "Hosts file with our own and remote references")),
  mapper_socket: orNone(
    path("/var/run/gatehouse/mapper.sock", "Where CoreDNS and dns-agent ask for mappings; none: off"),
  ),
  peer: addresses(
    [],
    "Gateways that may reach us first; if none is listed: those in hosts and those we have sent to",
  ),
  any_peer: boolean(false, "Whether every gateway may reach published hosts"),
  max_mappings: integer(131_072, { min: 1_024, max: 1_048_576 }, "Mappings that are kept"),
  max_peer_mappings: integer(8_192, { min: 16, max: 1_048_576 }, "Mappings that one gateway may make"),
  zone: listOf(
    text("", "a domain name", {
      doc: "Domains whose names are looked up as IPREF addresses",
      accepts: isDomain,
    }),
    [],
  ),
  upstream: addresses([], "DNS servers that know those domains; if none is listed: the one of this router"),
  dns_port: integer(5_364, port, "Where the names of those domains are answered, on loopback"),
  transfer: listOf(
    text("", "LOCAL:PUBLIC:SERVER[,SERVER…]", {
      doc: "Zones whose IPREF records publish our own hosts, as dns-agent takes them",
      accepts: (value) => /^[A-Za-z0-9._-]+:[A-Za-z0-9._-]+:[A-Za-z0-9.:,[\]_-]+$/.test(value),
    }),
    [],
  ),
  transfer_interval: integer(59, { min: 1, max: 10_080, unit: "minutes" }, "How often they are transferred"),
};

const isolationOptions = {
  enabled: boolean(false, "Whether services are kept apart"),
  pool4: prefix("198.18.0.0/15", "IPv4 addresses that stand in for services"),
  pool6: prefix("fd00:6a7e::/64", "IPv6 addresses that stand in for services"),
  domain: listOf(text("", "a domain name", { doc: "Domains whose names are services", accepts: isDomain }), [
    "lan",
  ]),
  dns_port: integer(5_365, port, "Where queries of services are answered, on the segments"),
  upstream: addresses(["127.0.0.1"], "DNS servers for names outside"),
  privileged: listOf(text("", "the name of a service", { doc: "Who may reach every service" }), []),
  privileged_host: listOf(
    text("", "the name of a service", { doc: "Whom every service may reach, such as arbiter" }),
    [],
  ),
  bootstrap_segment: orNone(
    text("", "the name of a segment", {
      doc: "Where everybody is privileged until the manager has said who it is; none: nowhere",
    }),
  ),
  bootstrap_time: integer(300, { min: 1, max: 86_400, unit: "seconds" }, "How long that lasts at most"),
  http: orNone(
    text("", "an address and port such as 127.0.0.1:8080", {
      doc: "Where the HTTP interface listens; none: off",
      accepts: (value) => /^(?:[0-9.]+|\[[0-9a-fA-F:]+\]):[1-9][0-9]{0,4}$/.test(value),
    }),
  ),
  http_name: listOf(text("", "a host name", { doc: "Names that clients of it know us by" }), [
    "databox-network",
  ]),
  http_cert: orNone(path("", "Its certificate, PEM; none: plain HTTP")),
  http_key: orNone(path("", "The certificate's key, PEM; none: in the same file")),
  key_file: path("/etc/gatehouse/network.key", "The key of the HTTP interface"),
};

const segmentOptions = {
  device: listOf(device("", "The bridges, VLANs or cables that the segment's services are on"), []),
  network: listOf(
    text("", "the name of a network", {
      doc: "Networks, by their names in /etc/config/network, whose devices are the segment's, too",
      accepts: (value) => /^[A-Za-z0-9_.-]{1,32}$/.test(value),
    }),
    [],
  ),
  isolate: boolean(false, "Whether ports of its bridges exchange frames with the router only"),
  encrypted_dns: boolean(false, "Whether services may ask other DNS servers over TLS"),
  mdns: boolean(true, "Whether connected services discover each other"),
  resolver: addresses([], "DNS servers that know services which no section declares"),
};

const serviceOptions = {
  segment: text("", "the name of a segment", { doc: "The segment it is on" }),
  address: addresses([], "Its addresses"),
  mac: mac("Its MAC, instead of an address"),
  hostname: text("", "a host name", { doc: "Its DHCP host name, instead of an address" }),
  alias: listOf(text("", "a host name", { doc: "Other names of it" }), []),
  peer: listOf(
    text("", "the name of a service", { doc: "Services, or names outside, it may speak with" }),
    [],
  ),
};

type Table = Readonly<Record<string, Option<unknown>>>;
type Camel<Name extends string> = Name extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<Camel<Tail>>}`
  : Name;
type Values<Options extends Table> = {
  readonly [Name in keyof Options & string as Camel<Name>]: Options[Name]["default"];
};

export type MainConfig = Values<typeof mainOptions>;
export type MqttConfig = Values<typeof mqttOptions>;
export type SegmentConfig = Values<typeof segmentOptions> & { readonly name: string };
export interface PinConfig {
  readonly device: string;
  readonly address: Address;
  readonly mac?: Mac;
}
export type ServiceConfig = Values<typeof serviceOptions> & { readonly name: string };

export interface Config {
  readonly main: MainConfig;
  readonly mqtt: MqttConfig;
  readonly tables: Values<typeof tablesOptions>;
  readonly ipref: Values<typeof iprefOptions>;
  readonly isolation: Values<typeof isolationOptions>;
  readonly segments: readonly SegmentConfig[];
  readonly services: readonly ServiceConfig[];
  readonly pins: readonly PinConfig[];
}

interface SectionKind {
  /** The name in the shipped file. */
  readonly name: string;
  /** Whether there may be many, each with a name of its own. */
  readonly many: boolean;
  readonly doc: string;
  readonly options: Table;
}

/** Section type → what may stand in it, in the order of the shipped file. */
export const sectionKinds: ReadonlyMap<string, SectionKind> = new Map([
  ["gatehouse", { name: "main", many: false, doc: "The agent itself", options: mainOptions }],
  ["mqtt", { name: "mqtt", many: false, doc: "What is published", options: mqttOptions }],
  ["tables", { name: "tables", many: false, doc: "Leases of routing tables", options: tablesOptions }],
  ["ipref", { name: "ipref", many: false, doc: "The IPREF gateway", options: iprefOptions }],
  ["isolation", { name: "isolation", many: false, doc: "Services kept apart", options: isolationOptions }],
  ["segment", { name: "apps", many: true, doc: "A segment of isolated services", options: segmentOptions }],
  ["pin", { name: "gateway", many: true, doc: "An address that nobody else may claim", options: pinOptions }],
  ["service", { name: "web", many: true, doc: "An isolated service", options: serviceOptions }],
]);

export interface Loaded {
  readonly config: Config;
  /** What is wrong, with its line. */
  readonly warnings: readonly string[];
  /** False: some lines are no UCI at all, so the file may be half of what somebody meant. */
  readonly isWhole: boolean;
}

/**
 * Reads a configuration. Never throws: whatever is wrong is a warning with its line, and the defaults stand in.
 */
export function loadConfig(file: string): Loaded {
  const { sections, errors } = parseUci(file);
  const warnings = errors.map((error) => `line ${error.line}: ${error.message}`);
  const single = <Options extends Table>(type: string, options: Options): Values<Options> => {
    const [section, ...more] = sections.filter((each) => each.type === type);
    for (const each of more) warnings.push(`line ${each.line}: a second ${type} section, left out`);
    return readOptions(section, options, (line) => warnings.push(line)) as Values<Options>;
  };
  const many = <Options extends Table>(type: string, options: Options, check: SectionCheck<Options>) =>
    sections
      .filter((each) => each.type === type)
      .flatMap((section) => {
        const faults: string[] = [];
        const values = readOptions(section, options, (line) => faults.push(line)) as Values<Options>;
        const fault = section.name === undefined ? "it has no name" : (faults[0] ?? check(values));
        if (fault !== undefined) warnings.push(`${titleOf(section)} is left out: ${fault}`);
        return fault === undefined ? [{ name: section.name!, ...values }] : [];
      });
  for (const section of sections) {
    if (!sectionKinds.has(section.type)) warnings.push(`${titleOf(section)}: no such section type`);
  }
  const taken = new Set<string>();
  const segments = many("segment", segmentOptions, (it) => {
    if (it.device.length + it.network.length === 0) return "it has no device or network";
    const double = it.device.find((each) => taken.has(each));
    if (double !== undefined) return `${double} is in another segment`;
    for (const each of it.device) taken.add(each);
    return undefined;
  });
  const config: Config = {
    main: single("gatehouse", mainOptions),
    mqtt: single("mqtt", mqttOptions),
    tables: single("tables", tablesOptions),
    ipref: single("ipref", iprefOptions),
    isolation: single("isolation", isolationOptions),
    segments,
    pins: many("pin", pinOptions, (it) =>
      it.device !== "" && it.address !== undefined ? undefined : "it has no device or no address",
    ).map(({ device, address, mac }) => ({ device, address: address!, ...(mac !== undefined && { mac }) })),
    services: many("service", serviceOptions, (it) => {
      if (!segments.some((each) => each.name === it.segment)) return `there is no segment "${it.segment}"`;
      if (it.address.length > 0 || it.mac || it.hostname) return undefined;
      return "it has no address, mac or hostname";
    }),
  };
  return { config, warnings, isWhole: errors.length === 0 };
}

type SectionCheck<Options extends Table> = (values: Values<Options>) => string | undefined;

function titleOf(section: UciSection): string {
  return `line ${section.line}: section ${section.type}${section.name === undefined ? "" : ` '${section.name}'`}`;
}

function isDomain(value: string): boolean {
  const labels = value.replace(/\.$/, "").split(".");
  return value.length <= 253 && labels.every((each) => /^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}$/.test(each));
}

function isAddress(value: string): boolean {
  return address("", "").parse(value) !== undefined;
}

/** Zero is one, too, which no peer would take. */
function isReference(value: string): boolean {
  try {
    return parseReference(value) > 0n;
  } catch {
    return false;
  }
}

function camel(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}

/** One section's values, with defaults for what is missing or wrong. */
function readOptions(
  section: UciSection | undefined,
  table: Table,
  warn: (line: string) => void,
): Record<string, unknown> {
  const values: Record<string, unknown> = Object.create(null);
  for (const [name, option] of Object.entries(table)) values[camel(name)] = option.default;
  for (const [name, given] of section?.options ?? []) {
    const option = Object.hasOwn(table, name) ? table[name] : undefined;
    const title = `${titleOf(section!)}, ${name}`;
    if (!option) {
      warn(`${title}: no such option`);
      continue;
    }
    // As in libuci: one value for a list is a list of one, of several for an option the last counts, and an
    // empty value is as if it were not there, except where nothing is an answer.
    const texts = typeof given === "string" ? [given] : given;
    const chosen = (option.list ? texts : texts.slice(-1)).filter(
      (each) => each !== "" || (!option.list && option.parse("") !== undefined),
    );
    if (chosen.length === 0 && !option.list) continue;
    const parsed = chosen.map((each) => option.parse(each));
    const wrong = parsed.indexOf(undefined);
    if (wrong >= 0) warn(`${title}: ${JSON.stringify(chosen[wrong])} is not ${option.expects}`);
    else values[camel(name)] = option.list ? parsed : parsed[0];
  }
  return values;
}

/** The configuration file as it is shipped: every option with its comment and default. */
export function renderDefaults(): string {
  const parts = [
    "# gatehouse. Every option is shown with its default: a line that is missing means the same.\n",
  ];
  for (const [type, kind] of sectionKinds) {
    const lines = [`# ${kind.doc}${kind.many ? "; an example, any number" : ""}.`];
    lines.push(`${kind.many ? "#" : ""}config ${type} '${kind.name}'`);
    for (const [name, option] of Object.entries(kind.options)) {
      lines.push(`\t# ${option.doc}. Takes ${option.expects}${option.list ? "; any number" : ""}.`);
      const values = option.list ? (option.default as readonly unknown[]) : [option.default];
      const hidden = kind.many || values.length === 0 ? "#" : "";
      for (const value of values.length === 0 ? [""] : values) {
        lines.push(
          `\t${hidden}${option.list ? "list" : "option"} ${name} ${quoteUci(textOf(value) || (option.none ? noneWord : ""))}`,
        );
      }
    }
    parts.push(`${lines.join("\n")}\n`);
  }
  return parts.join("\n");
}

function textOf(value: unknown): string {
  if (typeof value === "boolean") return value ? "1" : "0";
  return value === undefined ? "" : String(value);
}
