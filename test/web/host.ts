/**
 * The web server of the browser tests: what uhttpd and rpcd are for LuCI, as far as our pages need it.
 *
 *     GET  /cgi-bin/luci/admin/services/gatehouse/devices    a page with our stand-in for LuCI (standin.js)
 *     GET  /luci-static/resources/…                          the files that the package installs
 *     POST /ubus/                                            JSON-RPC, one call or many, to a real bus
 *
 * A session may call what the shipped ACL file grants, by its right to read, or to read and write. Which calls were
 * made is kept in `called`, as "object method".
 *
 * Given the folder of a real LuCI's resources, pages are made of that instead.
 */

import { createReadStream, existsSync, readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import type { JsonObject } from "../../src/lib/json.ts";
import { Status, statusOf, type Ubus } from "../../src/ubus/ubus.ts";
import { aclName, type RpcdAcl, rpcdAclFile } from "../package/acl.ts";

/** Sessions of a user who may read and write, and of one who may only read. */
export const sessions = {
  full: "0123456789abcdef0123456789abcdef",
  reader: "fedcba9876543210fedcba9876543210",
};

export interface HostOptions {
  readonly ubus: Ubus;
  /** Session of the pages. Default: one that may read and write. */
  readonly session?: string;
  /** English text → translated text. */
  readonly translations?: Readonly<Record<string, string>>;
  /** Folder of a real LuCI's /luci-static, and the name of a theme there. */
  readonly luci?: { readonly folder: string; readonly theme: string };
}

interface Call {
  readonly id: unknown;
  readonly method: string;
  readonly params?: readonly unknown[];
}

const root = process.cwd();
const types: Record<string, string> = {
  ".js": "application/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".png": "image/png",
};

export class Host {
  readonly called = new Set<string>();
  readonly #options: HostOptions;
  readonly #server: Server;
  readonly #acl: RpcdAcl;

  private constructor(options: HostOptions) {
    this.#options = options;
    this.#acl = JSON.parse(readFileSync(join(root, rpcdAclFile), "utf8")) as RpcdAcl;
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((thrown) => {
        response.writeHead(500).end(String(thrown));
      });
    });
  }

  static async start(options: HostOptions): Promise<Host> {
    const host = new Host(options);
    await new Promise<void>((resolve) => host.#server.listen(0, "127.0.0.1", resolve));
    return host;
  }

  /** Where a view of ours is. */
  urlOf(view: string): string {
    const { port } = this.#server.address() as AddressInfo;
    return `http://127.0.0.1:${port}/cgi-bin/luci/admin/services/gatehouse/${view}`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? "/", "http://host").pathname;
    const page = /^\/cgi-bin\/luci\/admin\/services\/gatehouse\/([a-z]+)$/.exec(path);
    if (request.method === "POST" && /^(?:\/cgi-bin\/luci\/admin)?\/ubus(?:\/|$)/.test(path)) {
      const calls = JSON.parse(await bodyOf(request)) as Call | Call[];
      const answers = Array.isArray(calls)
        ? await Promise.all(calls.map((each) => this.#answer(each)))
        : await this.#answer(calls);
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answers));
    } else if (page) {
      const text = this.#options.luci ? this.#luciPage(page[1]!) : this.#page(page[1]!);
      response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(text);
    } else if (path === "/standin.js") {
      this.#send(join(root, "test/web/standin.js"), response);
    } else if (path.startsWith("/luci-static/")) {
      const relative = normalize(path).slice("/luci-static/".length);
      const places = [
        join(root, "files/www/luci-static"),
        ...(this.#options.luci ? [this.#options.luci.folder] : []),
      ];
      const file = places.map((folder) => join(folder, relative)).find((each) => existsSync(each));
      if (file === undefined) response.writeHead(404).end();
      else this.#send(file, response);
    } else response.writeHead(404).end();
  }

  #send(file: string, response: ServerResponse): void {
    response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream" });
    createReadStream(file).pipe(response);
  }

  get #session(): string {
    return this.#options.session ?? sessions.full;
  }

  #page(view: string): string {
    const given = { session: this.#session, translations: this.#options.translations ?? {} };
    return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>gatehouse</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>${style}</style></head><body>
<div id="maincontent"><div id="view"></div></div>
<script>window.standIn = ${JSON.stringify(given).replaceAll("<", "\\u003c")};</script>
<script src="/standin.js"></script><script>L.require("view.gatehouse.${view}");</script>
</body></html>`;
  }

  /** As LuCI's own templates make it, without its menu. */
  #luciPage(view: string): string {
    const { theme } = this.#options.luci!;
    const media = `/luci-static/${theme}`;
    const setting = {
      ...{ media, resource: "/luci-static/resources", scriptname: "/cgi-bin/luci", pollinterval: 5 },
      ...{ pathinfo: `/admin/services/gatehouse/${view}`, documentroot: "/www", ubuspath: "/ubus/" },
      requestpath: ["admin", "services", "gatehouse", view],
      dispatchpath: ["admin", "services", "gatehouse", view],
      ...{ sessionid: this.#session, token: "token", nodespec: { title: "gatehouse", readonly: false } },
    };
    return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>gatehouse</title>
<script>document.documentElement.setAttribute("data-darkmode", matchMedia("(prefers-color-scheme: dark)").matches);</script>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" href="${media}/cascade.css">
<link rel="stylesheet" media="only screen and (max-device-width: 854px)" href="${media}/mobile.css">
<script src="/luci-static/resources/cbi.js"></script></head>
<body class="lang_en logged-in" data-page="admin-services-gatehouse-${view}">
<header><a class="brand" href="/">router</a><ul class="nav" id="topmenu" style="display:none"></ul>
<div id="indicators" class="pull-right"></div></header>
<div id="maincontent" class="container"><div id="tabmenu" style="display:none"></div>
<script src="/luci-static/resources/luci.js"></script>
<script>L = new LuCI(${JSON.stringify(setting)});</script>
<div id="view"><script>L.require("ui").then(function(ui) { ui.instantiateView("gatehouse/${view}"); });</script></div>
</div></body></html>`;
  }

  async #answer(call: Call): Promise<JsonObject> {
    const frame = { jsonrpc: "2.0", id: (call.id ?? null) as number | string | null };
    const refuse = (code: number, message: string) => ({ ...frame, error: { code, message } });
    if (call.method === "list") return { ...frame, result: {} };
    if (call.method !== "call") return refuse(-32601, "Method not found");
    const [session, object, method, args] = call.params as [string, string, string, JsonObject];
    const own = this.#options.luci && luciAnswers[`${object} ${method}`];
    if (own) return { ...frame, result: [0, own] };
    if (!this.#grants(session, object, method)) return refuse(-32002, "Access denied");
    this.called.add(`${object} ${method}`);
    try {
      const answer = await this.#options.ubus.call(object, method, args);
      return { ...frame, result: Object.keys(answer).length > 0 ? [0, answer] : [0] };
    } catch (thrown) {
      const status = statusOf(thrown);
      return status === Status.NotFound && String(thrown).includes("look up")
        ? refuse(-32000, "Object not found")
        : { ...frame, result: [status] };
    }
  }

  #grants(session: string, object: string, method: string): boolean {
    const rights = { [sessions.full]: ["read", "write"], [sessions.reader]: ["read"] } as const;
    return (rights[session] ?? []).some((right) => this.#acl[aclName]![right].ubus[object]?.includes(method));
  }
}

