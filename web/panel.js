// The sidebar tab: versions, memory live, loaded models, and every model file.
import { formatBytes, isOnDevice, placeWords, stayWords } from "./words.js";

const TAG = "managed-models-panel";
const EVERY_MS = 2000;

const FAINT = "color-mix(in srgb, var(--fg-color) 72%, var(--comfy-menu-bg))";
const STYLE = `
${TAG} { display:flex; flex-direction:column; height:100%; box-sizing:border-box;
  color:var(--fg-color); font:13px/1.45 system-ui,sans-serif; font-variant-numeric:tabular-nums; }
${TAG} .mm-scroll { flex:1; min-height:0; overflow:auto; box-sizing:border-box; padding:12px;
  display:flex; flex-direction:column; gap:14px; }
${TAG} h3 { margin:0; font-size:13px; font-weight:600; }
${TAG} section { display:flex; flex-direction:column; gap:8px; }
${TAG} .mm-faint { color:${FAINT}; font-size:12px; }
${TAG} .mm-row { display:flex; gap:8px; align-items:center; justify-content:space-between; }
${TAG} .mm-head { flex-wrap:wrap; }
${TAG} .mm-figure { flex:none; }
${TAG} .mm-actions { display:flex; flex-wrap:wrap; gap:6px; }
${TAG} li .mm-actions { margin-top:6px; }
${TAG} .mm-name { overflow-wrap:anywhere; min-width:0; }
${TAG} ul { list-style:none; margin:0; padding:0; display:flex; flex-direction:column; gap:8px; }
${TAG} li { border:1px solid var(--border-color); border-radius:6px; padding:6px 8px; }
${TAG} li.mm-empty { border:0; padding:0; }
${TAG} progress { width:100%; height:8px; accent-color:#56b4e9; }
${TAG} button, ${TAG} input { font:inherit; color:var(--input-text); background:var(--comfy-input-bg);
  border:1px solid var(--border-color); border-radius:6px; padding:3px 10px; }
${TAG} button { cursor:pointer; flex:none; }
${TAG} button:hover { background:var(--interface-panel-hover-surface, var(--comfy-input-bg)); }
${TAG} button:focus-visible, ${TAG} input:focus-visible { outline:2px solid #56b4e9; outline-offset:1px; }
${TAG} button[aria-disabled=true] { opacity:.6; cursor:default; }
${TAG} button[aria-pressed]::before { content:"\\25CB\\A0"; }
${TAG} button[aria-pressed=true]::before { content:"\\25CF\\A0"; }
${TAG} button[aria-pressed=true] { border-color:var(--fg-color); }
${TAG} [hidden] { display:none; }
${TAG} input { width:100%; box-sizing:border-box; }
${TAG} input::placeholder { color:inherit; opacity:.85; }
${TAG} .mm-notice { border:1px solid var(--error-text); border-left-width:4px; border-radius:6px; padding:6px 8px;
  white-space:pre-wrap; overflow-wrap:anywhere; }
${TAG} [role=status]:not(:empty) { border-top:1px solid var(--border-color); padding:8px 12px;
  max-height:30%; overflow:auto; overflow-wrap:anywhere; }
${TAG} .mm-error { border-left:4px solid var(--error-text); }
`;

/**
 * Define the element once and return its tag.
 * @param {import("./service.js").ManagedModelsApi} api
 * @param {EventTarget} events tells of prompts that are done, which may have written files
 */
export function definePanel(api, events) {
  if (!customElements.get(TAG)) {
    customElements.define(TAG, class extends ManagedModelsPanel { api = api; events = events; });
  }
  return TAG;
}

class ManagedModelsPanel extends HTMLElement {
  #timer = 0;
  #onDone = () => this.#refreshFiles();
  #parts = null;
  #asked = 0;
  #silent = false; // the server did not answer the last time
  #files = [];

