/** Table leases on disk: `tables.json`, and beside it in `tables.d` what has changed since. */

import { parseEntry } from "../lib/entries.ts";
import {
  type JournalFormat,
  type JournalOptions,
  type OpenedJournal,
  openJournal as openAny,
} from "../system/journal.ts";
import type { Clock, Disk } from "../system/system.ts";
import {
  maxRecordBytes,
  maxRecords,
  parseRecord,
  type SavedRecords,
  type TableRecord,
  tablesVersion,
} from "./record.ts";

export type { Journal, JournalOptions } from "../system/journal.ts";

const format: JournalFormat<SavedRecords> = {
  ...{ name: "tables", version: tablesVersion, list: "records", maxBytes: maxRecords * maxRecordBytes },
  open() {
    const records: TableRecord[] = [];
    return {
      take(bytes, from, to) {
        if (records.length >= maxRecords)
          throw new SyntaxError("Cannot read table leases: there are too many");
        records.push(parseRecord(parseEntry(bytes, from, to)));
      },
      close: (boot) => ({ boot, records }),
    };
  },
};

/** Reads what there is. Never fails: damage is told. */
export function openJournal(
  system: Disk & Clock,
  options: JournalOptions,
): Promise<OpenedJournal<SavedRecords>> {
  return openAny(system, options, format);
}
