// The search has a name, and the keyboard scrolls a table that is wider than the page.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
function reach() {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((region) => {
    if (region.scrollWidth > region.clientWidth + 1) region.tabIndex = 0;
  });
}
window.addEventListener("load", reach);
window.addEventListener("resize", reach);
