/**
 * Our number among those who write into the kernel's tables: FRA_PROTOCOL, RTA_PROTOCOL and NDA_PROTOCOL of what is
 * ours. Nobody else's in iproute2's rt_protos; kept for good, as what an earlier life left is told by it.
 */

export const ourProtocol = 71;
