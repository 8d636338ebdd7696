// Putting another file in place of the one that the nodes of a workflow choose.

// Which widget names the file, by node, and the folder that its list is of (ours list several).
const CHOICES = {
  CheckCompatibility: { widget: "model_name" },
  LoadManagedModel: { widget: "model_name" },
  UNETLoader: { widget: "unet_name", folder: "diffusion_models" },
  CheckpointLoaderSimple: { widget: "ckpt_name", folder: "checkpoints" },
};

/**
 * Return what a report's button does for the better variant that a check found.
 * @param {{folder: string, from: string, from_option: string, to: string, to_option: string}} [swap]
 */
export function swapAction(app, swap) {
  if (!swap) return null;
  return {
    label: `Use ${swap.to_option}`,
    title: `Choose ${swap.to_option} in every node of this workflow that chooses ${swap.from_option}`,
    act: async () => ({ report: words(swap, swapChoice(app, swap)) }),
  };
}

/** Change the widgets that choose the file, as one step of the page's own undo; return which they were. */
export function swapChoice(app, swap) {
  return changeWidgets(app, (node) => {
    const widget = choosingWidget(node, swap);
    return widget && [widget, CHOICES[node.comfyClass].folder ? swap.to : swap.to_option];
  });
}

/** Change the widgets that `choose` returns with their new values; return which they were. */
function changeWidgets(app, choose) {
  const changed = [];
  app.canvas?.emitBeforeChange?.();
  try {
    for (const node of allNodes(app.rootGraph ?? app.graph)) {
      const [widget, value] = choose(node) ?? [];
      if (!widget) continue;
      widget.value = value;
      widget.callback?.(value, app.canvas, node);
      changed.push({ title: node.title ?? node.comfyClass, widget: widget.name });
    }
  } finally {
    app.canvas?.emitAfterChange?.();
  }
  app.canvas?.setDirty?.(true, true);
  return changed;
}

/**
 * Let every list of the workflow that has `name` chosen, which is not here, choose `to` instead, as one step of
 * the page's own undo; say which they were.
 */
export function chooseInstead(app, name, to) {
  const changed = changeWidgets(app, (node) => {
    const widget = node.widgets?.find((w) => w.type === "combo" && plain(w.value) === plain(name));
    const input = node.inputs?.find((i) => i.widget?.name === widget?.name);
    return widget && input?.link == null ? [widget, to] : undefined;
  });
  return words({ from_option: name, to_option: to }, changed);
}

/** Return the widget with which this node chooses the file; a value that comes over a link is left alone. */
function choosingWidget(node, swap) {
  const choice = CHOICES[node.comfyClass];
  if (!choice || (choice.folder && choice.folder !== swap.folder)) return undefined;
  const input = node.inputs?.find((i) => i.widget?.name === choice.widget || i.name === choice.widget);
  if (input?.link != null) return undefined;
  const names = choice.folder ? [swap.from] : [swap.from, swap.from_option, `${swap.folder}/${swap.from}`];
  const wanted = new Set(names.map(plain));
  return node.widgets?.find((w) => w.name === choice.widget && wanted.has(plain(w.value)));
}

function plain(name) {
  return String(name).replaceAll("\\", "/");
}

function* allNodes(graph) {
  if (!graph) return;
  yield* graph.nodes ?? [];
  for (const subgraph of graph.subgraphs?.values() ?? []) yield* subgraph.nodes ?? [];
}

function words(swap, changed) {
  if (!changed.length) return `No node of this workflow chooses ${swap.from_option} by its name.`;
  const where = changed.map(({ title, widget }) => `${widget} of ${title}`).join(", ");
  return `Now ${swap.to_option}: ${where}. Ctrl+Z undoes it; run the workflow to check again.`;
}
