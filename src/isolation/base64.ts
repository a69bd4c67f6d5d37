/** Base64 (RFC 4648, with padding): bytes to text, and text to the ASCII that it stands for. */

const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

export function base64(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const bits = (bytes[at]! << 16) | ((bytes[at + 1] ?? 0) << 8) | (bytes[at + 2] ?? 0);
    const left = bytes.length - at;
    text += digits[bits >> 18]! + digits[(bits >> 12) & 63]!;
    text += left > 1 ? digits[(bits >> 6) & 63]! : "=";
    text += left > 2 ? digits[bits & 63]! : "=";
  }
  return text;
}

/** The characters of the bytes that a text stands for, one for each byte; undefined if it is no base64. */
export function base64Text(text: string): string | undefined {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return undefined;
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  let out = "";
  for (let at = 0; at < text.length; at += 4) {
    const bits = [0, 1, 2, 3].reduce(
      (sum, step) => (sum << 6) | Math.max(0, digits.indexOf(text[at + step]!)),
      0,
    );
    out += String.fromCharCode((bits >> 16) & 255, (bits >> 8) & 255, bits & 255);
  }
  return out.slice(0, out.length - padding);
}
