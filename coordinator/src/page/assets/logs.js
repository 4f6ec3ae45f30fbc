// The log of a job from all its ranks. Only the rows in sight are in the page, however many lines there are.

import { stream } from "./api.js";
import { announce, attribute, framed, h, text } from "./dom.js";
import { count, moment } from "./format.js";
import { keep } from "./link.js";
import { Ring, filter, source } from "./ring.js";

const KEPT = 20000;
const TAIL = 2000;
const ROW = 20;
/** Rows beyond each edge, so that scrolling shows no gap. */
const MORE = 10;

export function logsTab(state) {
  const ring = new Ring(KEPT);
  const chosen = { level: "", from: "", words: "" };
  const seenSources = new Set();
  let lines = [];
  let follow = true;
  let live = null;
  const rows = h("div", { class: "rows" });
  const space = h("div", { class: "space" }, rows);
  const pane = h("div", { class: "log", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Log lines" }, space);
  const level = select("Level", [["", "All levels"], ["ERROR", "Errors"], ["WARN", "Warnings"], ["INFO", "Info"], ["DEBUG", "Debug"]], (value) => choose({ level: value }));
  const from = select("From", [["", "All ranks"]], (value) => choose({ from: value }));
  const words = h("input", { type: "search", placeholder: "Text", "aria-label": "Text in the lines", oninput: () => choose({ words: words.value }) });
  const total = h("output", { class: "note" });
  const newest = h("button", { type: "button", "aria-pressed": "true", onclick: () => {
    setFollow(!follow);
    announce(follow ? "Following new lines" : "Not following");
  } }, "Follow");
  const element = h("div", {}, h("div", { class: "row tools" }, level, from, words, newest, h("span", { class: "gap" }), total), pane);
  const draw = framed(paint);
  pane.addEventListener("scroll", () => {
    const end = pane.scrollHeight - pane.scrollTop - pane.clientHeight < ROW * 1.5;
    if (end !== follow && Date.now() - placed > 150) setFollow(end);
    draw();
  });
  const observer = new ResizeObserver(draw);
  observer.observe(pane);
  let placed = 0;

  function setFollow(on) {
    follow = on;
    attribute(newest, "aria-pressed", on);
    draw();
  }

  function choose(change) {
    Object.assign(chosen, change);
    lines = ring.lines.filter(filter(chosen));
    draw();
  }

  function take(line) {
    const dropped = ring.dropped;
    ring.push(line);
    if (ring.dropped !== dropped) lines = ring.lines.filter(filter(chosen));
    else if (filter(chosen)(line)) lines.push(line);
    const who = source(line);
    if (who && !seenSources.has(who) && seenSources.size < 500) {
      seenSources.add(who);
      from.querySelector("select").append(h("option", { value: who }, who));
    }
    draw();
  }

  function paint() {
    space.style.setProperty("--height", `${lines.length * ROW}px`);
    if (follow) {
      placed = Date.now();
      pane.scrollTop = pane.scrollHeight;
    }
    const first = Math.max(0, Math.floor(pane.scrollTop / ROW) - MORE);
    const last = Math.min(lines.length, Math.ceil((pane.scrollTop + pane.clientHeight) / ROW) + MORE);
    rows.style.setProperty("--top", `${first * ROW}px`);
    const wanted = lines.slice(first, last);
    while (rows.children.length > wanted.length) rows.lastChild.remove();
    while (rows.children.length < wanted.length) rows.append(row());
    wanted.forEach((line, at) => write(rows.children[at], line));
    attribute(pane, "data-empty", lines.length ? null : ring.lines.length ? "No line fits what you chose." : "No line yet.");
    text(total, lines.length === ring.lines.length ? `${count(lines.length)} lines` : `${count(lines.length)} of ${count(ring.lines.length)} lines`);
  }

  return {
    element,
    shown() {
      live ??= keep(async (signal, opened, seen) => {
        // A log has no sequence numbers: after a break its newest lines are read again.
        ring.clear();
        lines = [];
        await stream("JobService/TailJobLogs", { name: state.name, tail: TAIL, follow: true }, (line) => {
          seen();
          take(line);
        }, signal, opened);
      }, { failed: () => draw() });
      draw();
    },
    hide() {
      // Browsers have few connections to spare.
      live?.stop();
      live = null;
    },
    update() {},
    stop() {
      live?.stop();
      observer.disconnect();
    },
  };
}

function select(label, options, change) {
  return h("label", { class: "pick" }, h("span", { class: "unseen" }, label),
    h("select", { onchange: (event) => change(event.target.value) }, options.map(([value, name]) => h("option", { value }, name))));
}

function row() {
  return h("div", { class: "line" }, h("time", {}), h("span", { class: "level" }), h("span", { class: "who" }), h("span", { class: "words" }));
}

function write(element, line) {
  const [time, level, who, words] = element.children;
  const at = moment(line.time);
  attribute(element, "data-level", line.level ?? "");
  text(time, at === null ? "" : new Date(at).toISOString().slice(11, 23));
  text(level, line.level ?? "");
  text(who, source(line));
  text(words, line.text ?? "");
  attribute(words, "title", line.text ?? "");
}