  connectedCallback() {
    this.#build();
    this.events.addEventListener("execution_success", this.#onDone);
    this.#refreshFiles();
    this.#tick();
  }

  disconnectedCallback() {
    this.events.removeEventListener("execution_success", this.#onDone);
    clearTimeout(this.#timer);
    this.#timer = 0;
  }

  #build() {
    const style = make("style", { textContent: STYLE });
    const parts = {
      versions: make("div", { className: "mm-faint", id: "mm-versions" }),
      sharing: make("div", { className: "mm-faint", id: "mm-sharing" }),
      notices: make("div", { id: "mm-notices", hidden: true, ariaLive: "polite" }),
      memory: make("div", { id: "mm-memory" }),
      loaded: make("ul", { id: "mm-loaded" }),
      search: make("input", { type: "search", placeholder: "Filter by name or folder" }),
      files: make("ul", { id: "mm-files" }),
      freeVram: button("Free VRAM", () => this.#unloadAll(true)),
      status: make("div"),
    };
    this.#parts = parts;
    parts.search.setAttribute("aria-label", "Filter model files");
    parts.search.addEventListener("input", () => this.#showFiles());
    parts.status.setAttribute("role", "status");
    const free = button("Free everything", () => this.#unloadAll(false));
    free.title = "Unload all models and forget ComfyUI's cached results";
    parts.freeVram.title = "Take all models out of VRAM; they stay in RAM, from where they come back quickly";
    parts.freeVram.hidden = true;
    parts.free = free;
    const again = button("Refresh", () => this.#refreshFiles());
    again.setAttribute("aria-label", "Refresh model files");
    const scroll = make("div", { className: "mm-scroll" }, [
      parts.notices,
      section("Versions", [], [parts.versions, parts.sharing]),
      section("Memory", [], [parts.memory]),
      section("Loaded models", [parts.freeVram, free], [parts.loaded]),
      section("Model files", [again], [parts.search, parts.files]),
    ]);
    // What happened is told below, where words that come and go move nothing.
    this.replaceChildren(style, scroll, parts.status);
    // ComfyUI's single-key shortcuts would fire while a button here has the focus.
    this.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && !event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
    });
  }

  async #tick() {
    if (document.visibilityState === "visible") await this.#refreshStatus();
    if (this.isConnected) this.#timer = setTimeout(() => this.#tick(), EVERY_MS);
  }

  async #refreshStatus() {
    const asked = ++this.#asked;
    try {
      const status = await this.api.status();
      if (asked !== this.#asked) return; // a newer answer is on its way
      this.#showStatus(status);
      if (this.#silent) this.#say("");
      this.#silent = false;
    } catch (error) {
      this.#silent = true;
      this.#say(error.message, true);
    }
  }

  #showStatus({ version, system, sharing, memory }) {
    const { versions, sharing: shares, memory: bars, notices, loaded, free, freeVram } = this.#parts;
    setText(shares, sharing);
    setText(versions, [
      `ComfyUI ${system.comfyui_version ?? "unknown"}`,
      `PyTorch ${system.pytorch_version ?? "none"}`,
      system.cuda_available ? `CUDA ${system.cuda_version}` : "no CUDA in use",
      `Managed Models ${version}`,
    ].join(", "));
    const rows = memory.devices.map((device) => {
      const used = device.free_bytes == null ? null : device.total_bytes - device.free_bytes;
      return meter(`VRAM, ${device.name}`, used, device.total_bytes);
    });
    if (!rows.length) rows.push(make("div", { className: "mm-faint", textContent: "VRAM: no GPU in use, models run in RAM" }));
    const { total_bytes: total, available_bytes: available } = memory.ram;
    rows.push(meter("RAM", total - available, total));
    bars.replaceChildren(...rows);
    showNotices(notices, memory.notices);
    const models = memory.loaded;
    showLoaded(loaded, models, (model) => this.#loadedRow(model), free);
    setHidden(freeVram, !memory.devices.length, free);
  }

  #loadedRow(model) {
    const unload = (vramOnly) => () => this.#act(() => this.api.unload(model.id, vramOnly));
    const pin = button("Pin", () => {
      const wanted = pin.getAttribute("aria-pressed") !== "true";
      return this.#act(() => this.api.pin(model.id, wanted));
    });
    const buttons = {
      unload: button("Unload", unload(false)),
      vramOnly: button("VRAM only", unload(true)),
      pin,
    };
    buttons.unload.title = "Take it out of VRAM and RAM";
    buttons.vramOnly.title = "Take it out of VRAM; it stays in RAM, from where it comes back quickly";
    pin.title = "Keep it in memory until it is unpinned or unloaded";
    buttons.unload.setAttribute("aria-label", `Unload ${model.title}`);
    buttons.vramOnly.setAttribute("aria-label", `Unload ${model.title} from VRAM only`);
    pin.setAttribute("aria-label", `Pin ${model.title}`);
    return new LoadedRow(model, buttons);
  }

  #unloadAll(vramOnly) {
    return this.#act(() => this.api.unloadAll(vramOnly));
  }

  /** Ask for something, and say what came of it in the server's words. */
  async #act(ask) {
    const done = await ask().then(({ report }) => [report], (error) => [error.message, true]);
    await this.#refreshStatus();
    this.#say(...done);
  }

  async #refreshFiles() {
    try {
      this.#files = (await this.api.models()).models;
      this.#showFiles();
    } catch (error) {
      this.#say(error.message, true);
    }
  }

