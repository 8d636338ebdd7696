// Every model file, a page at a time: the server searches.
import { button, empty, faint, make, section, setHidden } from "./elements.js";
import { formatBytes } from "./words.js";

const PAGE = 50;
const WAIT_MS = 200;

export class FilesSection {
  #search = make("input", { type: "search", placeholder: "Search by name or folder" });
  #list = make("ul", { id: "mm-files" });
  #count = faint("", "mm-count");
  #files = [];
  #asked = 0;
  #timer = 0;

  /**
   * @param {object} parts
   * @param {import("./service.js").ManagedModelsApi} parts.api
   * @param {ReturnType<import("./page.js").makePage>} parts.page
   * @param {import("./downloads.js").Downloads} parts.downloads
   * @param {(text: string, isError?: boolean) => void} parts.say
   */
  constructor({ api, page, downloads, say }) {
    Object.assign(this, { api, page, downloads, say });
    this.#search.setAttribute("aria-label", "Search model files");
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.refresh(), WAIT_MS);
    });
    const again = button("Refresh", () => this.refresh(), "Refresh model files");
    this.more = button("Show more", () => this.#load(this.#files.length));
    this.more.hidden = true;
    this.element = section("Model files", [again], [this.#search, this.#list, this.#count, this.more]);
  }

  /** Ask for what is shown once more, as much of it as is shown. */
  refresh() {
    return this.#load(0, Math.max(PAGE, Math.min(200, this.#files.length)));
  }

  async #load(offset, limit = PAGE) {
    const asked = ++this.#asked;
    try {
      const { models, total = models.length } = await this.api.models({ q: this.#search.value.trim(), offset, limit });
      if (asked !== this.#asked) return; // somebody typed on
      this.#files = offset ? [...this.#files, ...models] : models;
      this.#show(total);
    } catch (error) {
      this.say(error.message, true);
    }
  }

  #show(total) {
    const rows = this.#files.map((file) => this.#row(file));
    const none = this.#search.value.trim() ? "No file fits." : "No model files yet: put some into ComfyUI's models folder.";
    this.#list.replaceChildren(...(rows.length ? rows : [empty(none)]));
    const left = total - this.#files.length;
    this.#count.textContent = left > 0 ? `${this.#files.length} of ${total} files` : "";
    setHidden(this.more, left <= 0, this.#search);
  }

  #row(file) {
    const version = `Version ${file.version_words}`;
    const upgrade = file.upgrade ? `, newer: ${file.upgrade}` : "";
    const row = make("li", { title: file.upgrade_words }, [
      make("div", { className: "mm-name", textContent: file.name }),
      faint(`${file.folder}, ${formatBytes(file.size_bytes)}, ${version}${upgrade}`),
    ]);
    if (file.health === "damaged") {
      row.append(make("div", { className: "mm-notice", textContent: file.health_words }));
      row.append(make("div", { className: "mm-actions" }, [this.#again(file)]));
    }
    return row;
  }

  #again(file) {
    const again = button("Fetch again", async () => {
      try {
        const { report, download } = await this.api.fetchAgain(file.folder, file.name);
        this.say(report);
        await this.downloads.began([download]);
      } catch (error) {
        this.say(error.message, true);
      }
    }, `Fetch ${file.name} again`);
    again.title = "Download it from where it came; the damaged file stays until the new one is whole";
    return again;
  }
}
