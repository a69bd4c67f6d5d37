/**
 * Translations: which texts there are to translate, and what the catalogues in openwrt/luci-app-gatehouse/po say.
 *
 * PO=write writes the template anew and leaves the languages to translators.
 */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { callsOf } from "./script.ts";

export const languages = ["de", "nl", "zh_Hans"] as const;

const catalogues = "openwrt/luci-app-gatehouse/po";
const root = process.cwd();
const menuFile = "files/usr/share/luci/menu.d/luci-app-gatehouse.json";
const aclFile = "files/usr/share/rpcd/acl.d/luci-app-gatehouse.json";

/** English texts of these scripts, of the menu and of the name of the access rules. */
export function messagesOf(scripts: readonly string[]): Set<string> {
  const inScripts = scripts.flatMap((script) =>
    callsOf(script, "_").map(([literal]) => {
      if (!/^'(?:[^'\\]|\\.)*'$/.test(literal ?? "")) throw new SyntaxError(`_(${literal}) is no plain text`);
      return literal!.slice(1, -1).replace(/\\(.)/g, "$1");
    }),
  );
  const menu = JSON.parse(readFileSync(join(root, menuFile), "utf8")) as Record<string, { title: string }>;
  const acl = JSON.parse(readFileSync(join(root, aclFile), "utf8")) as Record<
    string,
    { description: string }
  >;
  const titles = Object.values(menu).map(({ title }) => title);
  const descriptions = Object.values(acl).map(({ description }) => description);
  const all = new Set([...inScripts, ...titles, ...descriptions]);
  if (process.env.PO === "write") writeTemplate(all);
  return all;
}

/** A catalogue as English text → translation. */
export function readCatalogue(path: string): Map<string, string> {
  const messages = new Map<string, string>();
  for (const block of readFileSync(join(root, catalogues, path), "utf8").split(/\n{2,}/)) {
    const part = (word: string) => {
      const lines = new RegExp(`^${word} ((?:".*"\\n?)+)`, "m").exec(block)?.[1];
      return lines === undefined
        ? undefined
        : lines
            .trim()
            .split("\n")
            .map((line) => JSON.parse(line) as string)
            .join("");
    };
    const [id, text] = [part("msgid"), part("msgstr")];
    if (id === undefined || id === "") continue;
    if (messages.has(id)) throw new SyntaxError(`${path}: ${JSON.stringify(id)} is there twice`);
    messages.set(id, text ?? "");
  }
  return messages;
}

function writeTemplate(messages: ReadonlySet<string>): void {
  const path = join(root, catalogues, "templates/gatehouse.pot");
  const entries = [...messages].sort().map((each) => `msgid ${JSON.stringify(each)}\nmsgstr ""\n`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(
    path,
    ['msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8"\n', ...entries].join("\n"),
  );
}
