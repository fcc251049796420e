// A sheet of cells by class; decisions live in localStorage under the sheet's hash.
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const key = "leukoscope-cells-" + sheet.sha256;
const titles = Object.fromEntries(sheet.classes.map((c) => [c.name, c.title]));
let state = { decided: {}, order: [], by: "" };
let kept = true;

function load() {
  try {
    state = Object.assign(state, JSON.parse(localStorage.getItem(key) || "{}"));
  } catch (error) { kept = false; }
}
function save() {
  try { localStorage.setItem(key, JSON.stringify(state)); } catch (error) { kept = false; }
}
// What holds of a cell: decided here, else in the files that the count was given, else nothing.
function made(cell) {
  const here = state.decided[cell.image_id];
  if (here) return here;
  if (cell.excluded) return { decision: "exclude", label: "" };
  if (!cell.corrected) return null;
  const same = cell.corrected === cell.predicted;
  return { decision: same ? "keep" : "other", label: cell.corrected };
}
function counted(cell) {
  const one = made(cell);
  if (one && one.decision === "exclude") return null;
  if (one && one.decision !== "unsure") return one.label;
  return cell.decision === "reject" ? null : cell.predicted;
}
function choose(cell, value) {
  const at = new Date().toISOString();
  const one = { at, label: cell.predicted, decision: value };
  if (value.startsWith("class ")) {
    one.label = value.slice(6);
    one.decision = one.label === cell.predicted ? "keep" : "other";
  }
  if (value === "exclude") one.label = "";
  return one;
}
function decide(changes) {
  const before = changes.map(([cell]) => [cell.image_id, state.decided[cell.image_id] || null]);
  state.order.push(before);
  changes.forEach(([cell, value]) => { state.decided[cell.image_id] = choose(cell, value); });
  save();
  sheet.cells.forEach(show); // copies of one picture follow
  tally();
}
function undo() {
  const last = state.order.pop();
  if (!last) return;
  last.forEach(([id, before]) => {
    if (before) state.decided[id] = before;
    else delete state.decided[id];
  });
  save();
  sheet.cells.forEach(show);
  tally();
}
const tiles = new Map();
function show(cell) {
  const { box, select } = tiles.get(cell);
  const one = made(cell);
  box.className = "cell" + (!one || one.decision === "unsure" ? ""
    : one.decision === "keep" ? " kept" : " changed");
  select.value = !one ? "unsure" : one.decision === "exclude" ? "exclude"
    : one.decision === "unsure" ? "unsure" : "class " + one.label;
}
function option(value, text) {
  const found = node("option", text);
  found.value = value;
  return found;
}
function tile(cell) {
  const box = node("div", undefined, "cell");
  if (cell.picture) {
    const image = node("img");
    image.src = cell.picture;
    image.alt = "Cell " + cell.image_id;
    image.title = cell.path;
    image.loading = "lazy";
    box.append(image);
  } else box.append(node("span", "no picture: " + cell.path, "missing"));
  box.append(node("span", cell.p.toFixed(2), "p"));
  const select = node("select");
  select.setAttribute("aria-label", "Class of cell " + cell.image_id);
  select.append(option("unsure", "not decided"));
  select.append(option("class " + cell.predicted, "✓ " + titles[cell.predicted]));
  sheet.classes.forEach((c) => {
    if (c.name !== cell.predicted) select.append(option("class " + c.name, c.title));
  });
  select.append(option("exclude", "none of these"));
  select.addEventListener("change", () => decide([[cell, select.value]]));
  box.append(select);
  tiles.set(cell, { box, select });
  return box;
}
function group(title, cells, all) {
  if (!cells.length) return;
  const head = node("div", undefined, "head");
  head.append(node("h2", title + " (" + cells.length + ")"));
  if (all) {
    const button = node("button", "All that are not decided are right", "act");
    button.type = "button";
    button.addEventListener("click", () => {
      const open = cells.filter((cell) => !made(cell) || made(cell).decision === "unsure");
      if (open.length) decide(open.map((cell) => [cell, "class " + cell.predicted]));
    });
    head.append(button);
  }
  const grid = node("div", undefined, "cells");
  cells.forEach((cell) => grid.append(tile(cell)));
  $("groups").append(head, grid);
}
function tally() {
  const names = sheet.cells.map(counted).filter((name) => name !== null);
  const items = sheet.classes.map((c) => {
    const n = names.filter((name) => name === c.name).length;
    const item = node("li", c.title + " ");
    const share = names.length ? Math.round(100 * n / names.length) : 0;
    item.append(node("b", n + " (" + share + " %)"));
    return item;
  });
  $("tally").replaceChildren(...items);
  const done = sheet.cells.filter((cell) => {
    const one = made(cell);
    return one && one.decision !== "unsure";
  }).length;
  $("count").textContent = done + " of " + sheet.cells.length + " decided, "
    + names.length + " counted";
  $("stored").hidden = kept;
}
function save_file() {
  const csv = () => corrections_csv(sheet.cells, (cell) => cell.predicted, state, sheet.sha256);
  download_corrections(state, csv, "Name the reviewer first: the corrections say who made them.");
}
const surest = (a, b) => a.p - b.p;
sheet.classes.forEach((c) => {
  const cells = sheet.cells.filter((x) => x.decision !== "reject" && x.predicted === c.name);
  group(c.title, cells.sort(surest), true);
});
group("Not counted: unlike what the model was trained on",
  sheet.cells.filter((x) => x.decision === "reject").sort(surest), false);
$("undo").addEventListener("click", undo);
$("export").addEventListener("click", save_file);
$("by").addEventListener("input", () => { state.by = $("by").value.trim(); save(); });
load();
$("by").value = state.by;
sheet.cells.forEach(show);
tally();
