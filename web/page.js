// The one place that knows ComfyUI's page: the workflow it shows, its dialogs, its lists and its queue.
import { chooseInstead } from "./swap.js";

/**
 * @param {object} app ComfyUI's
 */
export function makePage(app) {
  let refreshing = null;
  return {
    /** Return the workflow: its name, how it is saved, and how it would run where that can be told. */
    async currentWorkflow() {
      const workflow = (app.rootGraph ?? app.graph).serialize();
      const name = app.extensionManager.workflow?.activeWorkflow?.filename ?? "";
      try {
        const { output } = await app.graphToPrompt();
        return Object.keys(output).length ? { name, workflow, prompt: output } : { name, workflow };
      } catch {
        return { name, workflow };
      }
    },

    /** Let the nodes that choose `name` choose another file, and say which they were. */
    choose(name, to) {
      return chooseInstead(app, name, to);
    },

    /** Ask a person once; Escape is no. */
    async confirm({ title, message, items }) {
      return (await app.extensionManager.dialog.confirm({ title, message, itemList: items })) === true;
    },

    /** Let the lists of nodes show files that came. */
    refreshLists() {
      refreshing ??= app.refreshComboInNodes().finally(() => (refreshing = null));
      return refreshing; // one for all that wait
    },

    /** Queue what the page shows, as its Run button does. */
    async queue() {
      await app.queuePrompt(0, 1);
    },

    tell(severity, summary, detail) {
      const toast = app.extensionManager.toast;
      toast.add({ severity, summary, detail, life: severity === "error" ? 15000 : 5000 });
    },
  };
}
