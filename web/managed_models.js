// The extension's entry: registers the sidebar tab and puts each node's report on the node.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ManagedModelsApi } from "./service.js";
import { Downloads } from "./downloads.js";
import { offerOnFirstUse } from "./first_use.js";
import { makePage } from "./page.js";
import { definePanel } from "./panel.js";
import { settings } from "./settings.js";
import { addReportWidget, setAction, showOutput } from "./report_widget.js";
import { swapAction } from "./swap.js";
import { WorkflowNeeds } from "./workflow_needs.js";

const TAB = "managed-models";
const service = new ManagedModelsApi((path, options) => api.fetchApi(path, options));
const NODES = new Set([
  "LoadManagedModel",
  "LoadManagedTextEncoder",
  "LoadManagedVAE",
  "CheckCompatibility",
  "QuantizeModel",
  "MemoryReport",
]);
const SWAP = "managed_models_swap";
// What a node's report offers to do, by node.
const ACTIONS = {
  MemoryReport: {
    label: "Free memory",
    title: "Unload all models and forget ComfyUI's cached results",
    act: () => service.unloadAll(),
  },
};

/** Show what a node returned: its report, and for a check the button for a better variant. */
function showResult(node, output) {
  showOutput(node, output);
  if (node.comfyClass === "CheckCompatibility" && output) setAction(node, swapAction(app, output[SWAP]?.[0]));
}

app.registerExtension({
  name: "managed_models",
  settings: settings(service),

  setup() {
    const page = makePage(app);
    const downloads = new Downloads(service);
    const needs = new WorkflowNeeds({ api: service, page, downloads }); // what it says outlives the panel
    const tag = definePanel({ api: service, events: api, page, downloads, needs });
    downloads.addEventListener("done", () => page.refreshLists().catch(() => {}));
    offerOnFirstUse({ events: api, api: service, page, downloads });
    // The page complains about messages that nobody listens to; this one's line is on the node already.
    api.addEventListener("managed_models.progress", () => {});
    app.extensionManager.registerSidebarTab({
      id: TAB,
      icon: "pi pi-database",
      title: "Managed Models",
      tooltip: "Managed Models: memory, loaded models, what a workflow needs, downloads, versions",
      type: "custom",
      render(container) {
        container.style.height = "100%";
        if (!container.querySelector(tag)) container.replaceChildren(document.createElement(tag));
      },
    });
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.has(nodeData.name)) return;
    const { onNodeCreated, onExecuted } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      addReportWidget(this, ACTIONS[nodeData.name]);
    };
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output);
      showResult(this, output);
    };
  },

  // Called when the page puts stored results back, for example after a switch between workflows.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.rootGraph?.getNodeById(id) ?? app.rootGraph?.getNodeById(Number(id));
      if (node && NODES.has(node.comfyClass)) showResult(node, output);
    }
  },
});
