"use strict";
// What the pages that collect corrections share: elements, and the file that they write.
const $ = (id) => document.getElementById(id);
function node(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}
function csv_value(text) {
  // A leading = + - @ would be a formula to a spreadsheet.
  const safe = /^'*[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\n\r]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}
// Rows with image_id and path; given(row) is the label before.
function corrections_csv(rows, given, state, sha256) {
  const columns = ["image_id", "path", "given", "decision", "label", "by", "at", "queue_sha256"];
  const lines = rows.filter((row) => state.decided[row.image_id]).map((row) => {
    const made = state.decided[row.image_id];
    return [row.image_id, row.path, given(row), made.decision, made.label, state.by, made.at,
      sha256].map((value) => csv_value(String(value))).join(",");
  });
  return [columns.join(","), ...lines].join("\n") + "\n";
}
function download_corrections(state, csv, unnamed) {
  if (!state.by) {
    $("say").textContent = unnamed;
    $("by").focus();
    return;
  }
  const n = Object.keys(state.decided).length;
  if (!n) { $("say").textContent = "Nothing is decided yet."; return; }
  const link = node("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  $("say").textContent = n + " decisions written to corrections.csv.";
}
