// The extension's entry: registers the sidebar tab and puts each node's report on the node.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ManagedModelsApi } from "./service.js";
import { definePanel } from "./panel.js";
import { memorySettings } from "./settings.js";
import { addReportWidget, showOutput } from "./report_widget.js";

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
// What a node's report offers to do, by node.
const ACTIONS = {
  MemoryReport: {
    label: "Free memory",
    title: "Unload all models and forget ComfyUI's cached results",
    act: () => service.unloadAll(),
  },
};

app.registerExtension({
  name: "managed_models",
  settings: memorySettings(service),

  setup() {
    const tag = definePanel(service, api);
    app.extensionManager.registerSidebarTab({
      id: TAB,
      icon: "pi pi-database",
      title: "Managed Models",
      tooltip: "Managed Models: memory, loaded models, versions",
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
      showOutput(this, output);
    };
  },

  // Called when the page puts stored results back, for example after a switch between workflows.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.rootGraph?.getNodeById(id) ?? app.rootGraph?.getNodeById(Number(id));
      if (node && NODES.has(node.comfyClass)) showOutput(node, output);
    }
  },
});
