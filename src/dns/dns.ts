/**
 * The DNS as a language that rooms speak: a server for their names, a client for those of others. This is the front
 * door; messages themselves are `lib/dns.ts`.
 */

export {
  type Answer,
  addressOfReverse,
  addressRecord,
  type Denial,
  failed,
  noData,
  noSuchName,
  type Outcome,
  pointerRecord,
  type Relayed,
  reverseName,
  yes,
} from "./answer.ts";
export {
  type Answered,
  DnsClient,
  type DnsClientOptions,
  followAliases,
  type TransferOptions,
} from "./client.ts";
export { type DnsQuery, Rcode } from "./query.ts";
export {
  type Asker,
  type DnsDrop,
  type DnsPlace,
  DnsServer,
  type DnsServerOptions,
  openDnsServer,
} from "./server.ts";
