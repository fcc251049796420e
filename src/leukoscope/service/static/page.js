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
      if (answer.ok) show(text);
      else fail(JSON.parse(text).detail);
    } catch (error) {
      if (mine === turn) fail(error instanceof TypeError ? words.unreachable : String(error));
    } finally {
      if (mine === turn) form.removeAttribute("aria-busy");
    }
  }

  function show(html) {
    status.textContent = "";
    results.innerHTML = html;
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
