/**
 * Our number among those who write into the kernel's tables: FRA_PROTOCOL, RTA_PROTOCOL and NDA_PROTOCOL of what is
 * ours. Nobody else's in iproute2's rt_protos; kept for good, as what an earlier life left is told by it.
 */

export const ourProtocol = 71;

/** The route into the tunnel has one of its own: who keeps leased routes takes every other one of theirs for a stray. */
export const tunnelProtocol = 72;
