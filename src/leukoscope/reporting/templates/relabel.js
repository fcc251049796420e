// Steps through a queue of images; decisions live in localStorage under the queue's hash.
const queue = JSON.parse(document.getElementById("queue").textContent);
const key = "leukoscope-relabel-" + queue.sha256;
const titles = Object.fromEntries(queue.classes.map((c) => [c.name, c.title]));
const pictures = Object.fromEntries(queue.rows.map((row) => [row.path, row.picture]));
let state = { decided: {}, order: [], by: "" };
let at = 0;
let kept = true;

function load() {
  try {
    state = Object.assign(state, JSON.parse(localStorage.getItem(key) || "{}"));
  } catch (error) { kept = false; }
  const first = shown().findIndex((row) => !state.decided[row.image_id]);
  at = first < 0 ? 0 : first;
}
function save() {
  try { localStorage.setItem(key, JSON.stringify(state)); } catch (error) { kept = false; }
}
function shown() {
  const list = $("list").value;
  return list === "all" ? queue.rows : queue.rows.filter((row) => row.list === list);
}
function decide(decision, label) {
  const row = shown()[at];
  if (!row) return;
  state.order.push([row.image_id, state.decided[row.image_id] || null]);
  state.decided[row.image_id] = { decision, label, at: new Date().toISOString() };
  save();
  const rows = shown();
  const open = (other) => !state.decided[other.image_id];
  const next = rows.findIndex((other, i) => i > at && open(other));
  at = next >= 0 ? next : Math.max(0, rows.findIndex(open) >= 0 ? rows.findIndex(open) : at);
  draw();
}
function undo() {
  const last = state.order.pop();
  if (!last) return;
  const [id, before] = last;
  if (before) state.decided[id] = before;
  else delete state.decided[id];
  save();
  if (!shown().some((row) => row.image_id === id)) $("list").value = "all";
  at = shown().findIndex((row) => row.image_id === id);
  draw();
}
function move(step) {
  at = Math.min(Math.max(at + step, 0), Math.max(shown().length - 1, 0));
  draw();
}
function accept() { const row = shown()[at]; if (row) decide("accept", row.suggested); }
function keep() { const row = shown()[at]; if (row) decide("keep", row.given); }
function unsure() { const row = shown()[at]; if (row) decide("unsure", row.given); }
function other(number) {
  const chosen = queue.classes[number];
  const row = shown()[at];
  if (!chosen || !row) return;
  if (chosen.name === row.given) keep();
  else if (chosen.name === row.suggested) accept();
  else decide("other", chosen.name);
}
function bars(row) {
  const table = $("bars");
  table.replaceChildren();
  queue.classes.forEach((c, i) => {
    const p = row.probabilities ? row.probabilities[c.name] : undefined;
    const button = node("button", undefined, "bar");
    button.type = "button";
    button.append(node("kbd", String(i + 1)), node("span", c.title, "name"));
    const meter = node("span", undefined, "meter");
    const fill = node("span");
    fill.style.width = (100 * (p || 0)).toFixed(1) + "%";
    meter.append(fill);
    button.append(meter, node("span", p === undefined ? "—" : p.toFixed(2), "p"));
    const tags = [];
    if (c.name === row.given) tags.push("given");
    if (c.name === row.suggested) tags.push("suggested");
    button.append(node("span", tags.join(", "), "tag"));
    button.setAttribute("aria-label", "Label it " + c.title);
    button.addEventListener("click", () => other(i));
    table.append(button);
  });
}
function same(row) {
  const box = $("same");
  box.replaceChildren();
  row.same.forEach((item) => {
    const figure = node("figure");
    if (pictures[item.path]) {
      const image = node("img");
      image.src = pictures[item.path];
      image.alt = item.what;
      figure.append(image);
    }
    const text = item.what + ", labelled " + (titles[item.label] || item.label) + ": " + item.path;
    figure.append(node("figcaption", text));
    box.append(figure);
  });
}
function draw() {
  const rows = shown();
  const row = rows[at];
  const done = rows.filter((other) => state.decided[other.image_id]).length;
  $("count").textContent = done + " of " + rows.length + " decided";
  $("progress").max = rows.length || 1;
  $("progress").value = done;
  $("stored").hidden = kept;
  $("work").hidden = !row;
  $("empty").hidden = Boolean(row);
  if (!row) return;
  $("picture").src = row.picture;
  $("picture").hidden = !row.picture;
  $("missing").hidden = Boolean(row.picture);
  $("picture").alt = "Image " + row.rank + " of the queue";
  $("path").textContent = row.path;
  $("rank").textContent = "No. " + row.rank + " of " + queue.rows.length;
  $("given").textContent = titles[row.given];
  $("suggested").textContent = titles[row.suggested];
  $("reasons").replaceChildren(...row.reasons.map((reason) => node("li", reason)));
  bars(row);
  same(row);
  const made = state.decided[row.image_id];
  $("made").textContent = made
    ? "Decided: " + made.decision + (made.decision === "unsure" ? "" : " (" + titles[made.label] + ")")
    : "Not decided yet";
  $("made").className = made ? "made done" : "made";
}
function save_file() {
  const csv = () => corrections_csv(queue.rows, (row) => row.given, state, queue.sha256);
  download_corrections(state, csv, "Name the reviewer first: the new labels say who set them.");
}
const keys = {
  a: accept, k: keep, u: unsure, z: undo, e: save_file,
  ArrowLeft: () => move(-1), ArrowRight: () => move(1),
};
document.addEventListener("keydown", (event) => {
  const busy = ["INPUT", "SELECT"].includes(event.target.tagName);
  if (busy || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(event.key)) { event.preventDefault(); other(Number(event.key) - 1); return; }
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) { event.preventDefault(); act(); }
});
for (const [id, act] of Object.entries({ accept, keep, unsure, undo, export: save_file })) {
  $(id).addEventListener("click", act);
}
$("back").addEventListener("click", () => move(-1));
$("forward").addEventListener("click", () => move(1));
$("list").addEventListener("change", () => { at = 0; draw(); $("list").blur(); });
$("by").addEventListener("input", () => { state.by = $("by").value.trim(); save(); });
$("by").addEventListener("keydown", (event) => { if (event.key === "Enter") $("by").blur(); });
load();
$("by").value = state.by;
draw();
