"""What the widgets of a notebook show for a choice of their values.

It is taken while the notebook is executed, so that they turn on the site too, which has no Python
behind it. The first half runs in the notebook's kernel; `page` is what the site makes of it.

The widget of a cell tagged `live-NAME` is computed in the page, by gpt_nb/web/live/NAME.js: its
controls are written down whole, with what the module needs to know (live.py) and with what Python
shows for some values, which tests hold against what the module shows. Its frames are few: they
stand in where the module cannot run."""
import base64
import html
import io
import itertools
import json
import math
import random
import re
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDER = Path(__file__).parent.parent / "docs" / "frames"   # a file for each notebook with widgets
BYTES, SECONDS, MOST = 250_000, 20, 400   # that all frames of a widget may take; how many at most
LIVE_BYTES = 40_000   # the same where the page itself computes what a widget shows
# cells of every notebook while it is executed
FIRST = """import sys; sys.path.append({tools!r})
import frames as _frames; _frames.begin({name!r}, {live!r})"""
LAST = "_frames.end()"


def smaller(png: bytes, colors: int, kind: str, **how) -> bytes:
    "A picture of few colours needs a palette only: a third of the size, no visible loss."
    from PIL import Image

    small, picture = io.BytesIO(), Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(colors, dither=Image.Dither.NONE).save(small, kind, **how)
    return small.getvalue()


def choices(control) -> list[tuple[str, object]] | None:
    "The values of a control with their labels; None for one that has no list of them."
    import ipywidgets as w

    if isinstance(control, w.Checkbox): return [("no", False), ("yes", True)]
    if hasattr(control, "_options_full"): return list(control._options_full)
    if not hasattr(control, "step"): return None
    count = math.floor((control.max - control.min) / control.step + 1e-9) + 1
    steps = [control.min + i * control.step for i in range(count)]
    if isinstance(control, w.FloatLogSlider): steps = [control.base**step for step in steps]
    return [(f"{step:.3g}" if isinstance(step, float) else str(step), step) for step in steps]


def thin(values: list, n: int, at: int) -> list[int]:
    "Places of n values, as even as can be, the first, the last and the one now chosen among them."
    if n >= len(values): return list(range(len(values)))
    places = [round(i * (len(values) - 1) / (n - 1)) for i in range(n)]
    if at not in places: places[min(range(n), key=lambda i: abs(places[i] - at))] = at
    return sorted(set(places))


def share_out(sizes: list[int], most: int) -> list[int]:
    "How many values of each control, so that their combinations are few; the first keeps the most."
    kept = list(sizes)
    weight = [1.6] + [1] * (len(kept) - 1)
    while math.prod(kept) > most and max(kept) > 2:
        long = [i for i in reversed(range(len(kept))) if kept[i] > 2]
        kept[max(long, key=lambda i: kept[i] / weight[i])] -= 1
    return kept


def seen(draw, words: str) -> str:
    "HTML of all that a function prints, displays and draws; the words say what a picture is of."
    from IPython.utils.capture import capture_output
    from ipywidgets.widgets.interaction import show_inline_matplotlib_plots

    with capture_output() as caught, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        shown = draw()
        if shown is not None:
            from IPython.display import display
            display(shown)
        show_inline_matplotlib_plots()
    boxes = {str(w.message) for w in warned if "missing from" in str(w.message)}
    if boxes: raise ValueError(f"a letter without a font: {boxes}")
    parts = [f"<pre>{html.escape(caught.stdout)}</pre>"] if caught.stdout else []
    for data in (output.data for output in caught.outputs):
        if "image/png" in data:
            png = data["image/png"]
            if not isinstance(png, bytes): png = base64.b64decode(png)
            picture = base64.b64encode(smaller(png, 16, "webp", lossless=True, method=6)).decode()
            alt = f"Plot for {html.escape(words)}"
            parts.append(f'<img alt="{alt}" src="data:image/webp;base64,{picture}">')
        elif "text/html" in data: parts.append(data["text/html"])
        else: parts.append(f"<pre>{html.escape(data['text/plain'])}</pre>")
    return "".join(parts)


def inside(widget) -> list:
    "A widget and all in it."
    children = getattr(widget, "children", ())
    return [widget] + [part for child in children for part in inside(child)]


