/**
 * A long list in a JSON text, read entry by entry: no value and no text is made of the whole.
 *
 * Whatever surrounds the list is left to `JSON.parse`, and so is each entry, unless its reader knows better. Nothing
 * is kept here.
 */

const code = { quote: 34, comma: 44, colon: 58, open: 91, backslash: 92, close: 93, begin: 123, end: 125 };

/**
 * Finds the first list of a name in a JSON text, and visits its entries in their order.
 *
 * An entry's text is in its bounds what JSON knows as one: quotes and brackets match; whether the rest of it is right
 * is for its reader to say.
 *
 * @param name letters only.
 * @returns the whole value with the list left empty.
 * @throws SyntaxError if there is no such list in a text that is right otherwise; by then entries were visited.
 */
export function readEntries(
  bytes: Uint8Array,
  name: string,
  visit: (from: number, to: number) => void,
): unknown {
  const from = listAfter(bytes, name);
  if (from < 0) throw new SyntaxError(`${bytes.length} bytes without a list of ${name}`);
  const to = walk(bytes, from, visit);
  return parse(textOf(bytes.subarray(0, from)) + textOf(bytes.subarray(to)));
}

/** The value of an entry. @throws SyntaxError */
export function parseEntry(bytes: Uint8Array, from: number, to: number): unknown {
  return parse(textOf(bytes.subarray(from, to)));
}

function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new SyntaxError(`${bytes.length} bytes that are no text`);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new SyntaxError(`${text.length} characters that are no JSON text`);
  }
}

/** Where the list that is called so begins, behind its bracket; -1: there is none. A text in quotes has no bare quote. */
function listAfter(bytes: Uint8Array, name: string): number {
  const wanted = new TextEncoder().encode(`"${name}"`);
  for (let start = 0; start + wanted.length < bytes.length; start++) {
    let same = 0;
    while (same < wanted.length && bytes[start + same] === wanted[same]) same++;
    if (same < wanted.length) continue;
    const colon = afterBlanks(bytes, start + same);
    const bracket = bytes[colon] === code.colon ? afterBlanks(bytes, colon + 1) : -1;
    if (bytes[bracket] === code.open) return bracket + 1;
  }
  return -1;
}

/** Visits the entries of a list. @returns where its closing bracket is. */
function walk(bytes: Uint8Array, start: number, visit: (from: number, to: number) => void): number {
  let at = afterBlanks(bytes, start);
  if (bytes[at] === code.close) return at;
  for (;;) {
    const to = entryEnd(bytes, at);
    visit(at, to);
    at = afterBlanks(bytes, to);
    if (bytes[at] === code.close) return at;
    if (bytes[at] !== code.comma) throw new SyntaxError(`a list that breaks off at byte ${at}`);
    at = afterBlanks(bytes, at + 1);
  }
}

function entryEnd(bytes: Uint8Array, from: number): number {
  let depth = 0;
  for (let at = from; at < bytes.length; at++) {
    const byte = bytes[at]!;
    if (byte === code.quote) at = quoteEnd(bytes, at);
    else if (byte === code.begin || byte === code.open) depth++;
    else if (byte === code.end || byte === code.close) depth--;
    if (depth < 0) return at;
    // What has brackets or quotes ends with them; anything else (a number) before what comes next.
    if (depth === 0) {
      const last = bytes[at]!;
      if (last === code.quote || last === code.end || last === code.close) return at + 1;
      if (last === code.comma || last <= 32) return at;
    }
  }
  throw new SyntaxError("a list that breaks off");
}

/** Where the quote is that ends a text. */
function quoteEnd(bytes: Uint8Array, from: number): number {
  for (let at = from + 1; at < bytes.length; at++) {
    if (bytes[at] === code.quote) return at;
    if (bytes[at] === code.backslash) at++;
  }
  throw new SyntaxError("a list that breaks off in a text");
}

function afterBlanks(bytes: Uint8Array, from: number): number {
  let at = from;
  while (bytes[at] === 32 || bytes[at] === 10 || bytes[at] === 13 || bytes[at] === 9) at++;
  return at;
}