/** What a real LuCI asks of the router before it shows any page. */
const luciAnswers: Record<string, JsonObject> = {
  "luci getFeatures": {},
  "uci get": { values: {} },
  "session access": { access: true },
  "file list": { entries: [] },
  "luci getConntrackHelpers": { result: [] },
};

/** Enough to look at, light and dark, and as wide as a phone. */
const style = `
:root { color-scheme: light dark }
body { font: 14px/1.4 sans-serif; margin: 1em; background: Canvas; color: CanvasText }
.table { border-collapse: collapse; width: 100% } .td, .th { text-align: left; padding: .3em .6em; border-bottom: 1px solid #8885 }
.ifacebadge { border: 1px solid #888; border-radius: 4px; padding: 0 .3em; font-size: 85% }
.alert-message { border: 1px solid #c80; padding: .5em; margin: .5em 0 }
#modal_overlay { position: fixed; inset: 0; background: #0008; overflow: auto } .modal { background: Canvas; max-width: 46em; margin: 2em auto; padding: 1em }
.cbi-value { display: flex; gap: 1em; margin: .4em 0 } .cbi-value-title { flex: 0 0 10em }
@media (max-width: 600px) { .table-titles { display: none } .tr { display: block; padding: .5em 0 } .td { display: flex; border: 0 }
.td[data-title]::before { content: attr(data-title) ": "; flex: 0 0 8em; font-weight: bold } }
`;

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
