/**
 * Reads JavaScript just far enough to find calls and their arguments: strings, comments and brackets are understood,
 * regular expressions are not (our pages write none that hold brackets or quotes).
 */

const open = "([{";
const close = ")]}";

/** Where the thing that begins at `at` ends, if it is a string or a comment; else `at`. */
function skip(source: string, at: number): number {
  const quote = source[at]!;
  if (`'"\``.includes(quote)) {
    let end = at + 1;
    while (end < source.length && source[end] !== quote) end += source[end] === "\\" ? 2 : 1;
    return end + 1;
  }
  if (source.startsWith("//", at))
    return (source.indexOf("\n", at) + source.length + 1) % (source.length + 1);
  if (source.startsWith("/*", at)) return source.indexOf("*/", at) + 2;
  return at;
}

/** The arguments of every call of a name, as text, the outer calls before those in them. */
export function callsOf(source: string, name: string): string[][] {
  const calls: string[][] = [];
  for (let at = 0; at < source.length; ) {
    const after = skip(source, at);
    if (after !== at) {
      at = after;
      continue;
    }
    const isName = source.startsWith(`${name}(`, at) && !/[\w.$]/.test(source[at - 1] ?? " ");
    if (isName) calls.push(split(source, at + name.length + 1, ","));
    at++;
  }
  return calls;
}

/** What stands between separators, from a place on up to the bracket that closes it. */
function split(source: string, from: number, separator: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let beginning = from;
  let at = from;
  for (; at < source.length; ) {
    const after = skip(source, at);
    if (after !== at) {
      at = after;
      continue;
    }
    const letter = source[at]!;
    if (depth === 0 && (close.includes(letter) || letter === separator)) {
      parts.push(source.slice(beginning, at).trim());
      beginning = at + 1;
      if (letter !== separator) break;
    }
    if (open.includes(letter)) depth++;
    if (close.includes(letter)) depth--;
    at++;
  }
  if (at >= source.length) parts.push(source.slice(beginning).trim());
  return parts.filter((part, index) => part !== "" || index < parts.length - 1);
}

/**
 * Whether an expression can only be an array, a node, or nothing.
 *
 * @param source the file: what a name was declared as counts.
 */
export function isChildren(expression: string, source: string): boolean {
  const [condition, ...rest] = split(expression, 0, "?");
  if (condition !== undefined && rest.length > 0) {
    return split(rest.join("?"), 0, ":").every((each) => isChildren(each, source));
  }
  if (expression === "null" || expression.startsWith("[")) return true;
  if (/^(?:E|field|list)\(/.test(expression)) return true;
  if (/^[\w.[\]() |,]+\.(?:map|concat)\(/.test(expression)) return true;
  if (/^\w+(?:\[\w+\])?\.node$/.test(expression)) return true;
  if (!/^\w+$/.test(expression)) return false;
  const declared = new RegExp(`\\b(?:const|let) ${expression} = ([^;]*)`).exec(source)?.[1];
  return declared !== undefined && isChildren(declared.trim(), source);
}
