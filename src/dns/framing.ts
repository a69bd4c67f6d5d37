/**
 * DNS messages in a stream (RFC 1035 §4.2.2): `length(16) message …`.
 *
 * Kept: the message that is on its way, in a buffer of its length, so that a sender of single bytes costs no copies.
 */

export class Frames {
  readonly #maxBytes: number;
  #head = 0;
  #headBytes = 0;
  #body: Uint8Array | undefined;
  #filled = 0;

  /** @param maxBytes the longest message that is taken. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Whether a message has begun and not ended. */
  get isCut(): boolean {
    return this.#headBytes > 0;
  }

  /**
   * The messages that are whole now; they are the caller's.
   *
   * @throws SyntaxError for one that is longer than is taken; then the stream is of no more use.
   */
  take(bytes: Uint8Array): Uint8Array[] {
    const messages: Uint8Array[] = [];
    let at = 0;
    while (at < bytes.length) {
      if (this.#body === undefined) {
        this.#head = (this.#head << 8) | bytes[at++]!;
        if (++this.#headBytes < 2) continue;
        if (this.#head > this.#maxBytes) {
          throw new SyntaxError(`Cannot decode DNS stream: a message of ${this.#head} bytes`);
        }
        this.#body = new Uint8Array(this.#head);
      }
      const piece = bytes.subarray(at, at + this.#body.length - this.#filled);
      this.#body.set(piece, this.#filled);
      this.#filled += piece.length;
      at += piece.length;
      if (this.#filled < this.#body.length) break;
      messages.push(this.#body);
      [this.#head, this.#headBytes, this.#body, this.#filled] = [0, 0, undefined, 0];
    }
    return messages;
  }
}

/** A message as it is written to a stream. */
export function frame(message: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(message.length + 2);
  bytes[0] = message.length >> 8;
  bytes[1] = message.length & 255;
  bytes.set(message, 2);
  return bytes;
}
