// The page: which view the address names, and what all of them share.

import { attribute, fill, h, shown, text } from "./dom.js";
import { jobView } from "./job.js";
import { startLink } from "./link.js";
import { overview } from "./overview.js";
import { startSession } from "./session.js";

let view = null;
let place = "";

/** What the address asks for: `#/` or `#/jobs/NAME/TAB`. */
function asked() {
  const [kind, name, tab] = location.hash.replace(/^#\/?/, "").split("/");
  try {
    if (kind === "jobs" && name) return { name: decodeURIComponent(name), tab: tab ?? "" };
  } catch {
    // Not an address of this page.
  }
  return { name: null, tab: "" };
}

function route({ afresh = false } = {}) {
  const { name, tab } = asked();
  const key = name ?? "";
  const moved = place !== key || !view;
  if (moved || afresh) {
    view?.stop();
    place = key;
    view = name === null ? overview() : jobView(name);
    fill(document.getElementById("main"), view.element);
  }
  view.show?.(tab);
  const job = document.getElementById("to-job");
  shown(job, name !== null);
  text(job, name ?? "");
  job.href = name === null ? "#/" : `#/jobs/${encodeURIComponent(name)}`;
  attribute(document.getElementById("to-overview"), "aria-current", name === null ? "page" : null);
  attribute(job, "aria-current", name === null ? null : "page");
  document.title = name === null ? "Espalier" : `${name} · Espalier`;
  return moved;
}

function start() {
  startLink();
  route();
  startSession(() => route({ afresh: true }));
  let resting = false;
  const rest = () => {
    view?.stop();
    view = null;
    resting = true;
  };
  const wake = () => {
    if (resting) route({ afresh: true });
    resting = false;
  };
  document.addEventListener("rest", rest);
  document.addEventListener("wake", wake);
  // A page that the browser keeps for the way back would keep its connections, too, of which there are few.
  window.addEventListener("pagehide", rest);
  window.addEventListener("pageshow", wake);
  window.addEventListener("hashchange", () => {
    // "#main" is where the skip link goes, not a view.
    if (location.hash === "#main") return;
    if (route()) document.getElementById("main").focus({ preventScroll: true });
    if (place === "") window.scrollTo(0, 0);
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  window.addEventListener("error", (event) => problem(event.message));
  window.addEventListener("unhandledrejection", (event) => {
    if (event.reason?.name !== "AbortError") problem(event.reason?.message ?? String(event.reason));
  });
}

/** An error of the page itself: said, so that nobody takes a still page for a still cluster. */
function problem(message) {
  const toasts = document.getElementById("toasts");
  if (toasts.querySelector(".own")) return;
  toasts.append(h("div", { class: "toast wrong own", role: "alert" }, h("span", {}, `The page failed: ${message}. Reload it.`)));
}

/** The view that is open, for measurements of the page. */
export const open = () => view;

start();
