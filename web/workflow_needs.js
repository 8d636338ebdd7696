// "This workflow": what it needs, what of that is missing, and one button that gets it.
import { button, empty, faint, make, section, setHidden } from "./elements.js";

const QUESTION = "What does it need?";

export class WorkflowNeeds {
  #list = make("ul", { id: "mm-needs", hidden: true });
  #headline = faint("", "mm-headline");
  #asked = 0;
  #document = null;
  #answer = null;

  /**
   * @param {object} parts
   * @param {import("./service.js").ManagedModelsApi} parts.api
   * @param {ReturnType<import("./page.js").makePage>} parts.page
   * @param {import("./downloads.js").Downloads} parts.downloads
   */
  constructor({ api, page, downloads }) {
    Object.assign(this, { api, page, downloads });
    this.check = button(QUESTION, () => this.refresh(false));
    this.check.title = "List the models that the open workflow uses, and say which are missing";
    this.ask = button("Ask for sizes", () => this.refresh(true));
    this.ask.title = "Fetch the headers of what is missing: how large it is, and whether it suits this machine";
    this.fetch = button("Fetch", () => this.#fetch());
    this.#headline.id = "mm-needs-headline";
    this.#headline.hidden = true;
    this.fetch.hidden = this.ask.hidden = true;
    const below = make("div", { className: "mm-actions" }, [this.fetch, this.ask]);
    this.element = section("This workflow", [this.check], [this.#headline, below, this.#list]);
  }

  /** @type {(text: string, isError?: boolean) => void} where to say what happened */
  say = () => {};

  /** Called when downloads began. */
  begun = () => {};

  /** Ask again, if somebody asked before: a file came. */
  async again() {
    if (this.#answer) await this.refresh(false);
  }

  /** Ask what the open workflow needs. */
  async refresh(ask) {
    const asked = ++this.#asked;
    const { name, ...document } = await this.page.currentWorkflow();
    let answer;
    try {
      answer = await this.api.needs({ ...document, ask });
    } catch (error) {
      this.say(error.message, true);
      return;
    }
    if (asked !== this.#asked) return;
    this.#document = document;
    this.#answer = { ...answer, name };
    this.#show();
  }

  #show() {
    const { details, headline, offer, words, name } = this.#answer;
    this.#headline.textContent = name ? `${name}: ${headline}` : headline;
    this.#headline.hidden = false;
    const models = details.models.map((model, i) => [model, words[i]]);
    models.sort(([a], [b]) => rank(a) - rank(b));
    const rows = models.map(([model, lines]) => needRow(model, lines, (to) => this.#use(model, to)));
    const problems = [...details.refused.map((r) => `Left out: ${r.name || "an entry"}: ${r.reason}`), ...details.problems];
    rows.push(...problems.map((text) => make("li", {}, [faint(text)])));
    this.#list.replaceChildren(...(rows.length ? rows : [empty("No node of it names a model file.")]));
    this.#list.hidden = false;
    if (offer) this.fetch.textContent = offer.label;
    setHidden(this.fetch, !offer, this.check);
    setHidden(this.ask, !details.models.some((m) => m.address && m.status !== "here") || details.asked, this.check);
  }

  async #use(model, to) {
    this.say(this.page.choose(model.name, to));
    await this.refresh(false);
  }

  async #fetch() {
    const offer = this.#answer?.offer;
    if (!offer || !(await this.page.confirm(offer))) return;
    try {
      const { report, failed, downloads } = await this.api.fetchNeeds({ ...this.#document, models: this.#answer.offer.models });
      this.say(report, failed.length > 0);
      await this.downloads.began(downloads);
      this.begun();
    } catch (error) {
      this.say(error.message, true);
    }
  }
}

/** What is missing comes first, what is off last. */
function rank(model) {
  return !model.active ? 2 : model.status === "here" ? 1 : 0;
}

function needRow(model, [title, ...lines], use) {
  const missing = model.active && model.status !== "here";
  const instead = missing ? model.alternatives.filter((other) => other.folder === model.folder) : [];
  const mark = missing ? "Missing" : model.active ? "Here" : "Off";
  return make("li", { className: missing ? "mm-missing" : "" }, [
    make("div", { className: "mm-row" }, [
      make("span", { className: "mm-name", textContent: title }),
      make("span", { className: "mm-figure mm-mark", textContent: mark }),
    ]),
    ...lines.map((line) => faint(line, "mm-line")),
    make("div", { className: "mm-actions", hidden: !instead.length }, instead.map((other) => {
      const choose = button(`Use ${other.name}`, () => use(other.name), `Use ${other.name} instead of ${model.name}`);
      choose.title = "Choose it in every node of this workflow that chooses the missing file";
      return choose;
    })),
  ]);
}
