// What the core asks of its JavaScript engine beyond the ECMAScript language: UTF-8, nothing else.
// Anything more comes in through the System argument.

declare class TextEncoder {
  encode(text: string): Uint8Array;
}

declare class TextDecoder {
  constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
  decode(bytes?: Uint8Array): string;
}
