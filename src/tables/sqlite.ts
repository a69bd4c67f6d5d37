/**
 * The rows of one table of an SQLite database file. Bytes in, rows out, no state.
 *
 *     page 1      header (100) | b-tree page of the schema: type, name, tbl_name, root page, sql
 *     b-tree page kind (1) | free block (2) | cells (2) | content (2) | fragments (1) | [right child (4)] | cell offsets
 *     leaf cell   payload length | row id | payload         (kind 13)
 *     inner cell  left child (4) | row id                   (kind 5)
 *     payload     header length | type of each column … | values …
 *
 * Only what is in the file counts: a write-ahead log or a hot journal beside it is not read, so the program that
 * writes it has to be stopped. Values that go on in overflow pages are not read. What is read is bounded by the
 * length of the file: no page is visited twice.
 *
 * Source: https://www.sqlite.org/fileformat2.html
 */

export type SqliteValue = number | string | Uint8Array | null;

const magic = "SQLite format 3\0";
const kinds = { inner: 5, leaf: 13 } as const;
const maxRows = 1_000_000;

/**
 * @returns the values of each row, in the order of the columns of its table; a column that is the row id is null.
 * @throws SyntaxError for what is no such file, and if it has no such table.
 */
export function readSqliteTable(bytes: Uint8Array, table: string): SqliteValue[][] {
  const file = new File(bytes);
  for (const [type, name, , rootPage] of file.rows(1)) {
    if (type !== "table" || name !== table || typeof rootPage !== "number") continue;
    return [...file.rows(rootPage)];
  }
  throw fail(`there is no table ${table}`);
}

class File {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #pageBytes: number;
  readonly #usableBytes: number;

  constructor(bytes: Uint8Array) {
    if (bytes.length < 512) throw fail("it is too short");
    for (let at = 0; at < magic.length; at++) {
      if (bytes[at] !== magic.charCodeAt(at)) throw fail("it is no SQLite 3 database");
    }
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = this.#view.getUint16(16);
    this.#pageBytes = size === 1 ? 65_536 : size;
    const isSize = this.#pageBytes >= 512 && (this.#pageBytes & (this.#pageBytes - 1)) === 0;
    if (!isSize) throw fail(`its pages have ${this.#pageBytes} bytes`);
    this.#usableBytes = this.#pageBytes - bytes[20]!;
    if (this.#usableBytes < 480) throw fail("its pages have no room");
    // 1 is UTF-8; an empty database has 0.
    if (this.#view.getUint32(56) > 1) throw fail("its text is not UTF-8");
  }

  /** Rows of the b-tree at a page, in the order of their ids. */
  rows(rootPage: number): SqliteValue[][] {
    const rows: SqliteValue[][] = [];
    const visited = new Set<number>();
    const pages = [rootPage];
    while (pages.length > 0) {
      const page = pages.pop()!;
      if (visited.has(page)) throw fail(`page ${page} is in it twice`);
      visited.add(page);
      const start = (page - 1) * this.#pageBytes;
      if (page < 1 || start + this.#pageBytes > this.#bytes.length) throw fail(`page ${page} is missing`);
      const header = start + (page === 1 ? 100 : 0);
      const [kind, count] = [this.#bytes[header]!, this.#view.getUint16(header + 3)];
      if (kind !== kinds.inner && kind !== kinds.leaf) throw fail(`page ${page} is of kind ${kind}`);
      const offsets = header + (kind === kinds.inner ? 12 : 8);
      if (offsets + 2 * count > start + this.#usableBytes) throw fail(`page ${page} has too many cells`);
      if (rows.length + count > maxRows) throw fail("it has too many rows");
      const children: number[] = [];
      for (let index = 0; index < count; index++) {
        const at = start + this.#view.getUint16(offsets + 2 * index);
        if (at + 4 > start + this.#usableBytes) throw fail(`a cell of page ${page} is outside`);
        if (kind === kinds.inner) children.push(this.#view.getUint32(at));
        else rows.push(this.#row(at, start + this.#usableBytes));
      }
      if (kind === kinds.inner) children.push(this.#view.getUint32(header + 8));
      // The last is taken first.
      pages.push(...children.reverse());
    }
    return rows;
  }

  /** A leaf cell. */
  #row(at: number, end: number): SqliteValue[] {
    const cell = new Cursor(this.#bytes, at, end);
    const length = cell.varint();
    cell.varint();
    if (length > this.#usableBytes - 35 || cell.at + length > end) throw fail("a row goes on elsewhere");
    const payload = new Cursor(this.#bytes, cell.at, cell.at + length);
    const headerBytes = payload.varint();
    if (headerBytes > length) throw fail("the header of a row is too long");
    const header = new Cursor(this.#bytes, payload.at, cell.at + headerBytes);
    const values = new Cursor(this.#bytes, cell.at + headerBytes, cell.at + length);
    const row: SqliteValue[] = [];
    while (header.at < header.end) row.push(values.value(header.varint()));
    return row;
  }
}

class Cursor {
  readonly #bytes: Uint8Array;
  readonly end: number;
  at: number;

  constructor(bytes: Uint8Array, at: number, end: number) {
    this.#bytes = bytes;
    this.at = at;
    this.end = end;
  }

  /** Up to nine bytes, seven bits each, the ninth all eight. Beyond 2^53 it is not exact, and no length. */
  varint(): number {
    let value = 0;
    for (let index = 0; index < 9; index++) {
      if (this.at >= this.end) throw fail("a number is cut off");
      const byte = this.#bytes[this.at++]!;
      if (index === 8) return value * 256 + byte;
      value = value * 128 + (byte & 127);
      if (byte < 128) return value;
    }
    return value;
  }

  value(type: number): SqliteValue {
    if (type === 0) return null;
    if (type === 8 || type === 9) return type - 8;
    if (type <= 6) return this.#integer(this.#take(type < 5 ? type : type === 5 ? 6 : 8));
    if (type === 7) {
      const bytes = this.#take(8);
      return new DataView(bytes.buffer, bytes.byteOffset, 8).getFloat64(0);
    }
    if (type < 12) throw fail(`a value is of type ${type}`);
    const bytes = this.#take(Math.floor((type - 12) / 2));
    return type % 2 === 1 ? new TextDecoder().decode(bytes) : bytes.slice();
  }

  #integer(bytes: Uint8Array): number {
    let value = 0n;
    for (const byte of bytes) value = (value << 8n) | BigInt(byte);
    return Number(BigInt.asIntN(bytes.length * 8, value));
  }

  #take(length: number): Uint8Array {
    if (length > this.end - this.at) throw fail("a value is cut off");
    const bytes = this.#bytes.subarray(this.at, this.at + length);
    this.at += length;
    return bytes;
  }
}

function fail(why: string): SyntaxError {
  return new SyntaxError(`Cannot read SQLite database: ${why}`);
}
