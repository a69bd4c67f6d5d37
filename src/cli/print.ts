/**
 * Fields as the text that the real `ubus` prints for them: JSON, nearly.
 *
 * What is not JSON is kept as scripts know it: a member with an empty name is printed as a bare value, an empty
 * list holds an indented empty line, `nan` and `inf` are printed as such, doubles have six decimals.
 */

import { BlobType, decodeFields, type Field } from "../ubus/ubus.ts";

export interface PrintOptions {
  /** Tabs and line ends; else everything on one line. */
  readonly indent?: boolean;
  /** The text for a field in place of its value. */
  readonly custom?: (field: Field) => string | undefined;
}

/** The real one cuts the last zero off the largest negative numbers. */
const longestNumber = 316;
/** Tabs that are printed at most, however deep the nesting. */
const maxTabs = 16;

/** Reads fields in order to show them: what cannot be read is left out. */
export function readFields(bytes: Uint8Array): Field[] {
  return decodeFields(bytes, { skipBad: true });
}

/** A list of fields as an object. */
export function formatFields(fields: readonly Field[], options: PrintOptions = {}): string {
  return formatList(fields, { options, depth: 0, brackets: "{}" });
}

/** What arguments of a type are called; others are "(unknown)". */
const typeNames: ReadonlyMap<unknown, string> = new Map([
  [BlobType.Int8, "Boolean"],
  [BlobType.Int32, "Integer"],
  [BlobType.String, "String"],
  [BlobType.Array, "Array"],
  [BlobType.Table, "Table"],
]);

/** A method of a signature with the types of its arguments, as `list -v` prints it. */
export function formatMethod(method: Field): string {
  // In a signature every number stands for a type.
  const custom = ({ type, value }: Field) => {
    return type === BlobType.Int32 ? `"${typeNames.get(value) ?? "(unknown)"}"` : undefined;
  };
  return formatElement(method, { options: { custom }, depth: 0, brackets: "{}" });
}

interface Place {
  readonly options: PrintOptions;
  readonly depth: number;
  readonly brackets: "{}" | "[]";
}

function formatList(fields: readonly Field[], place: Place): string {
  const { brackets, depth, options } = place;
  const inside = depth + 1;
  const separator = (tabs: number) => (options.indent ? `\n${"\t".repeat(Math.min(tabs, maxTabs))}` : "");
  const elements = fields.map((field) => formatElement(field, { ...place, depth: inside }));
  const text = elements.join(`,${separator(inside)}`);
  return `${brackets[0]}${separator(inside)}${text}${separator(depth)}${brackets[1]}`;
}

function formatElement(field: Field, place: Place): string {
  const { brackets, options } = place;
  const named = brackets === "{}" && field.name !== "";
  const name = named ? `${formatString(field.name)}:${options.indent ? " " : ""}` : "";
  return name + (options.custom?.(field) ?? formatValue(field, place));
}

function formatValue({ type, value }: Field, place: Place): string {
  switch (type) {
    case BlobType.Array:
      return formatList(value as readonly Field[], { ...place, brackets: "[]" });
    case BlobType.Table:
      return formatList(value as readonly Field[], { ...place, brackets: "{}" });
    case BlobType.String:
      return formatString(value as string);
    case BlobType.Int8:
      return value === 0 ? "false" : "true";
    case BlobType.Double:
      return formatDouble(value as number);
    case BlobType.Unspec:
      return "null";
    default:
      return String(value);
  }
}

const escapes: Readonly<Record<string, string>> = {
  "\b": "\\b",
  "\n": "\\n",
  "\t": "\\t",
  "\r": "\\r",
  '"': '\\"',
  "\\": "\\\\",
};

function formatString(text: string): string {
  const escaped = text.replace(/[\x00-\x1f"\\]/g, (character) => {
    return escapes[character] ?? `\\u00${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
  return `"${escaped}"`;
}

/** A number as C's `%lf` prints it: six decimals, of the exact binary value, halves to the even digit. */
export function formatDouble(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const size = Math.abs(value);
  // From there on numbers are integers, and toFixed would switch to an exponent.
  if (size >= 1e21) return `${sign}${BigInt(size)}.000000`.slice(0, longestNumber);
  // toFixed is exact but for a half, which it rounds up.
  const exact = size.toFixed(100);
  const point = exact.indexOf(".");
  const isHalf = /^50*$/.test(exact.slice(point + 7));
  const sixthIsEven = Number(exact[point + 6]) % 2 === 0;
  return sign + (isHalf && sixthIsEven ? exact.slice(0, point + 7) : size.toFixed(6));
}
