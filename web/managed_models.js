// The extension's entry: registers the sidebar tab and puts each node's report on the node.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ManagedModelsApi } from "./service.js";
import { definePanel } from "./panel.js";
import { addReportWidget, showOutput } from "./report_widget.js";

const TAB = "managed-models";
const NODES = new Set(["LoadManagedModel", "CheckCompatibility", "QuantizeModel", "MemoryReport"]);

app.registerExtension({
  name: "managed_models",

  setup() {
    const tag = definePanel(new ManagedModelsApi((path, options) => api.fetchApi(path, options)), api);
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
      addReportWidget(this);
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
