// The report on a node: a box of text that works in the canvas renderer and in Nodes 2.0.

const WIDGET = "managed_models_report";
const REPORT = "managed_models_report";
const FILES = "managed_models_files";
const MIN_HEIGHT = 120;
const BUTTON_HEIGHT = 34;
const PLACEHOLDER = "The report appears here when the node has run.";

/**
 * Add an empty report box to a node.
 * @param {{label: string, title: string, act: () => Promise<{report: string}>}} [action] a button under the
 *   box; what comes of it is shown above the report
 */
export function addReportWidget(node, action) {
  const box = document.createElement("div");
  box.style.cssText = `position:relative;width:100%;height:100%;min-height:${MIN_HEIGHT}px;overflow:hidden;`;
  // Absolute: content of any length must not make a node of Nodes 2.0 grow without end.
  const text = document.createElement("div");
  text.className = "managed-models-report";
  text.setAttribute("role", "note");
  text.setAttribute("aria-label", "Report");
  text.tabIndex = 0;
  text.style.cssText =
    `position:absolute;inset:0;overflow:auto;padding:6px 8px;box-sizing:border-box;` +
    "white-space:pre-wrap;overflow-wrap:anywhere;user-select:text;cursor:text;" +
    "font:12px/1.45 system-ui,sans-serif;border-radius:6px;" +
    "color:var(--fg-color);background:var(--comfy-input-bg);border:1px solid var(--border-color);";
  const answer = document.createElement("div");
  answer.setAttribute("role", "status");
  const report = document.createElement("div");
  report.textContent = PLACEHOLDER;
  text.append(answer, report);
  keepEvents(text, ["wheel", "pointerdown", "keydown"]);
  box.append(text);
  const widget = node.addDOMWidget(WIDGET, WIDGET, box, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => MIN_HEIGHT + (box.querySelector("button") ? BUTTON_HEIGHT : 0),
  });
  widget.serialize = false;
  widget.reportElement = report;
  widget.answerElement = answer;
  setAction(node, action);
  node.setSize([Math.max(node.size[0], 380), Math.max(node.size[1], node.computeSize()[1] + 60)]);
}

/** Put a button under the report, in place of the one that is there; none takes it away. */
export function setAction(node, action) {
  const widget = node.widgets?.find((w) => w.name === WIDGET);
  if (!widget) return;
  const box = widget.answerElement.closest(".managed-models-report").parentElement;
  const before = box.querySelector("button");
  if ((before?.title ?? null) === (action?.title ?? null)) return; // keeps the focus
  before?.remove();
  if (action) box.append(actionButton(action, widget.answerElement));
  const room = action ? BUTTON_HEIGHT : 0;
  box.style.minHeight = `${MIN_HEIGHT + room}px`;
  box.firstElementChild.style.bottom = `${room}px`;
  if (action && !before) node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
}

function actionButton({ label, title, act }, answer) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: label, title, className: "managed-models-action" });
  button.style.cssText =
    `position:absolute;left:0;bottom:0;height:${BUTTON_HEIGHT - 6}px;padding:0 12px;cursor:pointer;` +
    "font:12px/1 system-ui,sans-serif;border-radius:6px;" +
    "color:var(--input-text);background:var(--comfy-input-bg);border:1px solid var(--border-color);";
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    const words = await act().then((done) => done.report, (error) => error.message);
    answer.textContent = `${words}\n\n`;
    answer.parentElement.scrollTop = 0;
    button.removeAttribute("aria-disabled");
  });
  keepEvents(button, ["pointerdown", "keydown"]);
  return button;
}

/** Keep ComfyUI's canvas and shortcuts from taking what is meant for this element. */
function keepEvents(element, names) {
  for (const name of names) element.addEventListener(name, (event) => event.stopPropagation());
}

/** Fill the box from what the node returned. */
export function showOutput(node, output) {
  const report = output?.[REPORT]?.[0];
  const widget = node.widgets?.find((w) => w.name === WIDGET);
  if (widget && typeof report === "string" && widget.reportElement.textContent !== report) {
    widget.reportElement.textContent = report;
    widget.answerElement.textContent = ""; // older than this report
  }
  // ComfyUI's missing-models dialog reads this from a workflow that was shared.
  const files = output?.[FILES];
  if (Array.isArray(files) && files.length) node.properties.models = files;
}
