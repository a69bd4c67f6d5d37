/**
 * One option of the configuration: what text it takes, what it means, what it is when nobody says.
 *
 * The tables in `config.ts` are made of these; they feed the reader, its warnings and the shipped file.
 */

import { type Address, type Mac, type Prefix, parseAddress, parseMac, parsePrefix } from "../lib/address.ts";
import { isDeviceName } from "../lib/device.ts";

export interface Option<Value> {
  readonly default: Value;
  /** A list takes any number of values, each for itself; `default` is then an array. */
  readonly list: boolean;
  /** What a value has to be, for warnings and the shipped file, e.g. "a whole number from 1 to 65535". */
  readonly expects: string;
  /** Of a number, e.g. "seconds". */
  readonly unit?: string;
  readonly min?: number;
  readonly max?: number;
  /** Takes the word `none`, which is read as "": an empty value is lost on its way through libuci. */
  readonly none?: boolean;
  /** One sentence for the shipped file and the manual. */
  readonly doc: string;
  /** One value, or undefined if the text is none. */
  parse(text: string): unknown;
}

/** Says of an option that there is to be nothing, where something is the default. */
export const noneWord = "none";

/** Printable text of at most `maxLength` characters. */
function isText(text: string, maxLength = 255): boolean {
  return text.length <= maxLength && !/[\u0000-\u001f\u007f]/.test(text);
}

export function boolean(fallback: boolean, doc: string): Option<boolean> {
  const words = new Map([
    ...["1", "on", "true", "yes", "enabled"].map((word) => [word, true] as const),
    ...["0", "off", "false", "no", "disabled"].map((word) => [word, false] as const),
  ]);
  return { default: fallback, list: false, expects: "0 or 1", doc, parse: (text) => words.get(text) };
}

export function integer(
  fallback: number,
  range: { readonly min: number; readonly max: number; readonly unit?: string },
  doc: string,
): Option<number> {
  const parse = (text: string) => {
    const value = /^(?:0|[1-9][0-9]{0,15})$/.test(text) ? Number(text) : Number.NaN;
    return value >= range.min && value <= range.max ? value : undefined;
  };
  const of = range.unit === undefined ? "" : ` of ${range.unit}`;
  const expects = `a whole number${of} from ${range.min} to ${range.max}`;
  return { default: fallback, list: false, expects, ...range, doc, parse };
}

export function choice<Word extends string>(
  words: readonly Word[],
  fallback: Word,
  doc: string,
): Option<Word> {
  const parse = (text: string) => words.find((word) => word === text);
  return { default: fallback, list: false, expects: words.join(", "), doc, parse };
}

/** Text that a test accepts. */
export function text(
  fallback: string,
  expects: string,
  rest: { readonly doc: string; accepts?(text: string): boolean },
): Option<string> {
  const parse = (value: string) =>
    isText(value) && (rest.accepts === undefined || rest.accepts(value)) ? value : undefined;
  return { default: fallback, list: false, expects, doc: rest.doc, parse };
}

/** An absolute path. */
export function path(fallback: string, doc: string): Option<string> {
  const accepts = (value: string) => value.startsWith("/") && value.length < 108;
  return text(fallback, "an absolute path", { doc, accepts });
}

/** What an option takes, or nothing: said by the word `none`, or by an empty value. */
export function orNone(option: Option<string>): Option<string> {
  const parse = (value: string) => (value === "" || value === noneWord ? "" : option.parse(value));
  return { ...option, none: true, expects: `${option.expects}, or ${noneWord}`, parse };
}

/** The name of a network interface, as the kernel takes them. */
export function device(fallback: string, doc: string): Option<string> {
  return text(fallback, "an interface name", {
    doc,
    accepts: isDeviceName,
  });
}

/** A host name or an address. */
export function host(fallback: string, doc: string): Option<string> {
  const accepts = (name: string) =>
    parseAddress(name) !== undefined || /^[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$/.test(name);
  return text(fallback, "a host name or an address", { doc, accepts });
}

export function address(fallback: string, doc: string): Option<Address | undefined> {
  return {
    default: parseAddress(fallback),
    list: false,
    expects: "an address",
    doc,
    parse: parseAddress,
  };
}

/** Any number of addresses; no list in the file means `fallback`. */
export function addresses(fallback: readonly string[], doc: string): Option<readonly Address[]> {
  const known = fallback.flatMap((each) => parseAddress(each) ?? []);
  return { ...address("", doc), default: known, list: true };
}

/** A prefix of the family that the default is of. */
export function prefix(fallback: string, doc: string): Option<Prefix> {
  const [family, isV6] = fallback.includes(":") ? ["an IPv6", true] : ["an IPv4", false];
  const parse = (value: string) => (value.includes(":") === isV6 ? parsePrefix(value) : undefined);
  return { ...anyPrefix(fallback, doc), expects: `${family} prefix`, parse };
}

/** A prefix of either family. */
export function anyPrefix(fallback: string, doc: string): Option<Prefix> {
  return { default: parsePrefix(fallback)!, list: false, expects: "a prefix", doc, parse: parsePrefix };
}

export function mac(doc: string): Option<Mac | undefined> {
  return { default: undefined, list: false, expects: "a MAC", doc, parse: parseMac };
}

/** Any number of values of an option's kind; no list in the file means `fallback`. */
export function listOf<Value>(option: Option<Value>, fallback: readonly Value[]): Option<readonly Value[]> {
  return { ...option, default: fallback, list: true };
}
