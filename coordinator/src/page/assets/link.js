// What the page says of its connection: live, or when it tries again. One mark for all streams of a view.

import { announce, attribute, shown, text } from "./dom.js";
import { Live } from "./live.js";
import { span } from "./format.js";

/** How long a hidden page keeps its streams; browsers have few connections to spare. */
const HIDDEN_MS = 60000;

const streams = new Map();
let ticking = 0;
let spoken = "";

/** Keeps a stream up, as Live does, and shows how it fares; returns the Live. `failed(error)` hears of final errors. */
export function keep(open, { failed = () => {}, options = {} } = {}) {
  const entry = { state: "waiting", since: Date.now(), wait: 0, tries: 0 };
  const live = new Live(open, (change) => {
    Object.assign(entry, { since: Date.now(), wait: 0 }, change);
    if (change.state === "failed") failed(change.error);
    show();
  }, options);
  entry.live = live;
  streams.set(live, entry);
  live.run();
  show();
  return {
    restart: () => live.restart(),
    stop: () => {
      live.stop();
      streams.delete(live);
      show();
    },
  };
}

function show() {
  const link = document.getElementById("link");
  const entries = [...streams.values()];
  const waiting = entries.filter((one) => one.state === "waiting");
  const broken = waiting.filter((one) => one.tries > 0);
  const stranger = entries.some((one) => one.state === "failed" && one.error?.code === "UNAUTHENTICATED");
  const state = stranger ? "stranger" : broken.length ? "broken" : waiting.length ? "waiting" : "live";
  attribute(link, "data-state", state);
  shown(document.getElementById("retry"), state === "broken");
  clearTimeout(ticking);
  let words = { live: "Live", stranger: "Not logged in" }[state] ?? "Connecting";
  if (state === "broken") {
    const next = Math.max(...broken.map((one) => one.since + one.wait)) - Date.now();
    words = next > 500 ? `No connection, next try in ${span(Math.ceil(next / 1000))}` : "No connection, trying again";
    link.title = broken[0].error?.text ?? broken[0].error?.message ?? "";
    ticking = setTimeout(show, 500);
  } else {
    link.title = "";
  }
  text(document.getElementById("link-text"), words);
  // A wait of a moment isn't worth a word; what was said broken is said mended.
  const saying = state === "broken" ? "The connection to the coordinator is lost. Trying again." : state === "live" && spoken ? "Connected." : "";
  if (saying && saying !== spoken && !(state === "live" && spoken === "Connected.")) {
    announce(saying);
    spoken = saying;
  }
}

/** Wires the button, and lets streams rest while the page is hidden. */
export function startLink() {
  document.getElementById("retry").addEventListener("click", () => {
    for (const live of streams.keys()) live.retry();
  });
  window.addEventListener("online", () => {
    for (const live of streams.keys()) live.retry();
  });
  let timer = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) {
      timer = setTimeout(() => {
        document.dispatchEvent(new Event("rest"));
      }, HIDDEN_MS);
    } else {
      document.dispatchEvent(new Event("wake"));
    }
  });
}