  #showFiles() {
    const wanted = this.#parts.search.value.trim().toLowerCase();
    const shown = this.#files.filter((file) => `${file.folder}/${file.name}`.toLowerCase().includes(wanted));
    const rows = shown.map((file) => {
      const version = `Version ${file.version ?? "unknown"}`;
      const upgrade = file.upgrade ? `, newer: ${file.upgrade}` : "";
      return make("li", {}, [
        make("div", { className: "mm-name", textContent: file.name }),
        make("div", { className: "mm-faint", textContent: `${file.folder}, ${formatBytes(file.size_bytes)}, ${version}${upgrade}` }),
      ]);
    });
    this.#parts.files.replaceChildren(...(rows.length ? rows : [empty(this.#files.length ? "No file fits the filter." : "No model files yet: put some into ComfyUI's models folder.")]));
  }

  #say(text, isError = false) {
    setText(this.#parts.status, text);
    this.#parts.status.classList.toggle("mm-error", isError);
  }
}

/** One loaded model: where it is, how long it stays, and what can be done with it. */
class LoadedRow {
  #buttons;
  #place = make("div", { className: "mm-faint mm-place" });
  #stay = make("div", { className: "mm-faint mm-stay" });

  constructor(model, buttons) {
    this.#buttons = buttons;
    this.element = make("li", {}, [
      make("div", { className: "mm-name", textContent: model.title }),
      this.#place,
      this.#stay,
      make("div", { className: "mm-actions" }, [buttons.unload, buttons.pin, buttons.vramOnly]),
    ]);
    this.element.dataset.id = model.id;
    this.element.managedRow = this;
  }

  show(model) {
    const { unload, pin, vramOnly } = this.#buttons;
    setText(this.#place, placeWords(model));
    setText(this.#stay, stayWords(model));
    pin.setAttribute("aria-pressed", String(model.pinned));
    setHidden(pin, !model.pooled, unload);
    setHidden(vramOnly, !isOnDevice(model), unload);
  }
}

/**
 * Show the loaded models. Rows that are still true stay where they are, so that what has the focus
 * keeps it; when its row goes, the next row gets it, or `otherwise`.
 */
function showLoaded(list, models, makeRow, otherwise) {
  const wanted = new Set(models.map((model) => model.id));
  const focused = list.contains(document.activeElement) ? document.activeElement.closest("li") : null;
  const next = focused && !wanted.has(focused.dataset.id) ? neighbour(focused, wanted) : undefined;
  for (const row of [...list.children]) if (!wanted.has(row.dataset.id)) row.remove();
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row.managedRow]));
  for (const model of [...models].reverse()) {
    const row = rows.get(model.id) ?? makeRow(model);
    if (!row.element.isConnected) list.prepend(row.element);
    row.show(model);
  }
  if (!models.length) list.append(empty("None. Models appear here when a workflow has used them."));
  if (next !== undefined) (next?.querySelector("button") ?? otherwise).focus();
}

/** Return the row after this one, or before it, that stays. */
function neighbour(row, wanted) {
  const rows = [...row.parentElement.children];
  const at = rows.indexOf(row);
  const near = [...rows.slice(at + 1), ...rows.slice(0, at).reverse()];
  return near.find((other) => wanted.has(other.dataset.id)) ?? null;
}

/** Show what a person should know at once; what is said already stays, and is not announced again. */
function showNotices(box, notices) {
  const shown = [...box.children].map((row) => row.textContent);
  box.hidden = !notices.length;
  if (notices.join("\n") === shown.join("\n")) return;
  box.replaceChildren(...notices.map((text) => make("div", { className: "mm-notice", textContent: text })));
}

/** Hide or show a button; the focus goes to another when it would be lost. */
function setHidden(element, hidden, instead) {
  if (hidden && document.activeElement === element) instead.focus();
  element.hidden = hidden;
}

/** Change a text only when it differs: a reader's selection stays, and nothing is announced twice. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function meter(label, used, total) {
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

function section(title, buttons, content) {
  const heading = make("h3", { textContent: title });
  const head = make("div", { className: "mm-row mm-head" }, [heading, make("div", { className: "mm-actions" }, buttons)]);
  return make("section", {}, [head, ...content]);
}

function empty(text) {
  return make("li", { className: "mm-faint mm-empty", textContent: text });
}

function button(text, onClick) {
  const element = make("button", { type: "button", textContent: text });
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

function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
