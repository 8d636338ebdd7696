// The one place that talks to the server. Errors carry the server's own words.

export class ManagedModelsApi {
  /** @param {(path: string, options?: RequestInit) => Promise<Response>} fetchApi */
  constructor(fetchApi) {
    this.fetchApi = fetchApi;
  }

  status() {
    return this.#ask("/managed-models/status");
  }

  /** A page of the model files, and how many fit in all. */
  models({ q = "", offset = 0, limit = 50 } = {}) {
    return this.#ask(`/managed-models/models?${new URLSearchParams({ q, offset, limit })}`);
  }

  /** What a workflow needs: `{workflow, prompt, ask}`. */
  needs(body) {
    return this.#send("/managed-models/needs", body);
  }

  /** Begin to download what is missing of `models`: `{workflow, prompt, models}`. */
  fetchNeeds(body) {
    return this.#send("/managed-models/needs/fetch", body);
  }

  /** Get a corrupt file again, from where it came. */
  fetchAgain(folder, name) {
    return this.#send("/managed-models/fetch-again", { folder, name });
  }

  downloads() {
    return this.#ask("/managed-models/downloads");
  }

  pauseDownload(id) {
    return this.#send("/managed-models/download/pause", { id });
  }

  resumeDownload(id) {
    return this.#send("/managed-models/download/resume", { id });
  }

  cancelDownload(id) {
    return this.#send("/managed-models/download/cancel", { id });
  }

  unload(id, vramOnly = false) {
    return this.#send("/managed-models/unload", { id, vram_only: vramOnly });
  }

  unloadAll(vramOnly = false) {
    return this.#send("/managed-models/unload", { all: true, vram_only: vramOnly });
  }

  pin(id, pinned) {
    return this.#send("/managed-models/pin", { id, pinned });
  }

  changeSettings(changes) {
    return this.#send("/managed-models/settings", changes);
  }

  #send(path, body) {
    return this.#ask(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Managed-Models": "1" },
      body: JSON.stringify(body),
    });
  }

  async #ask(path, options) {
    let response;
    try {
      response = await this.fetchApi(path, options);
    } catch {
      throw new Error("ComfyUI does not answer. Is the server running?");
    }
    const body = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(body.error?.message ?? `The server answered ${response.status}.`);
    return body;
  }
}
