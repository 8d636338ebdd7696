// Bytes to words, as the server's reports write them: 1 GB is 1024^3 bytes.

const MB = 1024 ** 2;
const GB = 1024 ** 3;

export function formatBytes(count) {
  if (count == null) return "unknown";
  if (count >= GB - MB / 2) return `${(count / GB).toFixed(1)} GB`;
  if (count >= 10 * MB) return `${(count / MB).toFixed(0)} MB`;
  if (count >= MB) return `${(count / MB).toFixed(1)} MB`;
  if (count >= 1024) return `${(count / 1024).toFixed(0)} KB`;
  return `${count} bytes`;
}

export function formatDuration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** Say where a loaded model is. */
export function placeWords(model) {
  const places = [];
  if (isOnDevice(model)) places.push(`${formatBytes(model.loaded_bytes)} in VRAM (${model.device})`);
  if (model.ram_bytes) places.push(`${formatBytes(model.ram_bytes)} in RAM`);
  if (model.file_bytes) places.push(`${formatBytes(model.file_bytes)} in its file`);
  return `${places.join(", ") || "Nothing in memory yet"} (${model.kind})`;
}

/** Say how long a loaded model rests already, how long it stays, and who else keeps it. */
export function stayWords(model) {
  if (!model.pooled) return "Kept by ComfyUI's cache or another extension, not by Managed Models";
  if (model.busy) return "In use";
  const words = [`Idle ${formatDuration(model.idle_seconds)}`];
  if (model.pinned) words.push("pinned");
  else if (model.expires_in == null) words.push("stays until unloaded");
  else if (model.expires_in > 0) words.push(`stays ${formatDuration(Math.ceil(model.expires_in))}`);
  else words.push("rested long enough");
  if (model.held) words.push("kept by ComfyUI's cache too");
  return words.join(", ");
}

export function isOnDevice(model) {
  return model.device !== "cpu" && model.loaded_bytes > 0;
}
