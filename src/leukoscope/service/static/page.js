"use strict";
// Sends images, shows the answer that the server has rendered. Without this script the form works
// as a plain form.
(() => {
  const form = document.getElementById("ask");
  const input = document.getElementById("files");
  const drop = document.getElementById("drop");
  const status = document.getElementById("status");
  const problem = document.getElementById("problem");
  const results = document.getElementById("results");
  const model = document.getElementById("model");
  const words = form.dataset;
  let files = [];
  let turn = 0;

  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

  function fail(why) {
    problem.textContent = fill(words.failed, { why });
    problem.hidden = false;
    status.textContent = "";
  }

  async function send() {
    const mine = ++turn;
    problem.hidden = true;
    if (files.length > Number(words.maxFiles)) {
      fail(fill(words.tooMany, { n: words.maxFiles, m: files.length }));
      return;
    }
    const body = new FormData();
    for (const file of files) body.append("files", file, file.name || "pasted.png");
    if (model) body.append("model", model.value);
    if (document.getElementById("one").checked) body.append("one_patient", "on");
    status.textContent = fill(words.busy, { n: files.length });
    form.setAttribute("aria-busy", "true");
    const key = document.getElementById("key");
    try {
      const headers = key && key.value ? { "X-API-Key": key.value } : {};
      const answer = await fetch("/answers?fragment=true", { method: "POST", body, headers });
      const text = await answer.text();
      if (mine !== turn) return;  // a newer question is on its way
      if (answer.ok) {
        show(text);
        remember(text);
      }
      else fail(JSON.parse(text).detail);
    } catch (error) {
      if (mine === turn) fail(error instanceof TypeError ? words.unreachable : String(error));
    } finally {
      if (mine === turn) form.removeAttribute("aria-busy");
    }
  }

  // Earlier answers of this tab; nothing is stored.
  const earlier = [];
  function remember(html) {
    const section = document.getElementById("history");
    const said = results.querySelector(".count").firstChild.textContent;
    const [n, by] = [files.length === 1 ? files[0].name : `${files.length} images`,
      said.trim().replace(/^.* by |:$/g, "")];
    const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    earlier.push(html);
    const again = node("button", fill(section.dataset.entry, { time, n, model: by }));
    again.type = "button";
    again.addEventListener("click", () => show(html));
    const item = node("li");
    item.append(again);
    section.querySelector("ul").prepend(item);
    section.hidden = earlier.length < 2;
  }

  // The table of all images: order, filter, corrections.
  function order(table, heading) {
    const column = heading.cellIndex;
    const up = heading.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const found = typeof x === "number" ? x - y : x.localeCompare(y);
      return up ? found : -found;
    });
    table.tBodies[0].append(...rows);
    describe(table);
  }
  function describe(table) {
    const { caption, all, some, first, sorted } = table.dataset;
    const rows = [...table.tBodies[0].rows];
    const [m, n] = [rows.length, rows.filter((row) => !row.hidden).length];
    const by = table.querySelector("[aria-sort]");
    const which = n === m ? all : fill(some, { n, m });
    const text = fill(caption, { which, order: by ? fill(sorted, { column: by.textContent }) : first });
    table.caption.firstElementChild.textContent = text;
    table.parentElement.setAttribute("aria-label", text);
  }
  function filter(chips, chip) {
    const chosen = chip.getAttribute("aria-pressed") === "true" ? "" : chip.dataset.filter;
    chips.forEach((one) => one.setAttribute("aria-pressed", one.dataset.filter === chosen));
    results.querySelectorAll("tr[data-decision], article[data-decision]").forEach((found) => {
      found.hidden = chosen !== "" && found.dataset.decision !== chosen;
    });
    results.querySelectorAll(".summary").forEach(describe);
  }
  const corrections = { decided: {}, by: "" };
  const corrected = new Map();
  function choice(table, row) {
    const { id, path } = row.dataset;
    const given = row.dataset.class;
    const select = node("select");
    const option = (value, text) => select.append(Object.assign(node("option", text), { value }));
    option("", table.dataset.unchecked);
    option(given, table.dataset.right);
    for (const { value, text } of document.getElementById("classes").options) {
      if (value !== given) option(value, text);
    }
    option("exclude", table.dataset.none);
    select.setAttribute("aria-label", fill(table.dataset.label, { name: path }));
    const before = corrections.decided[id];
    if (before) select.value = before.decision === "exclude" ? "exclude" : before.label;
    select.addEventListener("change", () => {
      const { value } = select;
      if (!value) { delete corrections.decided[id]; return; }
      const decision = value === "exclude" ? value : value === given ? "keep" : "other";
      const label = value === "exclude" ? "" : value;
      corrections.decided[id] = { decision, label, at: new Date().toISOString() };
      corrected.set(id, { image_id: id, path, given });
    });
    return select;
  }
  function prepare(table) {
    table.querySelectorAll("th[data-key]").forEach((heading) => {
      const sorter = node("button", heading.textContent, "sort");
      sorter.type = "button";
      sorter.addEventListener("click", () => order(table, heading));
      heading.replaceChildren(sorter);
    });
    [...table.tBodies[0].rows].forEach((row) => {
      row.querySelector(".correct").append(choice(table, row));
      row.querySelector("a").addEventListener("click", (event) => {
        const card = document.querySelector(event.target.hash);
        card.querySelector("details").open = true;
      });
    });
    table.querySelectorAll(".correct").forEach((cell) => { cell.hidden = false; });
    const box = document.getElementById("corrections");
    box.hidden = false;
    $("by").value = corrections.by;
    $("by").addEventListener("input", () => { corrections.by = $("by").value.trim(); });
    $("save").addEventListener("click", () => {
      const csv = () => corrections_csv([...corrected.values()], (row) => row.given, corrections, "");
      download_corrections(corrections, csv, box.dataset.unnamed);
    });
  }
  window.addEventListener("beforeprint", () => {
    results.querySelectorAll("details").forEach((one) => { one.open = true; });
  });

  function show(html) {
    status.textContent = "";
    results.innerHTML = html;
    const chips = [...results.querySelectorAll("[data-filter]")];
    chips.forEach((chip) => {
      chip.disabled = false;
      chip.addEventListener("click", () => filter(chips, chip));
    });
    results.querySelectorAll(".summary").forEach(prepare);
    results.querySelectorAll("label.slider").forEach((label) => { label.hidden = false; });
    const report = document.getElementById("report");
    report.hidden = false;
    report.addEventListener("click", download);
    const print = document.getElementById("print");
    print.hidden = false;
    print.addEventListener("click", () => window.print());
    const heading = document.getElementById("results-heading");
    heading.scrollIntoView();
    heading.focus();
  }

  results.addEventListener("input", (event) => {
    if (event.target.classList.contains("opacity")) {
      const heat = event.target.closest("figure").querySelector(".heat");
      heat.style.opacity = event.target.value / 100;
    }
  });

  async function download(event) {
    event.preventDefault();
    const style = await (await fetch("/static/page.css")).text();
    const [copy, about] = [results, document.getElementById("about")].map((part) => {
      const found = part.cloneNode(true);
      found.querySelectorAll(".screen-only").forEach((node) => node.remove());
      found.querySelectorAll("details").forEach((node) => { node.open = true; });
      found.querySelectorAll(".correct").forEach((node) => node.remove());
      found.querySelectorAll("[hidden]").forEach((node) => { node.hidden = false; });
      found.querySelectorAll("a[href^='/']").forEach((node) => node.replaceWith(node.textContent));
      return found;
    });
    const title = document.querySelector("h1").textContent;
    const page = `<!doctype html><html lang="${document.documentElement.lang}"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title><style>${style}</style></head><body>
${document.querySelector(".disclaimer").outerHTML}<header><h1>${title}</h1></header>
<main>${copy.innerHTML}${about.outerHTML}</main></body></html>`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([page], { type: "text/html" }));
    link.download = "leukoscope-report.html";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function take(list) {
    if (!list.length) return;
    files = [...list];
    if (list !== input.files) input.value = "";
    send();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.files.length && !files.length) files = [...input.files];
    if (files.length) send();
  });
  input.addEventListener("change", () => take(input.files));
  input.required = false;
  const camera = document.getElementById("camera");
  const shoot = document.getElementById("shoot");
  shoot.hidden = !matchMedia("(pointer: coarse)").matches;
  shoot.addEventListener("click", () => camera.click());
  camera.addEventListener("change", () => take(camera.files));
  for (const kind of ["dragover", "dragenter"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));

  const examples = document.getElementById("examples");
  if (examples) examples.hidden = false;
  document.querySelectorAll(".example").forEach((button) => {
    button.addEventListener("click", async () => {
      const picture = button.querySelector("img");
      const blob = await (await fetch(picture.src)).blob();
      if (model) model.value = button.dataset.model;
      take([new File([blob], `${picture.alt}.png`, { type: "image/png" })]);
    });
  });
})();
