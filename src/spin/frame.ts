/**
 * Where one JSON value ends and the next begins in a stream of bytes.
 *
 * A request is an object or array; blanks (newlines too, and the NUL that C clients send) may stand between two.
 * Anything else there is garbage up to the next newline, reported once. Which pieces the bytes come in makes no
 * difference; each byte is looked at once, and what is kept is the value under way, which is bounded, and the
 * bytes not yet looked at, which whoever feeds bounds.
 */

/** Finds the end of an object or array. Takes bytes or character codes: all that counts is ASCII. */
export class Nesting {
  #depth = 0;
  #deepest = 0;
  #inString = false;
  #escaped = false;

  /** How deep objects and arrays were nested so far. */
  get deepest(): number {
    return this.#deepest;
  }

  /** Takes the next code; true if it closes the value. */
  step(code: number): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (code === 0x5c) this.#escaped = true;
      else if (code === 0x22) this.#inString = false;
      return false;
    }
    switch (code) {
      case 0x22:
        this.#inString = true;
        return false;
      case 0x7b:
      case 0x5b:
        this.#depth++;
        this.#deepest = Math.max(this.#deepest, this.#depth);
        return false;
      case 0x7d:
      case 0x5d:
        this.#depth--;
        return this.#depth <= 0;
      default:
        return false;
    }
  }
}

/** How deep a text is nested, JSON or not; for texts that did not come through a Framer. */
export function nestingOf(text: string): number {
  const nesting = new Nesting();
  for (let at = 0; at < text.length; at++) nesting.step(text.charCodeAt(at));
  return nesting.deepest;
}

export type Frame =
  /** Begins and ends as an object or array; whether it is one shows when it is parsed. */
  | { readonly kind: "text"; readonly text: string }
  /** No object or array begins here, or it is not UTF-8. */
  | { readonly kind: "garbage" }
  /** More bytes than a value may have. Nothing follows. */
  | { readonly kind: "oversize" };

const newline = 0x0a;
const firstBytes = 512;

export class Framer {
  readonly #maxBytes: number;
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });
  readonly #unread: Uint8Array[] = [];
  /** Position in the first of the unread. */
  #at = 0;
  #state: "between" | "value" | "garbage" | "over" = "between";
  #nesting = new Nesting();
  /** The value under way, as far as it was in pieces that are used up. */
  #kept = new Uint8Array(0);
  #keptBytes = 0;
  #hasBlanks = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes are waiting for `next`. */
  get hasUnread(): boolean {
    return this.#unread.length > 0;
  }

  /** A value has begun and not ended. */
  get isPartial(): boolean {
    return this.#state === "value";
  }

  /** A blank has come. */
  get hasBlanks(): boolean {
    return this.#hasBlanks;
  }

  /** Adds bytes, which the framer then owns. */
  feed(bytes: Uint8Array): void {
    if (this.#state !== "over" && bytes.length > 0) this.#unread.push(bytes);
  }

  /** The next frame; undefined once everything was looked at. */
  next(): Frame | undefined {
    for (let bytes = this.#unread[0]; bytes !== undefined; bytes = this.#unread[0]) {
      const frame = this.#scan(bytes);
      if (this.#at >= bytes.length) {
        this.#unread.shift();
        this.#at = 0;
      }
      if (frame) return frame;
    }
    return undefined;
  }

  #scan(bytes: Uint8Array): Frame | undefined {
    if (this.#state !== "value") {
      const frame = this.#skip(bytes);
      if (frame || this.#at >= bytes.length) return frame;
    }
    const start = this.#at;
    const end = Math.min(bytes.length, start + this.#maxBytes - this.#keptBytes + 1);
    while (this.#at < end) {
      if (this.#nesting.step(bytes[this.#at++]!)) return this.#take(bytes.subarray(start, this.#at));
    }
    if (this.#keptBytes + this.#at - start > this.#maxBytes) return this.#giveUp();
    this.#keep(bytes.subarray(start, this.#at));
    return undefined;
  }

  /** Up to the first byte of a value, or of garbage. */
  #skip(bytes: Uint8Array): Frame | undefined {
    for (; this.#at < bytes.length; this.#at++) {
      const byte = bytes[this.#at]!;
      if (this.#state === "garbage") {
        if (byte === newline) this.#state = "between";
      } else if (isBlank(byte)) {
        this.#hasBlanks = true;
      } else if (byte === 0x7b || byte === 0x5b) {
        this.#state = "value";
        this.#nesting = new Nesting();
        return undefined;
      } else {
        this.#state = "garbage";
        return { kind: "garbage" };
      }
    }
    return undefined;
  }

  /** The value ends with these bytes. */
  #take(last: Uint8Array): Frame {
    this.#state = "between";
    let whole = last;
    if (this.#keptBytes > 0) {
      this.#keep(last);
      whole = this.#kept.subarray(0, this.#keptBytes);
    }
    if (whole.length > this.#maxBytes) return this.#giveUp();
    try {
      return { kind: "text", text: this.#decoder.decode(whole) };
    } catch {
      return { kind: "garbage" };
    } finally {
      this.#keptBytes = 0;
      // A client that once sent much and is silent now needs no room.
      if (this.#kept.length > firstBytes) this.#kept = new Uint8Array(0);
    }
  }

  #keep(piece: Uint8Array): void {
    const length = this.#keptBytes + piece.length;
    if (length > this.#kept.length) {
      const room = new Uint8Array(Math.max(firstBytes, length, this.#kept.length * 2));
      room.set(this.#kept.subarray(0, this.#keptBytes));
      this.#kept = room;
    }
    this.#kept.set(piece, this.#keptBytes);
    this.#keptBytes = length;
  }

  #giveUp(): Frame {
    this.#state = "over";
    this.#unread.length = 0;
    this.#at = 0;
    this.#kept = new Uint8Array(0);
    this.#keptBytes = 0;
    return { kind: "oversize" };
  }
}

function isBlank(byte: number): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d) || byte === 0;
}
