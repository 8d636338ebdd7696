// Small pieces that every part of the panel is made of.
import { formatBytes } from "./words.js";

export function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Make a button that works once at a time. */
export function button(text, onClick, label = "") {
  const element = make("button", { type: "button", textContent: text });
  if (label) element.setAttribute("aria-label", label);
  // Not disabled while it works: that would take the focus away.
  element.addEventListener("click", async () => {
    if (element.getAttribute("aria-disabled") === "true") return;
    element.setAttribute("aria-disabled", "true");
    try {
      await onClick();
    } finally {
      element.removeAttribute("aria-disabled");
    }
  });
  return element;
}

export function section(title, buttons, content) {
  const heading = make("h3", { textContent: title });
  const head = make("div", { className: "mm-row mm-head" }, [heading, make("div", { className: "mm-actions" }, buttons)]);
  return make("section", {}, [head, ...content]);
}

export function empty(text) {
  return make("li", { className: "mm-faint mm-empty", textContent: text });
}

export function faint(text, className = "") {
  return make("div", { className: `mm-faint ${className}`.trim(), textContent: text });
}

/** Hide or show an element; the focus goes to another when it would be lost. */
export function setHidden(element, hidden, instead) {
  if (hidden && element.contains(document.activeElement)) instead.focus();
  element.hidden = hidden;
}

/** Change a text only when it differs: a reader's selection stays, and nothing is announced twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function meter(label, used, total) {
  const words = used == null ? `${formatBytes(total)}, use unknown` : `${formatBytes(used)} of ${formatBytes(total)}`;
  const bar = make("progress", { max: total, value: used ?? 0 });
  bar.setAttribute("aria-label", `${label}: ${words}`);
  return make("div", {}, [
    make("div", { className: "mm-row" }, [
      make("span", { className: "mm-name", textContent: label }),
      make("span", { className: "mm-faint mm-figure", textContent: words }),
    ]),
    bar,
  ]);
}

/**
 * Show items as rows. Rows that are still true stay where they are, so that what has the focus keeps it;
 * when its row goes, the next row gets it, or `otherwise`.
 * @param {HTMLElement} list
 * @param {{id: string}[]} items
 * @param {(item: object) => {element: HTMLElement, show: (item: object) => void}} makeRow
 * @param {HTMLElement} otherwise
 * @param {string} [none] what the empty list says
 */
export function showRows(list, items, makeRow, otherwise, none = "") {
  const wanted = new Set(items.map((item) => item.id));
  const focused = list.contains(document.activeElement) ? document.activeElement.closest("li") : null;
  const next = focused && !wanted.has(focused.dataset.id) ? neighbour(focused, wanted) : undefined;
  for (const row of [...list.children]) if (!wanted.has(row.dataset.id)) row.remove();
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row.managedRow]));
  for (const item of [...items].reverse()) {
    const row = rows.get(item.id) ?? makeRow(item);
    if (!row.element.isConnected) {
      row.element.dataset.id = item.id;
      row.element.managedRow = row;
      list.prepend(row.element);
    }
    row.show(item);
  }
  if (!items.length && none) list.append(empty(none));
  if (next !== undefined) (next?.querySelector("button") ?? otherwise).focus();
}

/** Return the row after this one, or before it, that stays. */
function neighbour(row, wanted) {
  const rows = [...row.parentElement.children];
  const at = rows.indexOf(row);
  const near = [...rows.slice(at + 1), ...rows.slice(0, at).reverse()];
  return near.find((other) => wanted.has(other.dataset.id)) ?? null;
}
