/**
 * Which packets a packet socket is woken for, as a program of classic BPF. Bytes out, no state.
 *
 *     per place:   ldb [offset]                 a frame that ends before it does not pass
 *                  jeq value, to the next place │ for each value
 *                  ret 0                        no value fitted
 *     at the end:  ret everything
 *
 * Source: linux/filter.h, linux/bpf_common.h.
 */

import type { PacketOptions } from "./system.ts";

/** BPF_LD | BPF_B | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K. */
const code = { loadByte: 0x30, jumpIfEqual: 0x15, answer: 0x06 } as const;
const everything = 0xffff_ffff;
const little = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** @throws RangeError for a place or a value that no frame has, or without values. */
export function encodeFilter(only: NonNullable<PacketOptions["only"]>): Uint8Array {
  const program: (readonly [code: number, then: number, constant: number])[] = [];
  for (const { offset, values } of only) {
    const isPlace = Number.isInteger(offset) && offset >= 0 && offset <= 0xffff;
    if (!isPlace || values.length === 0) throw new RangeError(`Cannot filter packets by byte ${offset}`);
    program.push([code.loadByte, 0, offset]);
    for (const [index, value] of values.entries()) {
      if (!Number.isInteger(value) || value < 0 || value > 255)
        throw new RangeError(`Cannot filter packets by ${value}: it is no byte`);
      // Past the values that follow, and past the refusal.
      program.push([code.jumpIfEqual, values.length - index, value]);
    }
    program.push([code.answer, 0, 0]);
  }
  program.push([code.answer, 0, everything]);
  const view = new DataView(new ArrayBuffer(program.length * 8));
  for (const [index, [operation, then, constant]] of program.entries()) {
    view.setUint16(index * 8, operation, little);
    view.setUint8(index * 8 + 2, then);
    view.setUint32(index * 8 + 4, constant, little);
  }
  return new Uint8Array(view.buffer);
}
