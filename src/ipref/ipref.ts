/**
 * The front door of IPREF: networks with the same addresses talk through references instead.
 *
 * Mappings (mappings.ts) say who stands behind an encoded address and behind a reference; forwarders read them in a
 * thread of their own (forwarding.ts).
 */

export { Broker, openBroker } from "./broker.ts";
export { deviceMtuBytes, Forwarding, forwardingProgram, openForwarding } from "./forwarding.ts";
export { gatewaysMemory } from "./gateways.ts";
export { describeReport, HostsFile } from "./hosts.ts";
export { type Mappings, openMappings, sweepMs } from "./mappings.ts";
export { iprefMethods } from "./methods.ts";
export { Resolver } from "./resolver.ts";
export type { ForwardSettings } from "./settings.ts";
export { forwardPackets } from "./thread.ts";
export { Imports, parseSource } from "./transfer.ts";
