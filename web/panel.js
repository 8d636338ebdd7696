// The sidebar tab: versions, memory live, loaded models, the open workflow, downloads, and every model file.
import { DownloadsSection } from "./downloads.js";
import { button, make, meter, section, setHidden, setText, showRows } from "./elements.js";
import { FilesSection } from "./files.js";
import { isOnDevice, placeWords, stayWords } from "./words.js";

const TAG = "managed-models-panel";
const EVERY_MS = 2000;
const NOTHING_LOADED = "None. Models appear here when a workflow has used them.";

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
${TAG} .mm-notice { margin-top:6px; border:1px solid var(--error-text); border-left-width:4px; border-radius:6px; padding:6px 8px;
  white-space:pre-wrap; overflow-wrap:anywhere; }
${TAG} [role=status]:not(:empty) { border-top:1px solid var(--border-color); padding:8px 12px;
  max-height:30%; overflow:auto; overflow-wrap:anywhere; }
${TAG} li.mm-missing { border-left:4px solid #e69f00; }
${TAG} li .mm-actions button { flex:0 1 auto; max-width:100%; overflow-wrap:anywhere; text-align:start; }
${TAG} .mm-mark { font-size:12px; font-weight:600; }
${TAG} .mm-line, ${TAG} .mm-headline { overflow-wrap:anywhere; }
${TAG} .mm-error { border-left:4px solid var(--error-text); }
`;

/**
 * Define the element once and return its tag.
 * @param {object} parts
 * @param {import("./service.js").ManagedModelsApi} parts.api
 * @param {EventTarget} parts.events tells of prompts that are done, which may have written files
 * @param {ReturnType<import("./page.js").makePage>} parts.page
 * @param {import("./downloads.js").Downloads} parts.downloads
 * @param {import("./workflow_needs.js").WorkflowNeeds} parts.needs
 */
export function definePanel(parts) {
  if (!customElements.get(TAG)) {
    const Panel = class extends ManagedModelsPanel {
      constructor() {
        super();
        Object.assign(this, parts);
      }
    };
    customElements.define(TAG, Panel);
  }
  return TAG;
}

class ManagedModelsPanel extends HTMLElement {
  #timer = 0;
  #onDone = () => this.#files.refresh();
  #onDownloads = () => this.#downloads.show();
  #onFile = ({ detail }) => this.#fileCame(detail);
  #parts = null;
  #files = null;
  #downloads = null;
  #asked = 0;
  #silent = false; // the server did not answer the last time

  connectedCallback() {
    this.#build();
    this.events.addEventListener("execution_success", this.#onDone);
    this.downloads.addEventListener("change", this.#onDownloads);
    this.downloads.addEventListener("done", this.#onFile);
    this.#files.refresh();
    this.#tick();
  }

  disconnectedCallback() {
    this.events.removeEventListener("execution_success", this.#onDone);
    this.downloads.removeEventListener("change", this.#onDownloads);
    this.downloads.removeEventListener("done", this.#onFile);
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
      freeVram: button("Free VRAM", () => this.#unloadAll(true)),
      status: make("div"),
    };
    this.#parts = parts;
    parts.status.setAttribute("role", "status");
    const free = button("Free everything", () => this.#unloadAll(false));
    free.title = "Unload all models and forget ComfyUI's cached results";
    parts.freeVram.title = "Take all models out of VRAM; they stay in RAM, from where they come back quickly";
    parts.freeVram.hidden = true;
    parts.free = free;
    const say = (text, isError) => this.#say(text, isError);
    this.#files = new FilesSection({ api: this.api, downloads: this.downloads, page: this.page, say });
    this.needs.say = say;
    const act = (ask) => ask().catch((error) => this.#say(error.message, true));
    this.#downloads = new DownloadsSection(this.downloads, act, () => this.needs.check);
    this.needs.begun = () => this.#downloads.element.scrollIntoView({ block: "nearest" });
    const scroll = make("div", { className: "mm-scroll" }, [
      parts.notices,
      section("Versions", [], [parts.versions, parts.sharing]),
      section("Memory", [], [parts.memory]),
      section("Loaded models", [parts.freeVram, free], [parts.loaded]),
      this.#downloads.element,
      this.needs.element,
      this.#files.element,
    ]);
    // What happened is told below, where words that come and go move nothing.
    this.replaceChildren(style, scroll, parts.status);
    // ComfyUI's single-key shortcuts would fire while a button here has the focus.
    this.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && !event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
    });
  }

  async #tick() {
    if (document.visibilityState === "visible") {
      await this.#refreshStatus();
      await this.downloads.refresh().catch(() => {}); // begun elsewhere
    }
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
    showRows(loaded, models, (model) => this.#loadedRow(model), free, NOTHING_LOADED);
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

  /** A file came: say so, and let everything that lists files look again. */
  async #fileCame(row) {
    this.#say(`${row.name} is here.`);
    await Promise.all([this.#files.refresh(), this.needs.again()]);
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

/** Show what a person should know at once; what is said already stays, and is not announced again. */
function showNotices(box, notices) {
  const shown = [...box.children].map((row) => row.textContent);
  box.hidden = !notices.length;
  if (notices.join("\n") === shown.join("\n")) return;
  box.replaceChildren(...notices.map((text) => make("div", { className: "mm-notice", textContent: text })));
}
