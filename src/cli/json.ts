/**
 * JSON text as fields, typed as the real `ubus` types its arguments: what is written decides, so `2` is an
 * integer and `2.0` a double, and no digit of a large integer is lost.
 *
 * As lenient as the real one where scripts rely on it: single quotes, a comma before a closing bracket, NaN and
 * Infinity, and whatever follows the object are accepted.
 */

import { BlobType, type Field } from "../ubus/ubus.ts";

/** As deep as the real one goes. */
const maxDepth = 32;
const int64 = { least: -(2n ** 63n), most: 2n ** 63n - 1n };

/** @throws SyntaxError if the text does not begin with a JSON object. */
export function parseFields(text: string): Field[] {
  const reader = new Reader(text);
  const field = reader.value("", 0);
  if (field.type !== BlobType.Table) throw new SyntaxError("Cannot parse arguments: they are no JSON object");
  return field.value as Field[];
}

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(name: string, depth: number): Field {
    if (depth >= maxDepth) throw this.#error("it is nested too deeply");
    switch (this.#peek()) {
      case "{":
        return { name, type: BlobType.Table, value: this.#members(depth + 1) };
      case "[":
        return { name, type: BlobType.Array, value: this.#elements(depth + 1) };
      case '"':
      case "'":
        return { name, type: BlobType.String, value: this.#string() };
      default:
        return this.#literal(name);
    }
  }

  #members(depth: number): Field[] {
    // Of members with one name the last counts, at the place of the first.
    const members = new Map<string, Field>();
    this.#at++;
    while (this.#peek() !== "}") {
      const quote = this.#peek();
      if (quote !== '"' && quote !== "'") throw this.#error("a name is missing");
      const name = this.#string();
      this.#expect(":");
      members.set(name, this.value(name, depth));
      if (this.#peek() !== "}") this.#expect(",");
    }
    this.#at++;
    return [...members.values()];
  }

  #elements(depth: number): Field[] {
    const elements: Field[] = [];
    this.#at++;
    while (this.#peek() !== "]") {
      elements.push(this.value("", depth));
      if (this.#peek() !== "]") this.#expect(",");
    }
    this.#at++;
    return elements;
  }

  #string(): string {
    const quote = this.#text[this.#at++]!;
    let result = "";
    for (;;) {
      const character = this.#text[this.#at++];
      if (character === undefined) throw this.#error("a string has no end");
      if (character === quote) return result;
      result += character === "\\" ? this.#escape() : character;
    }
  }

  #escape(): string {
    const letter = this.#text[this.#at++];
    const plain = letter === undefined ? undefined : plainEscapes.get(letter);
    if (plain !== undefined) return plain;
    const hex = this.#text.slice(this.#at, this.#at + 4);
    if (letter !== "u" || !/^[0-9a-fA-F]{4}$/.test(hex)) throw this.#error("an escape is unknown");
    this.#at += 4;
    return String.fromCharCode(Number.parseInt(hex, 16));
  }

  #literal(name: string): Field {
    const pattern = /(?:true|false|null|NaN|-?Infinity|-?\d+(\.\d+)?([eE][+-]?\d+)?)(?![\w.])/y;
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (!match) throw this.#error("a value is missing");
    this.#at += match[0].length;
    switch (match[0]) {
      case "true":
      case "false":
        return { name, type: BlobType.Int8, value: match[0] === "true" ? 1 : 0 };
      case "null":
        return { name, type: BlobType.Unspec, value: undefined };
      default:
        break;
    }
    const isDouble = match[1] !== undefined || match[2] !== undefined || /[yN]$/.test(match[0]);
    if (isDouble) return { name, type: BlobType.Double, value: Number(match[0]) };
    return integerField(name, BigInt(match[0]));
  }

  #peek(): string | undefined {
    while (/\s/.test(this.#text[this.#at] ?? "x")) this.#at++;
    return this.#text[this.#at];
  }

  #expect(character: string): void {
    if (this.#peek() !== character) throw this.#error(`"${character}" is missing`);
    this.#at++;
  }

  #error(state: string): SyntaxError {
    return new SyntaxError(`Cannot parse JSON at ${this.#at}: ${state}`);
  }
}

const plainEscapes: ReadonlyMap<string, string> = new Map([
  ["b", "\b"],
  ["f", "\f"],
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
  ['"', '"'],
  ["'", "'"],
  ["\\", "\\"],
  ["/", "/"],
]);

function integerField(name: string, value: bigint): Field {
  if (BigInt.asIntN(32, value) === value) return { name, type: BlobType.Int32, value: Number(value) };
  const clamped = value > int64.most ? int64.most : value < int64.least ? int64.least : value;
  return { name, type: BlobType.Int64, value: clamped };
}
