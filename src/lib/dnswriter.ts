/**
 * The bytes of a DNS message while it is written.
 *
 * Kept: where each name and each of its ends was written, so that it is written once and pointed at later (RFC 1035
 * §4.1.4). Letters are compared as they are, so that nobody's spelling changes.
 */

import { formatName, parseName } from "./name.ts";

export class DnsWriter {
  readonly #out: number[] = [];
  /** Name in presentation form → where it was written. */
  readonly #names = new Map<string, number>();

  /** @throws RangeError for what does not fit. */
  u16(value: number): void {
    if (!Number.isInteger(value) || value < 0 || value > 0xffff) {
      throw new RangeError(`Cannot encode DNS message: ${value} in 16 bits`);
    }
    this.#out.push(value >> 8, value & 255);
  }

  u32(value: number): void {
    this.u16(Math.floor(value / 0x10000));
    this.u16(value % 0x10000);
  }

  bytes(values: Iterable<number>): void {
    for (const value of values) this.#out.push(value);
  }

  /** Writes a name in presentation form. @throws SyntaxError for what is none. */
  name(text: string): void {
    const labels = parseName(text);
    for (let first = 0; first < labels.length; first++) {
      const rest = formatName(labels.slice(first));
      const known = this.#names.get(rest);
      if (known !== undefined) {
        this.u16(0xc000 | known);
        return;
      }
      if (this.#out.length < 0x4000) this.#names.set(rest, this.#out.length);
      this.bytes([labels[first]!.length]);
      this.bytes(labels[first]!);
    }
    this.bytes([0]);
  }

  /** Room for the length of what follows, which `end` fills in. */
  begin(): number {
    const at = this.#out.length;
    this.u16(0);
    return at;
  }

  end(lengthAt: number): void {
    const length = this.#out.length - lengthAt - 2;
    this.#out[lengthAt] = length >> 8;
    this.#out[lengthAt + 1] = length & 255;
  }

  /** @throws RangeError past 65,535 bytes. */
  finish(): Uint8Array {
    if (this.#out.length > 0xffff)
      throw new RangeError(`Cannot encode DNS message: ${this.#out.length} bytes`);
    return Uint8Array.from(this.#out);
  }
}
