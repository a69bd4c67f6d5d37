/**
 * UCI, the file format of OpenWrt's configuration, read and written.
 *
 *     config TYPE ['NAME']
 *         option NAME 'VALUE'
 *         list NAME 'VALUE'
 *
 * Read as libuci reads it: words end at blanks, `;` ends a command, `#` a line unless quoted; '…' is literal,
 * "…" and bare text know `\`, which before a line end joins lines; quoted text may span lines and stand beside
 * bare text in one word; `c`, `o`, `l`, `p` are short forms; a section named again is continued. Where libuci
 * refuses a whole file, the lines that are wrong are left out here and reported with their numbers, and unlike
 * there an empty value is kept.
 *
 * Source: openwrt.org/docs/guide-user/base-system/uci, and libuci's behaviour.
 */

export interface UciSection {
  readonly type: string;
  /** Undefined: an anonymous section. */
  readonly name: string | undefined;
  /** Line where it begins, from 1; 0 for one that was not read. */
  readonly line: number;
  /** Option name → value; a list has its values in order. */
  readonly options: ReadonlyMap<string, string | readonly string[]>;
}

export interface UciError {
  /** From 1. */
  readonly line: number;
  readonly message: string;
}

export interface UciFile {
  readonly sections: readonly UciSection[];
  /** The first hundred. */
  readonly errors: readonly UciError[];
}

/** No real file comes near; past it nothing is read. */
export const maxUciLength = 1024 * 1024;
const maxErrors = 100;

interface Word {
  readonly text: string;
  readonly line: number;
}

interface MutableSection extends UciSection {
  readonly options: Map<string, string | string[]>;
}

/** Reads a configuration file. Never throws: what is wrong is in `errors`, the rest in `sections`. */
export function parseUci(text: string): UciFile {
  const sections: MutableSection[] = [];
  const errors: UciError[] = [];
  const named = new Map<string | undefined, MutableSection>();
  const fail = (line: number, message: string) => {
    if (errors.length < maxErrors) errors.push({ line, message });
  };
  if (text.length > maxUciLength) {
    fail(1, `more than ${maxUciLength} characters`);
    return { sections, errors };
  }
  let section: MutableSection | undefined;
  for (const command of commandsOf(text, fail)) {
    const line = command[0]!.line;
    const [keyword, first, second, ...rest] = command.map((word) => word.text) as [string, ...string[]];
    if (rest.length > 0) {
      fail(line, "too many words");
    } else if (keyword === "package" || keyword === "p") {
      // The name of the file says it already.
      if (first === undefined) fail(line, "package without a name");
    } else if (keyword === "config" || keyword === "c") {
      section = openSection({ type: first ?? "", name: second || undefined, line }, { named, fail });
      // An anonymous section is always a new one.
      if (section && !named.has(section.name)) sections.push(section);
      if (section?.name !== undefined) named.set(section.name, section);
    } else if (keyword === "option" || keyword === "o" || keyword === "list" || keyword === "l") {
      if (first === undefined || !isName(first)) {
        fail(line, `${JSON.stringify(first ?? "")} is no option name`);
      } else if (second === undefined) {
        fail(line, `${first} has no value`);
      } else if (section === undefined) {
        fail(line, `${first} belongs to no section`);
      } else if (keyword.startsWith("o")) {
        section.options.set(first, second);
      } else {
        const before = section.options.get(first) ?? [];
        if (Array.isArray(before)) before.push(second);
        section.options.set(first, Array.isArray(before) ? before : [before, second]);
      }
    } else {
      fail(line, `${JSON.stringify(keyword)} is no keyword`);
    }
  }
  return { sections, errors };
}

/** The section that a `config` line opens: a new one, or the one of that name. */
function openSection(
  head: { type: string; name: string | undefined; line: number },
  file: {
    named: ReadonlyMap<string | undefined, MutableSection>;
    fail: (line: number, message: string) => void;
  },
): MutableSection | undefined {
  const { type, name, line } = head;
  const before = name === undefined ? undefined : file.named.get(name);
  if (!/^[!-~]+$/.test(type)) file.fail(line, `${JSON.stringify(type)} is no section type`);
  else if (name !== undefined && !isName(name)) file.fail(line, `${JSON.stringify(name)} is no section name`);
  else if (!before) return { ...head, options: new Map() };
  else if (before.type === type) return before;
  else file.fail(line, `${name} is already a section of type ${before.type}`);
  return undefined;
}

