// A figure of a chapter that is computed where it is read. Its module exports
//   view(values, data, help) -> HTML, or a promise of it; may throw an Error of one clear line
//   press: what stands on the button that must be pressed first, where something is to be fetched
// values: what the controls stand on, by name; data: what the notebook knew (tools/live.py).

import { turn } from "../turn.js";

// controls: the elements; about: {name, controls: [{name, labels, values}], data};
// show(f): from now on f shows what belongs to the controls.
export async function enliven(box, controls, about, show) {
  const figure = await import(`./${about.name}.js`), data = JSON.parse(about.data);
  const start = () => {
    controls.forEach((control, i) => widen(control, about.controls[i]));
    show(newest(box, figure, data, () => read(controls, about.controls)));
    box.classList.add("live");
  };
  if (!figure.press) return start();
  const button = Object.assign(document.createElement("button"), { textContent: figure.press });
  button.type = "button";
  box.querySelector(".frame").before(button);
  button.addEventListener("click", () => {
    (controls.find((control) => control.readOnly) ?? controls[0]).focus();
    button.remove();
    start();
  });
}

// A control gets all its choices; it stays where it stood.
function widen(control, { labels, values }) {
  if (control.tagName === "TEXTAREA" || control.type === "text") control.readOnly = false;
  if (control.tagName === "SELECT") {
    const at = labels.indexOf(control.value);
    control.replaceChildren(...labels.map((label) => new Option(label)));
    control.selectedIndex = at;
  }
  if (control.type !== "range") return;
  const at = labels.indexOf(JSON.parse(control.dataset.values)[control.value]);
  control.dataset.values = JSON.stringify(labels);
  control.max = values.length - 1;
  control.value = at;
}

function read(controls, described) {
  const value = (control, { values }) => {
    if (control.type === "checkbox") return values[+control.checked];
    if (control.tagName === "SELECT") return values[control.selectedIndex];
    return control.type === "range" ? values[control.value] : control.value;
  };
  return Object.fromEntries(controls.map((control, i) =>
    [described[i].name, value(control, described[i])]));
}

// Shows what belongs to the controls as they stand; what has been overtaken is given up.
function newest(box, figure, data, values) {
  const frame = box.querySelector(".frame");
  let latest = null;
  return async () => {
    latest?.abort();
    const { signal } = latest = new AbortController();
    const say = (html) => { if (!signal.aborted) frame.innerHTML = html; };
    const pause = pauses(signal);
    try {
      say(await figure.view(values(), data, { say, pause, signal }));
    } catch (error) {
      if (!signal.aborted) say(`<p class="wrong">${escape(error.message)}</p>`);
    }
    if (!signal.aborted) box.dispatchEvent(new CustomEvent("shown", { bubbles: true }));
  };
}

// `await pause()` between two pieces of work: the page gets a turn where 20 ms are over.
function pauses(signal) {
  let since = performance.now();
  return async () => {
    signal.throwIfAborted();
    if (performance.now() - since < 20) return;
    await turn();
    signal.throwIfAborted();
    since = performance.now();
  };
}

const MARKS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
export function escape(text) { return text.replace(/[&<>"]/g, (mark) => MARKS[mark]); }

// ------------------------------------------------------------------------- what is fetched, once

const kept = new Map();

function once(key, fetched) {
  if (!kept.has(key)) {
    kept.set(key, fetched());
    kept.get(key).catch(() => kept.delete(key));       // it may be asked for again
  }
  return kept.get(key);
}

// A model of the folder `models`; progress(share) while it comes.
export function model(name, progress) {
  const onProgress = (bytes, of) => progress(bytes / of);
  return once(name, async () => {
    const { openModel } = await import("../engine.js");
    return openModel(new URL(`models/${name}`, import.meta.url), { onProgress });
  });
}

export function json(name) {
  const url = new URL(name, import.meta.url);
  return once(name, async () => {
    const answer = await fetch(url).catch(() => ({ status: "no answer" }));
    if (!answer.ok) throw new Error(`cannot fetch ${url}: ${answer.status}`);
    return answer.json();
  });
}
