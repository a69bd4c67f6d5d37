/**
 * What `lab up` shows: the nodes and flows that the agent knows, and what to try next.
 *
 * Pure: answers of the bus and a width in, lines out. Names in the answers come from the network, so nothing but
 * printable ASCII of them gets to the terminal, and every line ends within the width.
 */

export interface NodeRow {
  readonly id: number;
  readonly name?: string;
  readonly mac?: string;
  readonly ips?: readonly string[];
  readonly domains?: readonly string[];
}

export interface FlowRow {
  readonly from: number;
  readonly to: number;
  readonly protocol: number;
  readonly to_port: number;
  readonly bytes: number;
  readonly packets: number;
  readonly blocked: boolean;
}

export interface View {
  readonly nodes: readonly NodeRow[];
  /** The latest active first. */
  readonly flows: readonly FlowRow[];
}

/** A terminal's columns and rows. */
export interface Size {
  readonly width: number;
  readonly height: number;
}

/** What was drawn last: how many rows, and for which width. */
export interface Frame {
  readonly rows: number;
  readonly width: number;
}

const protocols = new Map([
  [1, "ICMP"],
  [6, "TCP"],
  [17, "UDP"],
  [58, "ICMPv6"],
]);

/** Foreign text for a terminal: everything but printable ASCII is written as its code, and it is cut to a width. */
export function plain(text: string, width = 200): string {
  let shown = "";
  for (const character of text) {
    const code = character.codePointAt(0)!;
    shown += code >= 0x20 && code < 0x7f ? character : `\\u{${code.toString(16)}}`;
    if (shown.length > width) return `${shown.slice(0, Math.max(0, width - 1))}~`;
  }
  return shown;
}

/** What a reader would call a node. */
export function nameOf(node: NodeRow): string {
  return node.name ?? node.domains?.[0]?.replace(/\.$/, "") ?? node.ips?.[0] ?? node.mac ?? `node ${node.id}`;
}

function amount(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1);
  const value = bytes / 1000 ** power;
  return `${power > 0 && value < 100 ? value.toFixed(1) : Math.floor(value)} ${units[power]}`;
}

/** Cells to lines, each column as wide as its widest cell but no wider than its limit. */
function columns(rows: readonly (readonly string[])[], limits: readonly number[]): string[] {
  const cut = rows.map((row) => row.map((cell, index) => plain(cell, limits[index])));
  const widths = limits.map((_, index) => Math.max(...cut.map((row) => row[index]!.length)));
  return cut.map((row) =>
    row
      .map((cell, index) => cell.padEnd(widths[index]!))
      .join("  ")
      .trimEnd(),
  );
}

/** The table of nodes and flows, of at most so many lines, each at most `width` wide. */
export function renderView(view: View, size: Size): string[] {
  const known = new Map(view.nodes.map((node) => [node.id, node]));
  const title = (id: number) => {
    const node = known.get(id);
    return node === undefined ? `node ${id}` : nameOf(node);
  };
  const perTable = Math.max(1, Math.floor((size.height - 7) / 2));
  const more = (count: number) => (count > perTable ? [`  … ${count - perTable} more`] : []);
  const nodes = view.nodes
    .slice(0, perTable)
    .map((node) => [String(node.id), nameOf(node), node.mac ?? "", (node.ips ?? []).slice(0, 8).join(" ")]);
  const flows = view.flows
    .slice(0, perTable)
    .map((flow) => [
      `${title(flow.from)} (${flow.from})`,
      `${title(flow.to)} (${flow.to})`,
      `${protocols.get(flow.protocol) ?? flow.protocol}${flow.to_port > 0 ? ` ${flow.to_port}` : ""}`,
      String(flow.packets),
      amount(flow.bytes),
      flow.blocked ? "blocked" : "",
    ]);
  return [
    `${view.nodes.length} nodes`,
    ...columns([["id", "name", "mac", "addresses"], ...nodes], [10, 28, 17, 120]),
    ...more(view.nodes.length),
    "",
    `${view.flows.length} flows`,
    ...columns([["from", "to", "what", "packets", "bytes", ""], ...flows], [30, 30, 12, 12, 9, 7]),
    ...more(view.flows.length),
  ].map((line) => (line.length > size.width ? `${line.slice(0, size.width - 1)}~` : line));
}

/** Commands to try in a second terminal; `lab` is the name to give, where more than one runs. */
export function renderHints(view: View | undefined, lab: string | undefined): string[] {
  const exec = `npm run -s lab -- exec ${lab === undefined ? "" : `--name ${lab} `}`;
  const ping = `${exec}laptop ping web.example.net`;
  if (view === undefined) return ["Try in a second terminal:", `  ${ping}`];
  const idOf = (match: (node: NodeRow) => boolean) => view.nodes.find(match)?.id;
  const laptop = idOf((node) => node.ips?.includes("10.77.0.10") === true);
  const web =
    idOf((node) => node.domains?.includes("web.example.net.") === true) ??
    idOf((node) => node.ips?.includes("198.51.100.10") === true);
  const pair = (block: number) => `'{"node1":${laptop},"node2":${web},"block":${block}}'`;
  return [
    "Try in a second terminal:",
    `  ${ping}`,
    ...(laptop === undefined || web === undefined
      ? ["  (blockflow follows as soon as laptop and web.example.net have been seen)"]
      : [1, 0].map((block) => `  ${exec}router gatehouse call spin blockflow ${pair(block)}`)),
    `  ${exec}router gatehouse list -v spin`,
    `  ${exec}router mosquitto_sub -t 'SPIN/#' -v`,
  ];
}

/** How many rows of a terminal the lines take, folded where they are too long. */
export function rowsOf(lines: readonly string[], width: number): number {
  return lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / width)), 0);
}

/**
 * What to write to a terminal to show the lines in place of the frame before, and the new frame. After a resize
 * the terminal may have folded the old frame in its own way: that one stays, and the new one goes below it.
 */
export function redraw(
  lines: readonly string[],
  size: Size,
  last: Frame | undefined,
): { text: string; frame: Frame } {
  const shown = [...lines];
  while (rowsOf(shown, size.width) >= size.height && shown.length > 1) shown.pop();
  const back = last?.width === size.width ? `\x1b[${last.rows}A\r\x1b[J` : "\n";
  const frame = { rows: rowsOf(shown, size.width), width: size.width };
  return { text: `${back}${shown.join("\n")}\n`, frame };
}
