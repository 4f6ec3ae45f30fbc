"""What a person who reads with a screen reader or weak eyes would stumble over, found in the page itself.

A small part of what Lighthouse looks at, without Node: contrast of texts, names of what can be used, headings and landmarks.
"""

SCRIPT = r"""
const found = [];
const canvas = document.createElement('canvas');
canvas.width = canvas.height = 1;
const context = canvas.getContext('2d', { willReadFrequently: true });
const rgba = (colour) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
const behind = (element) => {
  const layers = [];
  for (let one = element; one; one = one.parentElement) layers.unshift(rgba(getComputedStyle(one).backgroundColor));
  return layers.reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
};
const light = (colour) => {
  const [r, g, b] = colour.slice(0, 3).map((part) => part / 255).map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim();
  const element = walker.currentNode.parentElement;
  if (!text || !element.checkVisibility({ visibilityProperty: true }) || element.closest('.unseen, .skip, noscript, script, option')) continue;
  const style = getComputedStyle(element);
  const size = Number.parseFloat(style.fontSize);
  if (size === 0) continue;
  const back = behind(element);
  const [x, y] = [light(over(rgba(style.color), back)), light(back)];
  const contrast = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const muted = element.closest('[aria-pressed="false"], [disabled]');
  if (contrast < (large || muted ? 3 : 4.5)) found.push(`contrast ${contrast.toFixed(2)} of "${text.slice(0, 30)}" in ${element.className || element.tagName}`);
}
const name = (one) => one.getAttribute('aria-label') || one.labels?.[0]?.textContent || one.textContent.trim()
  || document.getElementById(one.getAttribute('aria-labelledby') ?? '')?.textContent || one.title;
for (const one of document.querySelectorAll('button, a[href], input, select, [role=img], table, nav, dialog, progress, [tabindex="0"]')) {
  if (one.checkVisibility() && !name(one)) found.push(`no name: ${one.outerHTML.slice(0, 80)}`);
}
for (const landmark of ['header', 'main', 'nav']) {
  if (!document.querySelector(landmark)) found.push(`no ${landmark}`);
}
if (document.querySelectorAll('h1').length !== 1) found.push(`${document.querySelectorAll('h1').length} first headings`);
let level = 1;
for (const heading of document.querySelectorAll('main h1, main h2, main h3, main h4')) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1 && heading.checkVisibility()) found.push(`heading ${next} after ${level}: ${heading.textContent}`);
  level = next;
}
const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
for (const id of new Set(ids)) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`two elements are named ${id}`);
if (!document.documentElement.lang) found.push('no language');
return found;
"""


def problems(browser):
    """A list of sentences; empty is good."""
    return browser.run(SCRIPT)
