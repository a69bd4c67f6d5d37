/**
 * SPIN's own doors: its JSON-RPC through the bus, a unix socket and MQTT, its external sources, and its files.
 *
 * This room decides nothing. What SPIN's clients ask for goes to a door that the agent makes of the other rooms;
 * what they get looks as SPIN's answers do. `rpc.ts` lists what differs, and why.
 */

export type { Answer, RpcError } from "./calls.ts";
export type { Decision, DeviceFlow, SpinDoor } from "./door.ts";
export {
  type ExternalCounters,
  type ExternalSink,
  ExternalSource,
  type ExternalSourceOptions,
} from "./extsrc.ts";
export { readSpin, type SpinName, type SpinNode, type SpinState } from "./files.ts";
export { type ImportDoor, importSpin, type SpinImport } from "./import.ts";
export { rpcMethods } from "./methods.ts";
export { Rpc } from "./rpc.ts";
export { openRpcSocket, RpcSocket, type RpcSocketCounters, type RpcSocketOptions } from "./socket.ts";
export { RpcTopic, type RpcTopicCounters, type RpcTopicOptions, rpcTopics } from "./topic.ts";