def is_text(control) -> bool:
    "Whether a reader types what it holds."
    import ipywidgets as w

    return isinstance(control, (w.Text, w.Textarea))


def called_with(widget) -> tuple[list, Callable]:
    "Of an `interactive`: its controls, and what its function shows for values of them."
    import ipywidgets as w

    known = {control._kwarg: control for control in widget.kwargs_widgets}
    controls = [control for control in known.values() if not isinstance(control, w.fixed)]

    def draw(values):
        given = {name: control.get_interact_value() for name, control in known.items()}
        chosen = {control._kwarg: value for control, value in zip(controls, values)}
        words = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items()]
        return seen(lambda: widget.f(**given | chosen), ", ".join(words))

    return controls, draw


def set_to(widget, texts: bool) -> tuple[list, Callable]:
    "Of controls beside views in HTML: the controls, and what the views show for values of them."
    import ipywidgets as w

    views = [part for part in inside(widget) if isinstance(part, w.HTML)]
    found = [part for part in inside(widget) if choices(part) or texts and is_text(part)]
    controls = found if views else []

    def draw(values):
        for control, value in zip(controls, values): control.value = value
        return "".join(view.value for view in views)

    return controls, draw


def place_of(value, options: list[tuple[str, object]]) -> int:
    "Where a value stands among its control's choices: the nearest of numbers, else the equal one."
    def distance(i):
        other = options[i][1]
        if other == value: return 0
        return abs(other - value) if isinstance(value, (int, float)) else 1

    return min(range(len(options)), key=distance)


def as_before(names: list[str], options: list, at: list[int]) -> list[int] | None:
    """How many values each control had in the frames taken last, if they are the same values.

    So many again, however long drawing takes today: what did not change keeps its frames."""
    for old in (found["controls"] for shown in BEFORE.values() for found in shown):
        if [control["label"] for control in old] != names: continue
        sizes = [len(control["values"]) for control in old]
        kept = [[values[j][0] for j in thin(values, n, i)]
                for values, n, i in zip(options, sizes, at)]
        if kept == [control["values"] for control in old]: return sizes
    return None


def draw_all(draw: Callable, options: list, at: list[int], sizes: list[int], most_bytes: int):
    "For each control the places of the values taken, and a frame for each of their combinations."
    while True:
        kept = [thin(values, n, i) for values, n, i in zip(options, sizes, at)]
        frames = [draw([values[i][1] for values, i in zip(options, places)])
                  for places in itertools.product(*kept)]
        size = len("".join(frames))
        if size <= most_bytes or math.prod(map(len, kept)) <= 2 ** len(kept): return kept, frames
        most = 0.9 * len(frames) * most_bytes / size   # some frames are larger than the first
        sizes = share_out([len(values) for values in options], most)


def kind_of(control) -> str:
    import ipywidgets as w

    kinds = {w.Checkbox: "checkbox", w.Dropdown: "select", w.Textarea: "textarea", w.Text: "text"}
    return next((kind for widget, kind in kinds.items() if isinstance(control, widget)), "range")


def all_choices(control) -> list[tuple[str, object]]:
    "Its values with their labels; of a text only the one that stands there."
    return [(control.value, control.value)] if is_text(control) else choices(control)


def frames_of(widget, live: str = "", names: dict | None = None) -> dict | None:
    "The controls of a widget, and what it shows for each combination of (some of) their values."
    import ipywidgets as w

    called = isinstance(widget, w.interactive)
    controls, draw = called_with(widget) if called else set_to(widget, bool(live))
    if not controls: return None
    options, stands = [all_choices(control) for control in controls], [c.value for c in controls]
    at = [place_of(value, values) for value, values in zip(stands, options)]
    labels = [control.description or getattr(control, "_kwarg", "") for control in controls]
    start, most_bytes = time.process_time(), LIVE_BYTES if live else BYTES
    first = draw(stands)        # timed by the processor: else it depends on what else runs
    most = min(most_bytes / len(first), SECONDS / (time.process_time() - start), MOST)
    sizes = as_before(labels, options, at) or share_out([len(values) for values in options], most)
    kept, frames = draw_all(draw, options, at, sizes, most_bytes)
    described = []
    for label, control, values, places, stand in zip(labels, controls, options, kept, at):
        described.append(dict(label=label, kind=kind_of(control), at=places.index(stand),
                              values=[values[i][0] for i in places]))
    found = dict(controls=described, frames=frames)
    if live: found["live"] = described_for(live, labels, options, draw, names)
    draw(stands)
    return found


