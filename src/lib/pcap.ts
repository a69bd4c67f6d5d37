/**
 * Capture files: pcap and pcapng read piece by piece, pcap written.
 *
 * A reader keeps what has come of the unfinished record or block, at most one of a bounded size, and of pcapng
 * the interfaces of the present section. Blocks that hold no packets are skipped without being kept. Lengths in
 * a file are anybody's: each is checked before a byte is kept for it. What was read before damage stays read.
 *
 * ```
 * pcap    magic(32) version(2×16) 0 0 snap(32) link(32)      then    seconds fraction captured original  data
 * pcapng  type(32) total(32) body … total(32)                 section: magic version length options
 *           interface: link(16) 0(16) snap options               enhanced: interface high low captured original data
 *                                                                simple: original data
 * ```
 *
 * All numbers are in the byte order that the magic shows. Source: draft-ietf-opsawg-pcap and -pcapng.
 */

/** Kinds of frames (LINKTYPE_…) that frame.ts reads. */
export const LinkType = { ethernet: 1, raw: 101, cooked: 113, ipv4: 228, ipv6: 229, cooked2: 276 } as const;

export interface CapturedPacket {
  /** LINKTYPE_… of the interface that it was taken on. */
  readonly linkType: number;
  /** Wall clock in milliseconds since 1970, exact to the microsecond; undefined if the file does not say. */
  readonly date: number | undefined;
  /** Length on the wire, not less than what was captured. */
  readonly originalBytes: number;
  /** What was captured; valid until the reader is given the next piece. */
  readonly bytes: Uint8Array;
}

/** tcpdump takes and writes no longer packets. */
const packetBytes = 262_144;
/** A block that holds a packet, an interface or a section, with its options. */
const blockBytes = 1024 * 1024;
const maxInterfaces = 4_096;

const headerBytes = 24;
const recordBytes = 16;
const micro = 0xa1b2c3d4;
const nano = 0xa1b23c4d;
const byteOrderMagic = 0x1a2b3c4d;
const Block = { section: 0x0a0d0d0a, interface: 1, simple: 3, enhanced: 6 } as const;
const Option = { end: 0, resolution: 9, offset: 14 } as const;

interface Interface {
  readonly linkType: number;
  /** 0 is no limit. */
  readonly snapBytes: number;
  /** Of the timestamps, in one second. */
  readonly units: bigint;
  readonly offsetSeconds: bigint;
}

/** What the next bytes of the file are. */
type State = "magic" | "record" | "block";

export class PcapReader {
  /** The file's bytes from #start to #end are still to be read. */
  #bytes: Uint8Array = new Uint8Array(0);
  #start = 0;
  #end = 0;
  #view = new DataView(this.#bytes.buffer);
  #state: State = "magic";
  /** With fewer bytes than this nothing can be done. */
  #neededBytes = 4;
  #skipBytes = 0;
  #little = false;
  #damage: SyntaxError | undefined;
  // Of pcap:
  #linkType = 0;
  #fractions = 1e6;
  // Of pcapng:
  #interfaces: Interface[] = [];