function isName(text: string): boolean {
  return /^[A-Za-z0-9_]+$/.test(text);
}

/** The commands of a file, each a row of at least one word. */
function* commandsOf(text: string, fail: (line: number, message: string) => void): Generator<Word[]> {
  const reader = { at: 0, line: 1 };
  let words: Word[] = [];
  while (reader.at < text.length) {
    const char = text[reader.at]!;
    if (char === "#") {
      const end = text.indexOf("\n", reader.at);
      reader.at = end < 0 ? text.length : end;
    } else if (char === "\n" || char === ";") {
      if (words.length > 0) yield words;
      words = [];
      if (char === "\n") reader.line++;
      reader.at++;
    } else if (isBlank(char)) {
      reader.at++;
    } else if (joinsLines(text, reader.at)) {
      reader.at = text.indexOf("\n", reader.at) + 1;
      reader.line++;
    } else {
      const line = reader.line;
      const word = readWord(text, reader);
      if (word === undefined) {
        fail(line, "a quote is opened and never closed");
        return;
      }
      words.push({ text: word, line });
    }
  }
  if (words.length > 0) yield words;
}

/** Reads one word at `reader`, which it moves. Undefined: a quote without end. */
function readWord(text: string, reader: { at: number; line: number }): string | undefined {
  const parts: string[] = [];
  let quote = "";
  for (; reader.at < text.length; reader.at++) {
    const char = text[reader.at]!;
    if (char === quote) {
      quote = "";
    } else if (quote === "" && (char === "'" || char === '"')) {
      quote = char;
    } else if (quote === "" && (char === "\n" || char === ";" || char === "#" || isBlank(char))) {
      break;
    } else if (char === "\\" && quote !== "'") {
      const joins = joinsLines(text, reader.at);
      reader.at = joins ? text.indexOf("\n", reader.at) : reader.at + 1;
      if (joins) reader.line++;
      else parts.push(text[reader.at] ?? "");
    } else {
      if (char === "\n") reader.line++;
      parts.push(char);
    }
  }
  return quote === "" ? parts.join("") : undefined;
}

function isBlank(char: string): boolean {
  return char === " " || char === "\t" || char === "\r" || char === "\v" || char === "\f";
}

/** Whether the backslash at `at` stands at the end of a line. */
function joinsLines(text: string, at: number): boolean {
  return text[at] === "\\" && (text[at + 1] === "\n" || (text[at + 1] === "\r" && text[at + 2] === "\n"));
}

/**
 * Renders sections as `uci export` prints them.
 *
 * @throws RangeError for a type or name that the format cannot hold, or a NUL in a value.
 */
export function renderUci(sections: readonly Omit<UciSection, "line">[]): string {
  return sections.map(renderSection).join("\n");
}

function renderSection(section: Omit<UciSection, "line">): string {
  const { type, name } = section;
  if (!/^[!-~]+$/.test(type) || /['";#\\]/.test(type) || (name !== undefined && !isName(name))) {
    throw new RangeError(`Cannot render section ${JSON.stringify(name ?? type)}: not a name`);
  }
  const lines = [`config ${type}${name === undefined ? "" : ` '${name}'`}`];
  for (const [option, value] of section.options) {
    if (!isName(option)) throw new RangeError(`Cannot render option ${JSON.stringify(option)}: not a name`);
    if (typeof value === "string") lines.push(`\toption ${option} ${quoteUci(value)}`);
    else for (const each of value) lines.push(`\tlist ${option} ${quoteUci(each)}`);
  }
  return `${lines.join("\n")}\n`;
}

/** A value between single quotes. @throws RangeError for a value with a NUL, which libuci would cut. */
export function quoteUci(value: string): string {
  if (value.includes("\0")) throw new RangeError(`Cannot render value ${JSON.stringify(value)}: has a NUL`);
  return `'${value.replaceAll("'", "'\\''")}'`;
}
