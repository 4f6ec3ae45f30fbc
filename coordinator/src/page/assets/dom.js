// A little over the DOM: elements from words, lists by key, text that is only written where it changed.

/** An element. Attributes: `class`, `on*` listeners, `aria-*`, `data-*`; true is present, false, null are absent. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Writes text into an element, if it's another. */
export function text(element, value) {
  const wanted = String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Sets or removes an attribute, if it's another. */
export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Shows or hides an element. */
export function shown(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/**
 * Makes the children of `parent` stand for `items`, in order. A child lives as long as its key: `make(item)`
 * returns [element, update], and `update(item)` is called each time. Focus and scroll places stay.
 */
export function keyed(parent, items, key, make) {
  const known = (parent.keyed ??= new Map());
  const left = new Set(known.keys());
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    let entry = known.get(name);
    if (!entry) {
      const [element, update] = make(item);
      entry = { element, update };
      known.set(name, entry);
    }
    left.delete(name);
    entry.update(item);
    if (entry.element === place) place = place.nextSibling;
    else parent.insertBefore(entry.element, place);
  }
  for (const name of left) {
    known.get(name).element.remove();
    known.delete(name);
  }
}

/** Replaces all children. */
export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

let polite = null;
let speaking = 0;

/** Lets a screen reader say something when it is idle. */
export function announce(sentence) {
  polite ??= document.getElementById("polite");
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    // The same words again are only heard if they change.
    polite.textContent = polite.textContent === sentence ? `${sentence}\u00a0` : sentence;
  }, 150);
}

/** At most one call per frame. */
export function framed(draw) {
  let asked = 0;
  return () => {
    if (!asked) {
      asked = requestAnimationFrame((now) => {
        asked = 0;
        draw(now);
      });
    }
  };
}

/** What is shown where nothing is yet: what there will be, and how it comes. */
export function nothing(title, ...words) {
  return h("div", { class: "empty" }, h("b", {}, title), words);
}

/** A state of a job or worker: a mark and the word, never colour alone. */
export function badge() {
  const label = h("span", {});
  const element = h("span", { class: "badge" }, h("span", { class: "dot", "aria-hidden": "true" }), label);
  const update = (state) => {
    attribute(element, "data-state", state ?? "");
    text(label, (state ?? "").toLowerCase());
  };
  return [element, update];
}
