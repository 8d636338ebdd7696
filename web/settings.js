// Settings in ComfyUI's dialog. ComfyUI keeps them in its own file, which the server reads when it
// starts; a change is also told to the running server.

const GROUP = "Managed Models";

/** @param {import("./service.js").ManagedModelsApi} api */
export function settings(api) {
  const tell = (name, convert = (value) => value) => (value, before) => {
    if (before === undefined || value === before) return; // the page puts the stored value in place
    api.changeSettings({ [name]: convert(value) }).catch((error) => console.error("Managed Models:", error.message));
  };
  return [
    {
      id: "managed_models.share_stock_loaders",
      category: [GROUP, "Memory", "Share with ComfyUI's own loaders"],
      name: "Share models with ComfyUI's own loaders",
      tooltip:
        "Workflows without a node of ours keep their models in memory when you switch between them. " +
        "auto: on where that was measured to hold (on a CPU, ComfyUI 0.33), off elsewhere. " +
        "ComfyUI then hashes each node's ancestry, about 5 ms per node with 30 ancestors. " +
        "Not possible with --cache-none.",
      type: "combo",
      options: ["auto", "on", "off"],
      defaultValue: "auto",
      onChange: tell("share_stock_loaders"),
    },
    {
      id: "managed_models.max_ram_gb",
      category: [GROUP, "Memory", "RAM for models"],
      name: "RAM for models, GB (0: automatic)",
      tooltip:
        "The least recently used models go when all together take more. Automatic: all RAM but twice what " +
        "ComfyUI wants to see free.",
      type: "number",
      defaultValue: 0,
      attrs: { min: 0, step: 1 },
      onChange: tell("max_ram_gb", (value) => (value > 0 ? value : null)),
    },
    {
      id: "managed_models.vram_reserve_gb",
      category: [GROUP, "Memory", "VRAM for others"],
      name: "VRAM for other programs, GB",
      tooltip: "Idle models leave video memory when another program needs it and less than this is free.",
      type: "number",
      defaultValue: 0,
      attrs: { min: 0, step: 0.5 },
      onChange: tell("vram_reserve_gb", (value) => (value > 0 ? value : null)),
    },
    {
      id: "managed_models.keep_alive",
      category: [GROUP, "Memory", "Keep alive"],
      name: "How long an idle model stays",
      tooltip: "For models that no node of ours gave a time: 0, 30s, 5m, 1h or forever.",
      type: "combo",
      options: ["0", "30s", "5m", "30m", "1h", "forever"],
      defaultValue: "5m",
      onChange: tell("keep_alive"),
    },
    {
      id: "managed_models.auto_download",
      category: [GROUP, "Downloads", "Fetch missing models"],
      name: "Fetch missing models when a workflow runs",
      tooltip:
        "A loader of Managed Models then downloads a model that is not here, from where you, or ComfyUI's own " +
        "templates, say it is. Off: the page asks first.",
      type: "boolean",
      defaultValue: false,
      onChange: tell("auto_download"),
    },
  ];
}
