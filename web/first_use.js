// When a node asks for a model that is not here: one question, and the workflow runs once the files came.

// A refusal that comes this long after a click on Run belongs to it.
const OURS_MS = 15000;

/**
 * @param {object} parts
 * @param {EventTarget} parts.events ComfyUI's messages
 * @param {import("./service.js").ManagedModelsApi} parts.api
 * @param {ReturnType<import("./page.js").makePage>} parts.page
 * @param {import("./downloads.js").Downloads} parts.downloads
 */
export function offerOnFirstUse({ events, api, page, downloads }) {
  let queuedAt = -Infinity;
  let asking = false;
  // Of a workflow that does not start the server tells every page; only the one that queued it asks.
  events.addEventListener("promptQueueing", () => (queuedAt = performance.now()));
  events.addEventListener("managed_models.missing", async ({ detail }) => {
    if (asking || (detail.validating && performance.now() - queuedAt > OURS_MS)) return;
    asking = true;
    try {
      await offer({ api, page, downloads });
    } catch (error) {
      page.tell("error", "Managed Models", error.message);
    } finally {
      asking = false;
    }
  });
}

async function offer({ api, page, downloads }) {
  const { name, ...document } = await page.currentWorkflow();
  const { offer: question } = await api.needs(document);
  if (!question || !(await page.confirm({ ...question, message: `${question.message} The workflow then runs.` }))) return;
  const { downloads: started, failed, report } = await api.fetchNeeds({ ...document, models: question.models });
  if (failed.length) throw new Error(report);
  page.tell("info", "Managed Models", report);
  await downloads.began(started);
  const ended = await downloads.ended(started.map((row) => row.id));
  const bad = ended.filter((row) => row.state !== "done");
  if (bad.length) throw new Error(bad.map((row) => whyNot(row)).join("\n"));
  await page.refreshLists();
  await page.queue();
}

function whyNot(row) {
  const why = row.error ? [row.error.message, row.error.remedy].filter(Boolean).join(" ") : `it was ${row.state}.`;
  return `${row.name}: ${why}`;
}
