/**
 * Names of the DNS as text (RFC 1035 §5.1).
 *
 * A name is text in presentation form with the trailing dot: `. ; ( ) \` inside a label get a backslash, every
 * byte that is not a graphic ASCII character becomes `\ddd`. So any 255 bytes of a hostile name are harmless
 * ASCII, and two names are the same where `foldName` of both is the same string.
 */

/** A label without its length byte. */
export const LABEL_BYTES = 63;
/** A name with its length bytes. */
export const NAME_BYTES = 255;

/** The form of a name under which equal names are equal strings: ASCII letters in lower case. */
export function foldName(name: string): string {
  return name.toLowerCase();
}

/**
 * The labels of a name in presentation form, as bytes. The trailing dot may be missing; "." has no labels.
 *
 * @throws SyntaxError for an empty or too long label, a name past 255 bytes, a bad escape, a character that is
 *   not ASCII.
 */
export function parseName(text: string): Uint8Array[] {
  const fail = (why: string): never => {
    throw new SyntaxError(`Cannot parse name: ${why}`);
  };
  if (text === ".") return [];
  if (text === "" || text.length > NAME_BYTES * 4) fail(`length ${text.length}`);
  const labels: Uint8Array[] = [];
  let label: number[] = [];
  let total = 1;
  const finish = () => {
    if (label.length === 0) fail("empty label");
    if (label.length > LABEL_BYTES) fail("label too long");
    total += label.length + 1;
    if (total > NAME_BYTES) fail("name too long");
    labels.push(Uint8Array.from(label));
    label = [];
  };
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code > 126) fail("not ASCII");
    if (code === 46) {
      finish();
    } else if (code !== 92) {
      label.push(code);
    } else if (/^[0-9]{3}$/.test(text.slice(at + 1, at + 4))) {
      const value = Number(text.slice(at + 1, at + 4));
      if (value > 255) fail("escape above 255");
      label.push(value);
      at += 3;
    } else {
      const next = text.charCodeAt(at + 1);
      if (!(next > 32 && next < 127) || (next >= 48 && next <= 57)) fail("bad escape");
      label.push(next);
      at++;
    }
  }
  if (!text.endsWith(".") || label.length > 0) finish();
  return labels;
}

/** Labels in presentation form, with the trailing dot. */
export function formatName(labels: readonly Uint8Array[]): string {
  if (labels.length === 0) return ".";
  return labels.map((label) => `${formatLabel(label)}.`).join("");
}

/** One label in presentation form, without a dot. */
export function formatLabel(label: Uint8Array): string {
  let text = "";
  for (const byte of label) text += shown[byte];
  return text;
}

/** Each byte of a label as it is written. */
const shown: readonly string[] = Array.from({ length: 256 }, (_, byte) => {
  if (byte <= 32 || byte >= 127) return `\\${String(byte).padStart(3, "0")}`;
  const character = String.fromCharCode(byte);
  return ".;()\\".includes(character) ? `\\${character}` : character;
});
