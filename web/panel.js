// The sidebar tab: versions, memory live, loaded models, and every model file.
import { formatBytes } from "./words.js";

const TAG = "managed-models-panel";
const EVERY_MS = 2000;

const STYLE = `
${TAG} { display:flex; flex-direction:column; gap:14px; height:100%; box-sizing:border-box; padding:12px;
  overflow:auto; color:var(--fg-color); font:13px/1.45 system-ui,sans-serif; }
${TAG} h3 { margin:0 0 6px; font-size:13px; font-weight:600; }
${TAG} .mm-faint { color:color-mix(in srgb, var(--fg-color) 72%, var(--comfy-menu-bg)); font-size:12px; }
${TAG} .mm-row { display:flex; gap:8px; align-items:center; justify-content:space-between; }
${TAG} .mm-name { overflow-wrap:anywhere; min-width:0; }
${TAG} ul { list-style:none; margin:0; padding:0; display:flex; flex-direction:column; gap:8px; }
${TAG} li { border:1px solid var(--border-color); border-radius:6px; padding:6px 8px; }
${TAG} progress { width:100%; height:8px; accent-color:#56b4e9; }
${TAG} button, ${TAG} input { font:inherit; color:var(--input-text); background:var(--comfy-input-bg);
  border:1px solid var(--border-color); border-radius:6px; padding:3px 10px; }
${TAG} button { cursor:pointer; flex:none; }
${TAG} button:hover { background:var(--interface-panel-hover-surface, var(--comfy-input-bg)); }
${TAG} button:focus-visible, ${TAG} input:focus-visible { outline:2px solid #56b4e9; outline-offset:1px; }
${TAG} button:disabled { opacity:.6; cursor:default; }
${TAG} input { width:100%; box-sizing:border-box; margin-bottom:8px; }
${TAG} .mm-error { color:var(--error-text); }
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
      memory: make("div", { id: "mm-memory" }),
      loaded: make("ul", { id: "mm-loaded" }),
      search: make("input", { type: "search", placeholder: "Filter by name or folder" }),
      files: make("ul", { id: "mm-files" }),
      status: make("div", { className: "mm-faint" }),
    };
    this.#parts = parts;
    parts.search.setAttribute("aria-label", "Filter model files");
    parts.search.addEventListener("input", () => this.#showFiles());
    parts.status.setAttribute("role", "status");
    const free = button("Free everything", () => this.#freeAll());
    free.title = "Unload all models and forget ComfyUI's cached results";
    const again = button("Refresh", () => this.#refreshFiles());
    again.setAttribute("aria-label", "Refresh model files");
    this.replaceChildren(
      style,
      parts.status,
      section("Versions", parts.versions),
      section("Memory", parts.memory),
      section("Loaded models", parts.loaded, free),
      section("Model files", make("div", {}, [parts.search, parts.files]), again),
    );
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
    try {
      this.#showStatus(await this.api.status());
      if (this.#parts.status.classList.contains("mm-error")) this.#say("");
    } catch (error) {
      this.#say(error.message, true);
    }
  }

  #showStatus({ version, system, memory }) {
    const { versions, memory: bars, loaded } = this.#parts;
    versions.textContent = [
      `ComfyUI ${system.comfyui_version ?? "unknown"}`,
      `PyTorch ${system.pytorch_version ?? "none"}`,
      system.cuda_available ? `CUDA ${system.cuda_version}` : "no CUDA in use",
      `Managed Models ${version}`,
    ].join(", ");
    const rows = memory.devices.map((device) => {
      const used = device.free_bytes == null ? null : device.total_bytes - device.free_bytes;
      return meter(`VRAM, ${device.name}`, used, device.total_bytes);
    });
    if (!rows.length) rows.push(make("div", { className: "mm-faint", textContent: "VRAM: no GPU in use, models run in RAM" }));
    const { total_bytes: total, available_bytes: available } = memory.ram;
    rows.push(meter("RAM", total - available, total));
    bars.replaceChildren(...rows);
    showLoaded(loaded, memory.models, (model) => this.#unload(model));
  }

  async #unload(model) {
    try {
      const result = await this.api.unload(model.id);
      const left = result.still_in_ram_bytes
        ? ` ${formatBytes(result.still_in_ram_bytes)} stay in RAM while ComfyUI's cache holds the model: "Free everything" lets go of them.`
        : "";
      const given = model.device === "cpu" ? "unloaded." : `${formatBytes(result.freed_bytes)} of VRAM given back.`;
      this.#say(`${model.title}: ${given}${left}`);
    } catch (error) {
      this.#say(error.message, true);
    }
    await this.#refreshStatus();
  }

  async #freeAll() {
    try {
      await this.api.unloadAll();
      this.#say("All models and cached results are let go of as soon as no prompt runs.");
    } catch (error) {
      this.#say(error.message, true);
    }
    await this.#refreshStatus();
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
    this.#parts.status.textContent = text;
    this.#parts.status.classList.toggle("mm-error", isError);
  }
}

/** Show the loaded models, keeping rows that are still true, so that a focused button stays focused. */
function showLoaded(list, models, unload) {
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const next = models.map((model) => {
    const row = rows.get(model.id) ?? loadedRow(model, unload);
    const vram = model.device === "cpu" ? "" : `${formatBytes(model.loaded_bytes)} on ${model.device}, `;
    row.querySelector(".mm-faint").textContent =
      `${vram}${formatBytes(model.ram_bytes)} in RAM (${model.kind})`;
    return row;
  });
  const wanted = next.length ? next : [empty("None. Models appear here when a workflow has used them.")];
  const same = wanted.length === list.children.length && wanted.every((row, i) => row === list.children[i]);
  if (!same) list.replaceChildren(...wanted);
}

function loadedRow(model, unload) {
  const action = button("Unload", async () => {
    action.disabled = true;
    await unload(model);
    action.disabled = false;
  });
  action.setAttribute("aria-label", `Unload ${model.title}`);
  const row = make("li", {}, [
    make("div", { className: "mm-row" }, [make("div", { className: "mm-name", textContent: model.title }), action]),
    make("div", { className: "mm-faint" }),
  ]);
  row.dataset.id = model.id;
  return row;
}

function meter(label, used, total) {
  const words = used == null ? `${formatBytes(total)}, use unknown` : `${formatBytes(used)} of ${formatBytes(total)}`;
  const bar = make("progress", { max: total, value: used ?? 0 });
  bar.setAttribute("aria-label", `${label}: ${words}`);
  return make("div", {}, [
    make("div", { className: "mm-row" }, [
      make("span", { className: "mm-name", textContent: label }),
      make("span", { className: "mm-faint", textContent: words }),
    ]),
    bar,
  ]);
}

function section(title, content, action) {
  const heading = make("h3", { textContent: title });
  const head = action ? make("div", { className: "mm-row" }, [heading, action]) : heading;
  return make("section", {}, [head, content]);
}

function empty(text) {
  return make("div", { className: "mm-faint", textContent: text });
}

function button(text, onClick) {
  const element = make("button", { type: "button", textContent: text });
  element.addEventListener("click", onClick);
  return element;
}

function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