def described_for(live: str, labels: list, options: list, draw: Callable, names: dict) -> dict:
    "What a page needs to compute a widget: every choice of its controls, and the module's data."
    from live import data_of, samples

    checks = [[list(values), draw(values)] for values in samples(live, options)]
    controls = [dict(name=label, labels=[label for label, _ in values],
                     values=[value for _, value in values])
                for label, values in zip(labels, options)]
    data = json.dumps(data_of(live, names), ensure_ascii=False)   # in one line of the file
    return dict(name=live, controls=controls, data=data, checks=checks)


@contextmanager
def same_chance():
    "Random numbers go on afterwards as if nothing had been drawn."
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


TAKEN, SPENT = {}, []   # frames by the id of the widget's model, None if it does not turn; seconds
BEFORE = {}             # by cell, the frames taken when the notebook ran last
LIVE = {}               # by the text of a cell, the module that computes its widget in a page


def take(result) -> None:
    "After each cell: the frames of its widgets, while all they need is as they found it."
    from IPython import get_ipython
    from ipywidgets.widgets import widget

    start, live = time.perf_counter(), LIVE.get(result.info.raw_cell, "")
    for key, w in list(widget._instances.items()):
        if key in TAKEN or not hasattr(w, "children"): continue
        with same_chance(): TAKEN[key] = frames_of(w, live, get_ipython().user_ns)
    SPENT.append(time.perf_counter() - start)


def begin(name: str, live: dict[str, str]) -> None:
    "Called in a notebook's kernel before its first cell."
    from IPython import get_ipython

    LIVE.update(live)

    path = FOLDER / f"{name}.json"
    if path.is_file(): BEFORE.update(json.loads(path.read_text("utf-8")))
    get_ipython().events.register("post_run_cell", take)


def end() -> None:
    "Called after the last: display what was taken."
    from IPython.display import display
    frames = {key: frames for key, frames in TAKEN.items() if frames}
    display({"application/json": dict(frames=frames, seconds=sum(SPENT))}, raw=True)


def left_by_a_bar(output: dict) -> bool:
    "Whether an output is what a progress bar left behind."
    if WIDGET not in output.get("data", {}): return False
    return bool(re.search(r"\d%\|", "".join(output["data"].get("text/plain", ""))))


def field(control: dict) -> str:
    "A control in HTML."
    values, at = [html.escape(str(value)) for value in control["values"]], control["at"]
    if control["kind"] == "checkbox": return f'<input type="checkbox"{" checked" if at else ""}>'
    if control["kind"] == "select":
        chosen = [" selected" if i == at else "" for i in range(len(values))]
        options = [f"<option{mark}>{value}</option>" for mark, value in zip(chosen, values)]
        return f"<select>{''.join(options)}</select>"
    if control["kind"] == "textarea": return f'<textarea rows="3" readonly>{values[0]}</textarea>'
    if control["kind"] == "text": return f'<input type="text" readonly value="{values[0]}">'
    listed = html.escape(json.dumps([str(value) for value in control["values"]]))
    return (f'<input type="range" min="0" max="{len(values) - 1}" value="{at}" '
            f'data-values="{listed}" aria-valuetext="{values[at]}"><output>{values[at]}</output>')


def page(found: dict) -> str:
    "A widget on the site: its controls, the frame they stand on, and all frames for site.js."
    controls = found["controls"]
    sizes = [len(c["values"]) for c in controls]
    first = sum(c["at"] * math.prod(sizes[i + 1:]) for i, c in enumerate(controls))
    labels = [f"<label><span>{html.escape(c['label'])}</span>{field(c)}</label>" for c in controls]
    known = dict(sizes=sizes, frames=found["frames"])
    if "live" in found:
        known["live"] = {key: found["live"][key] for key in ("name", "controls", "data")}
    safe = json.dumps(known, ensure_ascii=False).replace("</", "<\\/")
    return (f'<div class="turn">{"".join(labels)}<div class="frame" aria-live="polite">'
            f'{found["frames"][first]}</div><script type="application/json">{safe}</script></div>')
