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
