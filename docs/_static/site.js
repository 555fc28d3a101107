// What a reader without a mouse needs and the parts of this page do not bring: names for sliders, and a way to scroll wide blocks by keyboard.
const nameWidgets = (root) => {
  for (const slider of root.querySelectorAll('[role="slider"]:not([aria-label])'))
    slider.setAttribute("aria-label", slider.closest(".jupyter-widgets")?.querySelector(".widget-label")?.textContent || "value");
  for (const field of root.querySelectorAll(".jupyter-widgets :is(select, input, textarea):not([aria-label]):not([id])"))
    field.setAttribute("aria-label", field.closest(".jupyter-widgets")?.querySelector(".widget-label")?.textContent || "value");
  for (const picture of root.querySelectorAll(".widget-subarea img:not([alt])")) picture.alt = "Plot for the values of the controls above it";
};

// Figures stand right, so that their digits line up; a column of words stands left; a sentence is not squeezed into one word a line.
const alignWords = () => {
  for (const cell of document.querySelectorAll(".cell_output td")) if (cell.textContent.length > 20) cell.style.minWidth = cell.textContent.length > 60 ? "14em" : "9em";
  const figure = /^[-+−]?[\d.,]+(e[-+]?\d+)?\s*(%|\w{1,3})?$|^(inf|nan)?$/i;
  for (const table of document.querySelectorAll("div.output table.dataframe")) {
    const rows = [...table.rows];
    for (let i = 0; i < rows.at(-1).cells.length; i++) {
      const cells = rows.filter((row) => row.cells.length == rows.at(-1).cells.length).map((row) => row.cells[i]), words = cells.filter((cell) => cell.tagName == "TD");
      if (words.length && words.every((cell) => !figure.test(cell.textContent.trim()))) cells.forEach((cell) => (cell.style.textAlign = "left"));
    }
  }
};

const reachWide = () => {
  for (const box of document.querySelectorAll("pre, .table-wrapper, div.output table, .output, mjx-container, .math"))
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible") box.tabIndex = 0;
};

// The text a model writes after so many tokens: a slider in the place of a long list.
const slideThrough = (box) => {
  const rows = [...box.querySelectorAll("li")], label = document.createElement("label"), slider = document.createElement("input"), words = document.createElement("output");
  Object.assign(slider, { type: "range", min: 0, max: rows.length - 1, value: 0 });
  const show = () => {
    rows.forEach((row, i) => (row.hidden = i != slider.value));
    words.textContent = `${rows[slider.value].dataset.tokens} ${box.dataset.label}`;
    slider.setAttribute("aria-valuetext", words.textContent);
  };
  slider.addEventListener("input", show);
  slider.setAttribute("aria-label", box.dataset.label);
  box.querySelector("ol").setAttribute("aria-live", "polite");
  label.append(slider, words);
  box.prepend(label);
  box.classList.add("slides");
  show();
};

if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;  // no page may be read from another there
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax && !MathJax.Hub) MathJax.Hub = { Queue() {} };   // widgets ask for MathJax 2 to typeset their labels, which hold no formulas
  new MutationObserver(() => nameWidgets(document)).observe(document.body, { childList: true, subtree: true });
  nameWidgets(document);
  alignWords();
  document.querySelectorAll(".growing").forEach(slideThrough);
  reachWide();
});
window.addEventListener("load", reachWide);
window.addEventListener("resize", reachWide);
