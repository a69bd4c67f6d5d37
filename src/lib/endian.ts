/**
 * The byte order of this machine, which its kernel uses in what is no network packet: socket addresses' families,
 * virtio headers, structs of other programs.
 */

export const hostIsLittle = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;
