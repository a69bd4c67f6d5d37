/**
 * The documents that views are shown in: one with our stand-in for LuCI, and one as LuCI's own templates make it.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";

const root = process.cwd();
export const pagesPath = "/cgi-bin/luci/admin/services/gatehouse";
export const overviewPath = "/cgi-bin/luci/admin/status/overview";

export interface PageOptions {
  /** Name of a view of ours; "overview" is LuCI's status page with our part of it. */
  readonly view: string;
  readonly session: string;
  readonly readonly: boolean;
  /** English text → translated text. */
  readonly translations: Readonly<Record<string, string>>;
  /** How long a second is to what polls. */
  readonly secondMs: number;
}

interface MenuEntry {
  readonly title: string;
  readonly order?: number;
  readonly action: { readonly type: string; readonly path?: string };
}

/** The pages that the shipped menu has, in its order. */
export function menu(): { readonly view: string; readonly title: string }[] {
  const file = join(root, "files/usr/share/luci/menu.d/luci-app-gatehouse.json");
  return Object.values(JSON.parse(readFileSync(file, "utf8")) as Record<string, MenuEntry>)
    .filter(({ action }) => action.type === "view")
    .sort((one, other) => (one.order ?? 0) - (other.order ?? 0))
    .map(({ title, action }) => ({ view: action.path!.replace("gatehouse/", ""), title }));
}

const escaped = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** With our stand-in. */
export function standInPage({ view, session, readonly, translations, secondMs }: PageOptions): string {
  const entries = [{ view: "overview", title: "Status" }, ...menu()].map((each) => {
    const path = each.view === "overview" ? overviewPath : `${pagesPath}/${each.view}`;
    const here = each.view === view ? ' aria-current="page"' : "";
    return `<a href="${path}"${here}>${escaped(translations[each.title] ?? each.title)}</a>`;
  });
  const given = JSON.stringify({ session, readonly, translations, secondMs }).replaceAll("<", "\\u003c");
  const start =
    view === "overview" ? "standInOverview(['45_gatehouse']);" : `L.require("view.gatehouse.${view}");`;
  return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>gatehouse</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css"><script src="/standform.js"></script></head><body>
<nav>${entries.join(" ")}</nav>
<div id="maincontent"><div id="view"></div></div>
<script>window.standIn = ${given};</script>
<script src="/standin.js"></script><script>${start}</script>
</body></html>`;
}

/** As LuCI's own templates make it, without its menu, with a theme of LuCI's. */
export function luciPage({ view, session, readonly }: PageOptions, theme: string): string {
  const media = `/luci-static/${theme}`;
  const path = ["admin", "services", "gatehouse", view];
  const setting = {
    ...{ media, resource: "/luci-static/resources", scriptname: "/cgi-bin/luci", pollinterval: 5 },
    ...{ pathinfo: `/${path.join("/")}`, documentroot: "/www", ubuspath: "/ubus/" },
    ...{ requestpath: path, dispatchpath: path, sessionid: session, token: "token" },
    nodespec: { title: "gatehouse", satisfied: true, readonly },
  };
  return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>gatehouse</title>
<script>document.documentElement.setAttribute("data-darkmode", matchMedia("(prefers-color-scheme: dark)").matches);</script>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" href="${media}/cascade.css">
<link rel="stylesheet" media="only screen and (max-device-width: 854px)" href="${media}/mobile.css">
<script src="/luci-static/resources/cbi.js"></script></head>
<body class="lang_en logged-in" data-page="${path.join("-")}">
<header><a class="brand" href="/">router</a><ul class="nav" id="topmenu" style="display:none"></ul>
<div id="indicators" class="pull-right"></div></header>
<div id="maincontent" class="container"><div id="tabmenu" style="display:none"></div>
<script src="/luci-static/resources/luci.js"></script>
<script>L = new LuCI(${JSON.stringify(setting)});</script>
<div id="view"><script>L.require("ui").then(function(ui) { ui.instantiateView("gatehouse/${view}"); });</script></div>
</div></body></html>`;
}
