// Downloads: what the server says of them, and their section in the panel.
import { button, faint, make, section, setHidden, setText, showRows } from "./elements.js";
import { formatBytes, formatDuration } from "./words.js";

const EVERY_MS = 1000;
const ACTIVE = new Set(["queued", "running", "checking"]);
const ENDED = new Set(["done", "failed", "cancelled", "paused"]);

/**
 * The server's downloads, asked for while some run. Tells of a "change", and of a "done" for each file
 * that came (`event.detail`).
 */
export class Downloads extends EventTarget {
  rows = [];
  #timer = 0;
  #awaited = new Set(); // begun, and not seen to end
  #seen = new Set(); // ran while this page was open

  /** @param {import("./service.js").ManagedModelsApi} api */
  constructor(api) {
    super();
    this.api = api;
  }

  /** Take note of downloads that were begun from here, and ask how they are: a small one may be done by now. */
  async began(rows) {
    for (const row of rows) this.#awaited.add(row.id);
    await this.refresh();
  }

  /** The rows to show: what is done is shown by the page that saw it come, what was cancelled by none. */
  shown() {
    return this.rows.filter((row) => row.state !== "cancelled" && (row.state !== "done" || this.#seen.has(row.id)));
  }

  /** Ask now, and go on asking while something runs. */
  async refresh() {
    clearTimeout(this.#timer);
    try {
      this.#take((await this.api.downloads()).downloads);
    } finally {
      clearTimeout(this.#timer);
      if (this.rows.some((row) => ACTIVE.has(row.state))) {
        this.#timer = setTimeout(() => this.refresh().catch(() => {}), EVERY_MS);
      }
    }
  }

  /** Return the rows with these ids once none of them runs any more. */
  async ended(ids) {
    const wanted = new Set(ids);
    const mine = () => this.rows.filter((row) => wanted.has(row.id));
    await this.refresh();
    while (!mine().every((row) => ENDED.has(row.state))) {
      await new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
    }
    return mine();
  }

  #take(rows) {
    for (const row of this.rows) if (ACTIVE.has(row.state)) this.#awaited.add(row.id);
    this.rows = rows;
    const ended = rows.filter((row) => this.#awaited.has(row.id) && ENDED.has(row.state));
    for (const row of ended) {
      this.#awaited.delete(row.id);
      this.#seen.add(row.id);
    }
    this.dispatchEvent(new Event("change"));
    for (const row of ended) {
      if (row.state === "done") this.dispatchEvent(new CustomEvent("done", { detail: row }));
    }
  }
}

/** Say how far a download is. */
export function progressWords(row) {
  const of = row.total_bytes == null ? formatBytes(row.done_bytes) : `${formatBytes(row.done_bytes)} of ${formatBytes(row.total_bytes)}`;
  if (row.state === "queued") return "Waits for its turn";
  if (row.state === "checking") return `${of}, checking`;
  if (row.state === "paused") return `${of}, paused`;
  if (row.state === "done") return `${formatBytes(row.total_bytes ?? row.done_bytes)}, done`;
  if (row.state === "failed") return `${of}, stopped`;
  const speed = row.bytes_per_second ? `, ${formatBytes(row.bytes_per_second)}/s` : "";
  const left = row.seconds_left == null ? "" : `, ${formatDuration(Math.ceil(row.seconds_left))} left`;
  return `${of}${speed}${left}`;
}

/** The section of the panel; there only when there is something to show. */
export class DownloadsSection {
  #list = make("ul", { id: "mm-downloads" });

  /**
   * @param {Downloads} downloads
   * @param {(ask: () => Promise<object>) => Promise<void>} act carries out, and says what went wrong
   * @param {() => HTMLElement} otherwise gets the focus when the last row goes
   */
  constructor(downloads, act, otherwise) {
    this.downloads = downloads;
    this.act = act;
    this.otherwise = otherwise;
    this.element = section("Downloads", [], [this.#list]);
    this.show();
  }

  show() {
    const rows = this.downloads.shown();
    if (rows.length) this.element.hidden = false;
    showRows(this.#list, rows, (row) => new DownloadRow(row, (ask) => this.#ask(row, ask)), this.otherwise());
    setHidden(this.element, !rows.length, this.otherwise());
  }

  async #ask(row, ask) {
    await this.act(() => ask(this.downloads.api));
    await this.downloads.began([row]).catch(() => {});
  }
}

class DownloadRow {
  #words = faint("", "mm-progress");
  #error = make("div", { className: "mm-notice", hidden: true });
  #bar = make("progress", { max: 1 });

  constructor(row, ask) {
    this.pause = button("Pause", () => ask((api) => api.pauseDownload(row.id)), `Pause ${row.name}`);
    this.resume = button("Resume", () => ask((api) => api.resumeDownload(row.id)), `Resume ${row.name}`);
    this.cancel = button("Cancel", () => ask((api) => api.cancelDownload(row.id)), `Cancel ${row.name}`);
    this.pause.title = "Stop for now; what came stays";
    this.cancel.title = "Stop, and delete what came";
    this.#bar.setAttribute("aria-label", `Download of ${row.name}`);
    this.element = make("li", {}, [
      make("div", { className: "mm-name", textContent: row.name }),
      faint(`${row.folder ? `${row.folder}, ` : ""}${hostOf(row.url)}`),
      this.#bar,
      this.#words,
      this.#error,
      make("div", { className: "mm-actions" }, [this.pause, this.resume, this.cancel]),
    ]);
  }

  show(row) {
    setText(this.#words, progressWords(row));
    if (row.total_bytes == null) this.#bar.removeAttribute("value");
    else this.#bar.value = row.total_bytes ? row.done_bytes / row.total_bytes : 1;
    this.#bar.hidden = row.state === "done" || (row.state === "failed" && !row.done_bytes);
    setText(this.#error, row.error ? [row.error.message, row.error.remedy].filter(Boolean).join(" ") : "");
    this.#error.hidden = !row.error;
    const active = ACTIVE.has(row.state);
    const over = row.state === "done";
    const resumable = row.state === "paused" || row.state === "failed";
    const failed = row.state === "failed";
    relabel(this.resume, failed ? "Try again" : "Resume", row.name);
    relabel(this.cancel, failed ? "Dismiss" : "Cancel", row.name);
    if (resumable) this.resume.hidden = false;
    setHidden(this.pause, !active, resumable ? this.resume : this.cancel);
    if (active) this.pause.hidden = false;
    setHidden(this.resume, !resumable, active ? this.pause : this.cancel);
    this.cancel.hidden = over;
  }
}

/** Change what a button says, and with it the name that it has for a screen reader. */
function relabel(element, text, name) {
  setText(element, text);
  const label = `${text} ${name}`;
  if (element.getAttribute("aria-label") !== label) element.setAttribute("aria-label", label);
}

function hostOf(url) {
  try {
    return new URL(url).host;
  } catch {
    return url;
  }
}
