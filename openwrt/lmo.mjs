// Makes LuCI's catalogue out of a translator's: node openwrt/lmo.mjs IN.po OUT.lmo
//
//     texts, each padded with zeros to a multiple of 4 bytes
//     index, by hash of the English text, four big-endian 32-bit numbers each:
//         hash of the English text │ 1 │ where the translation begins │ its length in bytes
//         (0 │ 0 │ … for the rule of plurals)
//     where the index begins, 32 bits big-endian
//
// Hashes are Paul Hsieh's SuperFastHash, begun with the length. A translation equal to the English text is left out.

import { readFileSync, writeFileSync } from "node:fs";

const [, , from, to] = process.argv;
if (!from || !to) throw new Error("usage: lmo.mjs IN.po OUT.lmo");

function hashOf(bytes) {
  const short = (at) => bytes[at] | (bytes[at + 1] << 8);
  const signed = (at) => (bytes[at] << 24) >> 24;
  let hash = bytes.length;
  let at = 0;
  for (; at + 4 <= bytes.length; at += 4) {
    hash = (hash + short(at)) | 0;
    hash = (hash << 16) ^ ((short(at + 2) << 11) ^ hash);
    hash = (hash + (hash >>> 11)) | 0;
  }
  const rest = bytes.length - at;
  if (rest === 3) {
    hash = (hash + short(at)) | 0;
    hash ^= hash << 16;
    hash ^= signed(at + 2) << 18;
    hash = (hash + (hash >>> 11)) | 0;
  } else if (rest === 2) {
    hash = (hash + short(at)) | 0;
    hash ^= hash << 11;
    hash = (hash + (hash >>> 17)) | 0;
  } else if (rest === 1) {
    hash = (hash + signed(at)) | 0;
    hash ^= hash << 10;
    hash = (hash + (hash >>> 1)) | 0;
  }
  for (const [left, right] of [[3, 5], [4, 17], [25, 6]]) {
    hash ^= hash << left;
    hash = (hash + (hash >>> right)) | 0;
  }
  return hash >>> 0;
}

/** English text → translation, in the file's order; the header is the translation of "". */
function parse(text) {
  const part = (block, word) => {
    const lines = new RegExp(`^${word} ((?:".*"\\n?)+)`, "m").exec(block)?.[1] ?? "";
    return lines.split("\n").filter(Boolean).map((line) => JSON.parse(line)).join("");
  };
  return text.split(/\n{2,}/).map((block) => [part(block, "msgid"), part(block, "msgstr")]);
}

const texts = [];
const entries = [];
let size = 0;

function add(key, value, text) {
  const bytes = Buffer.from(text);
  entries.push([key, value, size, bytes.length]);
  texts.push(bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4));
  size += bytes.length + ((4 - (bytes.length % 4)) % 4);
}

for (const [english, translated] of parse(readFileSync(from, "utf8"))) {
  if (english === "") {
    const rule = /^Plural-Forms: (.*)$/m.exec(translated)?.[1];
    if (rule) add(0, 0, rule);
  } else if (translated !== "") {
    const [key, other] = [hashOf(Buffer.from(english)), hashOf(Buffer.from(translated))];
    if (key !== other) add(key, 1, translated);
  }
}
entries.sort((left, right) => left[0] - right[0]);
const index = Buffer.alloc(entries.length * 16 + 4);
entries.flat().forEach((number, at) => index.writeUInt32BE(number, at * 4));
index.writeUInt32BE(size, entries.length * 16);
writeFileSync(to, Buffer.concat([...texts, index]));
