// The report on a node: a box of text that works in the canvas renderer and in Nodes 2.0.

const WIDGET = "managed_models_report";
const REPORT = "managed_models_report";
const FILES = "managed_models_files";
const MIN_HEIGHT = 120;
const PLACEHOLDER = "The report appears here when the node has run.";

/** Add an empty report box to a node. */
export function addReportWidget(node) {
  const box = document.createElement("div");
  box.style.cssText = `position:relative;width:100%;height:100%;min-height:${MIN_HEIGHT}px;overflow:hidden;`;
  // Absolute: content of any length must not make a node of Nodes 2.0 grow without end.
  const text = document.createElement("div");
  text.className = "managed-models-report";
  text.setAttribute("role", "note");
  text.setAttribute("aria-label", "Report");
  text.tabIndex = 0;
  text.style.cssText =
    "position:absolute;inset:0;overflow:auto;padding:6px 8px;box-sizing:border-box;" +
    "white-space:pre-wrap;overflow-wrap:anywhere;user-select:text;cursor:text;" +
    "font:12px/1.45 system-ui,sans-serif;border-radius:6px;" +
    "color:var(--fg-color);background:var(--comfy-input-bg);border:1px solid var(--border-color);";
  text.textContent = PLACEHOLDER;
  for (const event of ["wheel", "pointerdown", "keydown"]) {
    text.addEventListener(event, (e) => e.stopPropagation());
  }
  box.append(text);
  const widget = node.addDOMWidget(WIDGET, WIDGET, box, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => MIN_HEIGHT,
  });
  widget.serialize = false;
  widget.reportElement = text;
  node.setSize([Math.max(node.size[0], 380), Math.max(node.size[1], node.computeSize()[1] + 60)]);
}

/** Fill the box from what the node returned. */
export function showOutput(node, output) {
  const report = output?.[REPORT]?.[0];
  const widget = node.widgets?.find((w) => w.name === WIDGET);
  if (widget && typeof report === "string") widget.reportElement.textContent = report;
  // ComfyUI's missing-models dialog reads this from a workflow that was shared.
  const files = output?.[FILES];
  if (Array.isArray(files) && files.length) node.properties.models = files;
}
