/**
 * The options that the page Settings offers, made from the tables of the configuration: OPTIONS=write writes them.
 *
 *     OPTIONS=write make test ONLY=web/settings
 */

import { sectionKinds } from "../../src/config/config.ts";
import type { Option } from "../../src/config/option.ts";

export const optionsFile = "files/www/luci-static/resources/gatehouse/options.js";

/** Of text, the kinds that the page checks; by what the option says that it takes. */
const textKinds: readonly (readonly [RegExp, string])[] = [
  [/^an absolute path/, "path"],
  [/^an interface name$/, "device"],
  [/^a host name or an address$/, "host"],
  [/^an address$/, "address"],
  [/^a prefix$/, "prefix"],
  [/^an IPv4 prefix$/, "prefix4"],
  [/^an IPv6 prefix$/, "prefix6"],
  [/^a MAC$/, "mac"],
];

const quote = (text: string) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

function textOf(value: unknown): string {
  if (typeof value === "boolean") return value ? "1" : "0";
  return value === undefined ? "" : String(value);
}

/** What may be chosen from; undefined: anything else. */
function wordsOf(option: Option<unknown>): readonly string[] | undefined {
  const words = option.expects.split(", ");
  const isChoice = words.length > 1 && option.parse("no word of it, surely") === undefined;
  return isChoice && words.every((word) => option.parse(word) === word) ? words : undefined;
}

function kindOf(option: Option<unknown>): string {
  if (option.expects === "0 or 1") return "flag";
  if (option.min !== undefined) return "number";
  return textKinds.find(([pattern]) => pattern.test(option.expects))?.[1] ?? "text";
}

function renderOption(name: string, option: Option<unknown>): string {
  const words = wordsOf(option);
  const fallback = option.list
    ? `[ ${(option.default as readonly unknown[]).map((each) => quote(textOf(each))).join(", ")} ]`.replace(
        "[  ]",
        "[]",
      )
    : quote(textOf(option.default));
  const parts = [
    `name: ${quote(name)}`,
    `kind: ${quote(words ? "choice" : kindOf(option))}`,
    ...(option.list ? ["list: true"] : []),
    ...(words ? [`words: [ ${words.map(quote).join(", ")} ]`] : []),
    ...(option.none ? ["none: true"] : []),
    ...(option.min === undefined ? [] : [`least: ${option.min}`, `most: ${option.max}`]),
    `fallback: ${fallback}`,
    ...(option.unit === undefined ? [] : [`unit: _(${quote(option.unit)})`]),
    `about: _(${quote(option.doc)})`,
  ];
  return `\t\t\t{ ${parts.join(", ")} }`;
}

/** The file as it is shipped. */
export function renderOptions(): string {
  const sections = [...sectionKinds].map(([type, kind]) =>
    [
      "\t{",
      `\t\ttype: ${quote(type)},`,
      `\t\tmany: ${kind.many},`,
      `\t\ttitle: _(${quote(kind.doc)}),`,
      `\t\toptions: [\n${Object.entries(kind.options)
        .map(([name, option]) => renderOption(name, option))
        .join(",\n")}\n\t\t]`,
      "\t}",
    ].join("\n"),
  );
  return `'use strict';
'require baseclass';

/*
 * The options of /etc/config/gatehouse. Made from the tables of the agent's configuration, not by hand:
 * OPTIONS=write make test ONLY=web/settings
 *
 * Keeps nothing. An option has its name, kind, default and what it means; a list takes any number of values.
 */

const sections = [
${sections.join(",\n")}
];

return baseclass.extend({ sections: sections });
`;
}
