/**
 * The front door of IPREF: networks with the same addresses talk through references instead.
 *
 * Mappings (mappings.ts) say who stands behind an encoded address and behind a reference; forwarders read them in a
 * thread of their own (forwarding.ts).
 */

export { type AaRecord, formatAa, parseAa } from "./aa.ts";
export { Broker, openBroker } from "./broker.ts";
export { type CountName, Counts, countNames } from "./counts.ts";
export {
  deviceMtuBytes,
  Forwarding,
  type ForwardingOptions,
  forwardingProgram,
  openForwarding,
} from "./forwarding.ts";
export { describeReport, type HostsContent, HostsFile, type HostsReport } from "./hosts.ts";
export {
  type Filter,
  type Mappings,
  type MappingsOptions,
  openMappings,
  type PeerStatus,
  sweepMs,
} from "./mappings.ts";
export { iprefMethods, type MethodParts } from "./methods.ts";
export { encodeReference, formatReference, parseReference } from "./reference.ts";
export { Resolver } from "./resolver.ts";
export type { ForwardSettings } from "./settings.ts";
export type { Refusal, StaticRecord } from "./sources.ts";
export { forwardPackets } from "./thread.ts";
export { Imports, parseSource } from "./transfer.ts";
