"use strict";
// What a page does beyond showing itself: tabs, sorting, copies, downloads, filters. Without this
// script all tabs stand one below the other.
const all = (selector, root) => [...(root || document).querySelectorAll(selector)];
function made(tag, values, ...children) {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
}
function button(text, act) {
  const node = made("button", { type: "button", className: "act" }, text);
  node.addEventListener("click", () => act(node));
  return node;
}
function save(name, url) {
  made("a", { href: url, download: name }).click();
}

// Tabs: a link to anything inside a tab opens it.
const tabs = all(".tabs a");
const panels = all(".tab");
function choose(anchor) {
  tabs.forEach((tab, i) => {
    const chosen = panels[i].id === anchor;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    panels[i].classList.toggle("open", chosen);
  });
  cues();
}
function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const panel = target && target.closest(".tab");
  choose((panel || panels[0]).id);
  if (panel && panel !== target) target.scrollIntoView();
}
if (tabs.length) {
  document.documentElement.classList.add("js");
  const bar = document.querySelector(".tabs");
  bar.setAttribute("role", "tablist");
  tabs.forEach((tab, i) => {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panels[i].id);
    panels[i].setAttribute("role", "tabpanel");
    panels[i].setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      history.replaceState(null, "", tab.hash);
      choose(panels[i].id);
      if (bar.getBoundingClientRect().top <= 0) panels[i].scrollIntoView();
    });
  });
  bar.addEventListener("keydown", (event) => {
    const last = tabs.length - 1;
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
  window.addEventListener("hashchange", follow);
}

// Tables: a heading sorts, a button copies them as CSV.
function key(cell) {
  const text = cell.textContent.trim();
  const number = parseFloat(text.replace(/[,✗✓?†<>\s]/g, "").replace("−", "-").replace(/^[a-z]+/, ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}
function sort(table, column, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.classList.add("flat"); // a group's name now stands in every row
  const rows = all("tbody tr", table).map((row) => [key(row.cells[column]), row]);
  const order = ([a], [b]) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    const found = typeof a === "number" ? a - b : a.localeCompare(b);
    return down ? -found : found;
  };
  table.tBodies[0].append(...rows.sort(order).map(([, row]) => row));
}
function csv(table) {
  const quoted = (cell) => {
    const text = cell.innerText.trim().replace(/\s+/g, " ");
    return /[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [...table.rows].map((row) => [...row.cells].map(quoted).join(",")).join("\n") + "\n";
}
async function copy(text, node) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) { // not allowed here: the old way
    const area = made("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = node.textContent;
  node.textContent = "Copied";
  setTimeout(() => { node.textContent = before; }, 1500);
}
all(".table").forEach((region) => {
  const table = region.querySelector("table");
  if (table.tBodies[0].rows.length > 1) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const sorter = button("", () => sort(table, column, heading));
      sorter.className = "sort";
      sorter.append(...heading.childNodes);
      heading.append(sorter);
    });
  }
  region.previousElementSibling.append(" ", button("Copy CSV", (node) => copy(csv(table), node)));
});
all("pre").forEach((block) => {
  const text = block.textContent;
  block.append(button("Copy", (node) => copy(text, node)));
});

// A table or figure that is wider than the page says so; the keyboard scrolls it.
function cues() {
  all(".table, figure .scroll").forEach((region) => {
    const wide = region.scrollWidth > region.clientWidth + 1;
    region.classList.toggle("wide", wide);
    if (wide) region.tabIndex = 0;
  });
}
window.addEventListener("resize", cues);
all("details").forEach((one) => one.addEventListener("toggle", cues));

// Figures: a chart as SVG, a photograph as it is.
all("figure").forEach((figure) => {
  const chart = figure.querySelector("svg");
  const note = figure.querySelector("figcaption");
  note.append(" ", button("Download", () => {
    if (!chart) { save(note.dataset.file, figure.querySelector("img").src); return; }
    const url = URL.createObjectURL(new Blob([chart.outerHTML], { type: "image/svg+xml" }));
    save(note.dataset.file, url);
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }));
});

// Galleries: filters made of what the images say.
all(".cases").forEach((gallery) => {
  const items = all("li", gallery);
  const asked = {};
  const shown = made("span", { className: "note" });
  shown.setAttribute("role", "status");
  const apply = () => {
    let n = 0;
    items.forEach((item) => {
      const fits = Object.entries(asked).every(([name, fit]) => fit(item.dataset[name]));
      item.hidden = !fits;
      n += fits;
    });
    shown.textContent = `${n} of ${items.length} shown`;
  };
  const bar = made("p", { className: "filters" });
  const ask = (title, name, input, fit) => {
    input.addEventListener("input", () => { asked[name] = fit(input.value); apply(); });
    bar.append(made("label", {}, `${title} `, input));
  };
  const choices = { kind: "Show", true: "True", predicted: "Predicted", group: "Group" };
  for (const [name, title] of Object.entries(choices)) {
    const found = [...new Set(items.map((item) => item.dataset[name]))].filter(Boolean).sort();
    if (found.length < 2) continue;
    const options = ["any", ...found].map((text, i) => made("option", { value: i ? text : "" }, text));
    ask(title, name, made("select", {}, ...options), (value) => (text) => !value || text === value);
  }
  const least = made("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0 });
  ask("Confidence from", "p", least, (value) => (p) => Number(p) >= Number(value));
  ask("File", "name", made("input", { type: "search", size: 10 }),
    (value) => (text) => text.toLowerCase().includes(value.toLowerCase()));
  bar.append(shown);
  gallery.querySelector("ul").before(bar);
  apply();
});

if (tabs.length) follow();
cues();
