// How a reader moves a chart: mouse, wheel, touch, keys. All charts of a job share the window of steps.

import { announce } from "./dom.js";

/** Listens to a chart; returns what ends it. */
export function hands(chart) {
  const { plot, steps } = chart;
  const over = new AbortController();
  const on = (name, listener, options = {}) => plot.addEventListener(name, listener, { signal: over.signal, ...options });
  const pointers = new Map();
  const place = (event) => event.clientX - plot.getBoundingClientRect().left;
  const perPixel = () => (steps.range[1] - steps.range[0]) / chart.span;

  on("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, place(event));
    plot.setPointerCapture(event.pointerId);
    plot.classList.add("held");
  });
  on("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (before === undefined) {
      steps.point(chart.stepAt(now));
      return;
    }
    if (pointers.size === 1) {
      if (event.pointerType === "touch" || Math.abs(now - before) > 0) steps.move((before - now) * perPixel());
      steps.point(chart.stepAt(now));
    } else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const [apart, were] = [Math.abs(now - other), Math.abs(before - other)];
      if (apart > 8 && were > 8) steps.zoom(chart.stepAt(other), were / apart);
    }
    pointers.set(event.pointerId, now);
  });
  const up = (event) => {
    pointers.delete(event.pointerId);
    if (!pointers.size) plot.classList.remove("held");
  };
  on("pointerup", up);
  on("pointercancel", up);
  on("pointerleave", () => {
    if (!pointers.size) steps.point(null);
  });
  on("dblclick", (event) => steps.zoom(chart.stepAt(place(event)), event.shiftKey ? 2 : 0.5));
  // The wheel alone scrolls the page; a pinch on a touchpad comes with ctrlKey.
  on("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      steps.zoom(chart.stepAt(place(event)), 2 ** (event.deltaY / (event.deltaMode ? 8 : 160)));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      steps.move((event.deltaX || event.deltaY) * perPixel());
    }
  }, { passive: false });
  on("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [from, to] = steps.range;
    const width = to - from;
    const keys = {
      ArrowLeft: () => steps.move(-width / 10),
      ArrowRight: () => steps.move(width / 10),
      PageUp: () => steps.move(-width),
      PageDown: () => steps.move(width),
      "+": () => steps.zoomMiddle(0.5),
      "=": () => steps.zoomMiddle(0.5),
      "-": () => steps.zoomMiddle(2),
      0: () => steps.all(),
      Home: () => steps.all(),
      End: () => steps.newest(),
      ",": () => cursor(-1),
      ".": () => cursor(1),
      Escape: () => steps.point(null),
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
    if (event.key !== "," && event.key !== ".") announce(steps.words);
  });
  on("blur", () => steps.point(null));

  function cursor(direction) {
    const [from, to] = steps.range;
    const by = Math.max(1, Math.round((to - from) / 100));
    steps.point((steps.cursor ?? to) + direction * by);
    // The legend is written at the next frame.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      const shown = [...chart.entries.values()].map(({ button }) => [...button.children].slice(1).map((part) => part.textContent).join(" "));
      announce(`Step ${steps.cursor}: ${shown.join(", ")}`);
    }));
  }
  return () => over.abort();
}
