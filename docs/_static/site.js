// Controls that show one of the pictures made for them (tools/frames.py), or, where there is a module for it, what the page computes.
const web = new URL("web/live/", document.currentScript.src);
const turn = (box) => {
  const controls = [...box.querySelectorAll("input, select, textarea")], frame = box.querySelector(".frame"), { sizes, frames, live } = JSON.parse(box.querySelector("script").textContent);
  const place = (control) => (control.type == "checkbox" ? +control.checked : control.tagName == "SELECT" ? control.selectedIndex : control.type == "range" ? +control.value : 0);
  const say = () => {
    for (const slider of controls.filter((control) => control.type == "range")) {
      const value = JSON.parse(slider.dataset.values)[slider.value];
      slider.nextElementSibling.textContent = value;
      slider.setAttribute("aria-valuetext", value);
    }
  };
  let show = () => (frame.innerHTML = frames[controls.reduce((at, control, i) => at * sizes[i] + place(control), 0)]);
  const change = () => {
    say();
    show();
  };
  for (const control of controls) control.addEventListener("input", change);
  change();   // a browser may remember where the controls stood
  if (live && location.protocol !== "file:") whenNear(box, () => import(new URL("figure.js", web)).then(({ enliven }) => enliven(box, controls, live, (shows) => {
    show = shows;
    change();
  })).catch((error) => console.warn(error)));   // the pictures remain
};

// What a reader may never scroll to is not fetched.
const whenNear = (box, act) => {
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    act();
  }, { rootMargin: "800px" });
  watch.observe(box);
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
  for (const box of document.querySelectorAll("pre, .table-wrapper, div.output table, .output, .frame, mjx-container, .math"))
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible") box.tabIndex = 0;
};

if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;  // no page may be read from another there
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".turn").forEach(turn);
  alignWords();
  reachWide();
});
window.addEventListener("load", reachWide);
window.addEventListener("resize", reachWide);
document.addEventListener("shown", reachWide);