  /**
   * Takes the next piece of the file.
   *
   * @returns the packets that are whole now. What is not asked for stays for the next call.
   * @throws SyntaxError where the file is damaged, after the packets before that, and from then on.
   */
  *read(piece: Uint8Array): Generator<CapturedPacket, void> {
    this.#append(piece);
    for (;;) {
      if (this.#damage) throw this.#damage;
      const skipped = Math.min(this.#skipBytes, this.#end - this.#start);
      this.#start += skipped;
      this.#skipBytes -= skipped;
      if (this.#skipBytes > 0 || this.#end - this.#start < this.#neededBytes) return;
      const packet = this.#step();
      if (packet) yield packet;
    }
  }

  /** The file has no more bytes. @throws SyntaxError if it ends within something, or was damaged before. */
  end(): void {
    if (this.#damage) throw this.#damage;
    if (this.#state === "magic" || this.#end > this.#start || this.#skipBytes > 0)
      this.#fail("it is cut short");
  }

  #append(piece: Uint8Array): void {
    const rest = this.#end - this.#start;
    if (rest + piece.length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(rest + piece.length, 2 * this.#bytes.length));
      larger.set(this.#bytes.subarray(this.#start, this.#end));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
      [this.#start, this.#end] = [0, rest];
    } else if (this.#end + piece.length > this.#bytes.length) {
      this.#bytes.copyWithin(0, this.#start, this.#end);
      [this.#start, this.#end] = [0, rest];
    }
    this.#bytes.set(piece, this.#end);
    this.#end += piece.length;
  }

  #step(): CapturedPacket | undefined {
    switch (this.#state) {
      case "magic":
        return this.#readMagic();
      case "record":
        return this.#readRecord();
      case "block":
        return this.#readBlock();
    }
  }

  #readMagic(): undefined {
    const magic = this.#view.getUint32(this.#start, false);
    if (magic === Block.section) {
      this.#state = "block";
      this.#neededBytes = 12;
      return;
    }
    this.#little = magic !== micro && magic !== nano;
    const own = this.#u32(0);
    if (own !== micro && own !== nano) this.#fail("it is no capture");
    if (this.#needs(headerBytes)) return;
    const [major, minor] = [this.#u16(4), this.#u16(6)];
    if (major !== 2 || minor !== 4) this.#fail(`version ${major}.${minor} is not known`);
    this.#fractions = own === nano ? 1e9 : 1e6;
    // Above the link type there may be the length of a frame check sequence.
    this.#linkType = this.#u32(20) & 0xffff;
    this.#state = "record";
    this.#consume(headerBytes, recordBytes);
  }

  #readRecord(): CapturedPacket | undefined {
    const captured = this.#u32(8);
    if (captured > packetBytes) this.#fail(`a packet of ${captured} bytes`);
    if (this.#needs(recordBytes + captured)) return undefined;
    const fraction = Math.floor((this.#u32(4) * 1e6) / this.#fractions) / 1000;
    const packet = {
      linkType: this.#linkType,
      date: this.#u32(0) * 1000 + fraction,
      originalBytes: Math.max(captured, this.#u32(12)),
      bytes: this.#slice(recordBytes, captured),
    };
    this.#consume(recordBytes + captured, recordBytes);
    return packet;
  }

  #readBlock(): CapturedPacket | undefined {
    const isSection = this.#view.getUint32(this.#start, false) === Block.section;
    if (isSection) {
      this.#little = this.#view.getUint32(this.#start + 8, true) === byteOrderMagic;
      if (this.#u32(8) !== byteOrderMagic) this.#fail("a section without byte order");
    }
    const type = this.#u32(0);
    const total = this.#u32(4);
    if (total < 12 || total % 4 !== 0) this.#fail(`a block of ${total} bytes`);
    if (!isSection && type !== Block.interface && type !== Block.simple && type !== Block.enhanced) {
      this.#skipBytes = total;
      return undefined;
    }
    if (total > blockBytes) this.#fail(`a block of ${total} bytes`);
    if (this.#needs(total)) return undefined;
    if (this.#u32(total - 4) !== total) this.#fail("a block ends in another length than it begins with");
    const packet = isSection
      ? this.#readSection(total)
      : type === Block.interface
        ? this.#readInterface(total)
        : type === Block.simple
          ? this.#readSimple(total)
          : this.#readEnhanced(total);
    this.#consume(total, 12);
    return packet;
  }

  #readSection(total: number): undefined {
    if (total < 28) this.#fail(`a section of ${total} bytes`);
    if (this.#u16(12) !== 1) this.#fail(`version ${this.#u16(12)} is not known`);
    this.#interfaces = [];
  }

  #readInterface(total: number): undefined {
    if (total < 20) this.#fail(`an interface of ${total} bytes`);
    if (this.#interfaces.length >= maxInterfaces) this.#fail(`more than ${maxInterfaces} interfaces`);
    let units = 1_000_000n;
    let offsetSeconds = 0n;
    for (let at = 16; at + 4 <= total - 4; ) {
      const [code, length] = [this.#u16(at), this.#u16(at + 2)];
      if (code === Option.end) break;
      if (at + 4 + length > total - 4) this.#fail("an option is longer than its block");
      if (code === Option.resolution && length === 1) {
        const exponent = this.#bytes[this.#start + at + 4]!;
        units = exponent & 0x80 ? 2n ** BigInt(exponent & 0x7f) : 10n ** BigInt(exponent);
      } else if (code === Option.offset && length === 8) {
        offsetSeconds = this.#view.getBigInt64(this.#start + at + 4, this.#little);
      }
      at += 4 + ((length + 3) & ~3);
    }
    this.#interfaces.push({ linkType: this.#u16(8), snapBytes: this.#u32(12), units, offsetSeconds });
  }

  #readSimple(total: number): CapturedPacket {
    const [first] = this.#interfaces;
    if (total < 16 || !first) this.#fail("a packet without interface or length");
    const originalBytes = this.#u32(8);
    const captured = Math.min(originalBytes, first.snapBytes || originalBytes);
    const bytes = this.#packet({ offset: 12, captured, room: total - 16 });
    return { linkType: first.linkType, date: undefined, originalBytes, bytes };
  }

  #readEnhanced(total: number): CapturedPacket {
    const taken = this.#interfaces[total < 32 ? -1 : this.#u32(8)];
    if (!taken) this.#fail("a packet without interface or length");
    const captured = this.#u32(20);
    const bytes = this.#packet({ offset: 28, captured, room: total - 32 });
    const time = (BigInt(this.#u32(12)) << 32n) | BigInt(this.#u32(16));
    const microseconds = (time * 1_000_000n) / taken.units + taken.offsetSeconds * 1_000_000n;
    const date = Number(microseconds) / 1000;
    return { linkType: taken.linkType, date, originalBytes: Math.max(captured, this.#u32(24)), bytes };
  }

  #packet({ offset, captured, room }: { offset: number; captured: number; room: number }): Uint8Array {
    if (captured > room) this.#fail("a packet is longer than its block");
    if (captured > packetBytes) this.#fail(`a packet of ${captured} bytes`);
    return this.#slice(offset, captured);
  }

  /** Whether more bytes must come first. */
  #needs(bytes: number): boolean {
    this.#neededBytes = bytes;
    return this.#end - this.#start < bytes;
  }

  #consume(bytes: number, next: number): void {
    this.#start += bytes;
    this.#neededBytes = next;
  }

  #slice(offset: number, length: number): Uint8Array {
    return this.#bytes.subarray(this.#start + offset, this.#start + offset + length);
  }

  #u16(offset: number): number {
    return this.#view.getUint16(this.#start + offset, this.#little);
  }

  #u32(offset: number): number {
    return this.#view.getUint32(this.#start + offset, this.#little);
  }

  #fail(why: string): never {
    this.#damage = new SyntaxError(`Cannot read capture: ${why}`);
    throw this.#damage;
  }
}

/** What `encodePcapHeader` and `encodePcapRecord` put before all packets, and before each. */
export const pcapBytes = { header: headerBytes, record: recordBytes } as const;

/** The beginning of a pcap file of Ethernet frames, with microseconds. @param snapBytes of a frame at most. */
export function encodePcapHeader(snapBytes: number): Uint8Array {
  const bytes = new Uint8Array(headerBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, micro, true);
  view.setUint16(4, 2, true);
  view.setUint16(6, 4, true);
  view.setUint32(16, snapBytes, true);
  view.setUint32(20, LinkType.ethernet, true);
  return bytes;
}

/**
 * A frame for such a file, cut to `snapBytes`.
 *
 * @param about `date` in milliseconds since 1970; one that 32 bits of seconds cannot hold is written as the
 *   nearest that they can.
 */
export function encodePcapRecord(
  frame: Uint8Array,
  about: { readonly date: number; readonly snapBytes: number },
): Uint8Array {
  const captured = Math.min(frame.length, about.snapBytes);
  const bytes = new Uint8Array(recordBytes + captured);
  const view = new DataView(bytes.buffer);
  const microseconds = Math.min(Math.max(0, Math.round(about.date * 1000)), 2 ** 32 * 1e6 - 1);
  view.setUint32(0, Math.floor(microseconds / 1e6), true);
  view.setUint32(4, microseconds % 1e6, true);
  view.setUint32(8, captured, true);
  view.setUint32(12, frame.length, true);
  bytes.set(frame.subarray(0, captured), recordBytes);
  return bytes;
}
