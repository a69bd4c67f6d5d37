/**
 * The web server of the browser tests and of `make run`: what uhttpd and rpcd are for LuCI, as far as our pages need it.
 *
 *     GET  /cgi-bin/luci/admin/services/gatehouse/devices    a page with our stand-in for LuCI (standin.js)
 *     GET  /cgi-bin/luci/admin/status/overview               LuCI's status page, with our part alone
 *     GET  /luci-static/resources/…                          the files that the package installs
 *     POST /ubus/                                            JSON-RPC, one call or many, to a real bus
 *
 * A session may call what the shipped ACL file grants, by its right to read, or to read and write; of LuCI's own
 * calls those in calls.ts. Which calls were made is kept in `called`, as "object method".
 *
 * It listens on loopback, and answers nobody who asks for it under another name or from another site: a page in the
 * same browser shall not reach it. With a token, pages are for who has it.
 *
 * Given the folder of a real LuCI's resources, pages are made of that instead.
 */

import { createReadStream, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import type { JsonObject } from "../../src/lib/json.ts";
import { Status, statusOf, type Ubus } from "../../src/ubus/ubus.ts";
import { aclName, type RpcdAcl, rpcdAclFile } from "../package/acl.ts";
import { frameCalls, uciCalls } from "./calls.ts";
import { luciPage, overviewPath, pagesPath, standInPage } from "./page.ts";
import { Uci, type UciOptions } from "./uci.ts";

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
  /** The configuration that the page Settings is about. */
  readonly configuration?: Omit<UciOptions, "name">;
  /** What a browser has to bring, once, in the address: ?token=… Default: nothing. */
  readonly token?: string;
  /** TCP port. Default: any that is free. */
  readonly port?: number;
  /** How long a second is to pages that look again every few of them (our stand-in only). Default: 1000. */
  readonly secondMs?: number;
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
  readonly #uci: Uci | undefined;

  private constructor(options: HostOptions) {
    this.#options = options;
    this.#acl = JSON.parse(readFileSync(join(root, rpcdAclFile), "utf8")) as RpcdAcl;
    this.#uci = options.configuration && new Uci({ name: "gatehouse", ...options.configuration });
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((thrown) => {
        response.writeHead(500).end(String(thrown));
      });
    });
  }

  static async start(options: HostOptions): Promise<Host> {
    const host = new Host(options);
    await new Promise<void>((resolve, reject) => {
      host.#server.once("error", reject);
      host.#server.listen(options.port ?? 0, "127.0.0.1", resolve);
    });
    return host;
  }

  /** Where a view of ours is. */
  urlOf(view: string): string {
    return `${this.#origin}${view === "overview" ? overviewPath : `${pagesPath}/${view}`}`;
  }

  get #origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.#uci?.close();
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname: path, searchParams } = new URL(request.url ?? "/", this.#origin);
    if (!this.#isOurs(request)) return void response.writeHead(403).end("Asked for under a foreign name\n");
    const { token } = this.#options;
    if (token !== undefined && searchParams.get("token") === token) {
      const cookie = `gatehouse=${token}; HttpOnly; SameSite=Strict; Path=/`;
      const location = path === "/" ? `${pagesPath}/devices` : path;
      return void response.writeHead(303, { location, "set-cookie": cookie }).end();
    }
    const cookies = (request.headers.cookie ?? "").split("; ");
    if (token !== undefined && !cookies.includes(`gatehouse=${token}`))
      return void response.writeHead(403).end("Open the address with the token\n");
    const page = path === overviewPath ? "overview" : new RegExp(`^${pagesPath}/([a-z]+)$`).exec(path)?.[1];
    if (request.method === "POST" && /^(?:\/cgi-bin\/luci\/admin)?\/ubus(?:\/|$)/.test(path)) {
      const calls = JSON.parse(await bodyOf(request)) as Call | Call[];
      const answers = Array.isArray(calls)
        ? await Promise.all(calls.map((each) => this.#answer(each)))
        : await this.#answer(calls);
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answers));
    } else if (page !== undefined) {
      response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(this.#page(page));
    } else if (["/standin.js", "/standform.js", "/page.css"].includes(path)) {
      this.#send(join(root, "test/web", path), response);
    } else if (path.startsWith("/luci-static/")) {
      const relative = normalize(path).slice("/luci-static/".length);
      const places = [
        join(root, "files/www/luci-static"),
        ...(this.#options.luci ? [this.#options.luci.folder] : []),
      ];
      const file = places.map((folder) => join(folder, relative)).find(isFile);
      if (file === undefined) response.writeHead(404).end();
      else this.#send(file, response);
    } else response.writeHead(404).end();
  }

  #send(file: string, response: ServerResponse): void {
    response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream" });
    // What cannot be read to its end is cut off: the browser sees that it is not all.
    createReadStream(file)
      .on("error", () => response.destroy())
      .pipe(response);
  }

  get #session(): string {
    return this.#options.session ?? sessions.full;
  }

  /** Not by a name that somebody else's DNS made ours, nor from a page of another site. */
  #isOurs({ headers }: IncomingMessage): boolean {
    const names = [this.#origin, this.#origin.replace("127.0.0.1", "localhost")];
    const { host, origin } = headers;
    return names.includes(`http://${host}`) && (origin === undefined || origin === `http://${host}`);
  }

  #page(view: string): string {
    const { luci, translations = {}, secondMs = 1_000 } = this.#options;
    const session = this.#session;
    const about = { view, session, readonly: session === sessions.reader, translations, secondMs };
    return luci ? luciPage(about, luci.theme) : standInPage(about);
  }

  async #answer(call: Call): Promise<JsonObject> {
    const frame = { jsonrpc: "2.0", id: (call.id ?? null) as number | string | null };
    const refuse = (code: number, message: string) => ({ ...frame, error: { code, message } });
    if (call.method === "list") return { ...frame, result: {} };
    if (call.method !== "call") return refuse(-32601, "Method not found");
    const [session, object, method, args] = call.params as [string, string, string, JsonObject];
    const own = this.#options.luci && frameCalls[[object, method, args.config].filter(Boolean).join(" ")];
    if (own) return { ...frame, result: [0, own] };
    if (object === "session" && method === "access")
      return { ...frame, result: [0, { access: this.#rights(session).includes("write") }] };
    if (!this.#grants(session, object, method)) return refuse(-32002, "Access denied");
    this.called.add(`${object} ${method}`);
    try {
      const isUci = object === "uci" && this.#uci !== undefined;
      const answer = await (isUci
        ? this.#uci!.call(method, args)
        : this.#options.ubus.call(object, method, args));
      return { ...frame, result: Object.keys(answer).length > 0 ? [0, answer] : [0] };
    } catch (thrown) {
      const status = statusOf(thrown);
      const isGone = status === Status.NotFound && object !== "uci" && !(await this.#isThere(object));
      return isGone ? refuse(-32000, "Object not found") : { ...frame, result: [status] };
    }
  }

  async #isThere(object: string): Promise<boolean> {
    const found = await this.#options.ubus.lookup(object).catch(() => []);
    return found.length > 0;
  }

  #grants(session: string, object: string, method: string): boolean {
    const rights = this.#rights(session);
    if (object === "uci")
      return rights.some((right) => Object.hasOwn(uciCalls, method) && uciCalls[method] === right);
    const granted = rights.map((right) => new Map(Object.entries(this.#acl[aclName]![right].ubus)));
    return granted.some((methods) => methods.get(object)?.includes(method));
  }

  #rights(session: string): readonly ("read" | "write")[] {
    if (session === sessions.full) return ["read", "write"];
    return session === sessions.reader ? ["read"] : [];
  }
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
