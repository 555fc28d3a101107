"""What the widgets of a notebook show for a choice of their values. It is taken while the notebook is executed, so that they turn on the site too, which has no Python behind it.

The first half runs in the kernel of the notebook; `page` is what the site makes of it."""
import base64
import html
import io
import itertools
import json
import math
import random
import time
from contextlib import contextmanager
from pathlib import Path

WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDER = Path(__file__).parent.parent / "docs" / "frames"   # a file of frames for each notebook that has widgets
BYTES, SECONDS, MOST = 250_000, 20, 400   # that all frames of a widget may take; how many there are at most
FIRST, LAST = "import sys; sys.path.append({tools!r}); import frames as _frames; _frames.begin()", "_frames.end()"   # cells of every notebook while it is executed


def smaller(png: bytes, colors: int, kind: str, **how) -> bytes:
    "A picture of few colours needs a palette only: a third of the size, no visible loss."
    from PIL import Image

    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(small, kind, **how)
    return small.getvalue()


def choices(control) -> list[tuple[str, object]] | None:
    "The values of a control with their labels; None for one that has no list of them."
    import ipywidgets as w

    if isinstance(control, w.Checkbox): return [("no", False), ("yes", True)]
    if hasattr(control, "_options_full"): return list(control._options_full)
    if not hasattr(control, "step"): return None
    steps = [control.min + i * control.step for i in range(math.floor((control.max - control.min) / control.step + 1e-9) + 1)]
    if isinstance(control, w.FloatLogSlider): steps = [control.base**step for step in steps]
    return [(f"{step:.3g}" if isinstance(step, float) else str(step), step) for step in steps]


def thin(values: list, n: int, at: int) -> list[int]:
    "Places of n values from the first to the last, as even as can be, with the one the control stands on."
    if n >= len(values): return list(range(len(values)))
    places = [round(i * (len(values) - 1) / (n - 1)) for i in range(n)]
    if at not in places: places[min(range(n), key=lambda i: abs(places[i] - at))] = at
    return sorted(set(places))


def share_out(sizes: list[int], most: int) -> list[int]:
    "How many values of each control, so that all their combinations are not too many; the first control keeps the most."
    kept = list(sizes)
    while math.prod(kept) > most and max(kept) > 2: kept[max((i for i in reversed(range(len(kept))) if kept[i] > 2), key=lambda i: kept[i] / (1 if i else 1.6))] -= 1
    return kept


def seen(draw, words: str) -> str:
    "HTML of all that a function prints, displays and draws; the words say of a picture what it is of."
    from IPython.utils.capture import capture_output
    from ipywidgets.widgets.interaction import show_inline_matplotlib_plots

    with capture_output() as caught:
        shown = draw()
        if shown is not None:
            from IPython.display import display
            display(shown)
        show_inline_matplotlib_plots()
    parts = [f"<pre>{html.escape(caught.stdout)}</pre>"] if caught.stdout else []
    for data in (output.data for output in caught.outputs):
        if "image/png" in data:
            png = data["image/png"] if isinstance(data["image/png"], bytes) else base64.b64decode(data["image/png"])
            picture = base64.b64encode(smaller(png, 16, "webp", lossless=True, method=6)).decode()
            parts.append(f'<img alt="Plot for {html.escape(words)}" src="data:image/webp;base64,{picture}">')
        elif "text/html" in data: parts.append(data["text/html"])
        else: parts.append(f"<pre>{html.escape(data['text/plain'])}</pre>")
    return "".join(parts)


def inside(widget) -> list:
    "A widget and all in it."
    return [widget] + [part for child in getattr(widget, "children", ()) for part in inside(child)]


def frames_of(widget) -> dict | None:
    "The controls of a widget, and what it shows for each combination of (some of) their values."
    import ipywidgets as w

    if isinstance(widget, w.interactive):
        known = {control._kwarg: control for control in widget.kwargs_widgets}
        controls = [control for control in known.values() if not isinstance(control, w.fixed)]
        def draw(chosen):
            given = {control._kwarg: value for control, value in chosen}
            words = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in given.items())
            return seen(lambda: widget.f(**{name: control.get_interact_value() for name, control in known.items()} | given), words)
    else:
        views, controls = [part for part in inside(widget) if isinstance(part, w.HTML)], [part for part in inside(widget) if choices(part)]
        if not views or not controls: return None
        def draw(chosen):
            for control, value in chosen: control.value = value
            return "".join(view.value for view in views)
    start, values, stands = time.perf_counter(), [choices(control) for control in controls], [control.value for control in controls]
    first = draw(list(zip(controls, stands)))
    most = min(BYTES / len(first), SECONDS / (time.perf_counter() - start), MOST)
    at = [min(range(len(all_)), key=lambda i: all_[i][1] != stand and (abs(all_[i][1] - stand) if isinstance(stand, (int, float)) else 1)) for all_, stand in zip(values, stands)]
    while True:
        kept = [thin(all_, n, i) for all_, n, i in zip(values, share_out([len(all_) for all_ in values], most), at)]
        frames = [draw([(control, all_[i][1]) for control, all_, i in zip(controls, values, places)]) for places in itertools.product(*kept)]
        size = len("".join(frames))
        if size <= BYTES or math.prod(map(len, kept)) <= 2 ** len(kept): break
        most = 0.9 * len(frames) * BYTES / size   # some frames are larger than the first
    draw(list(zip(controls, stands)))
    kind = lambda control: "checkbox" if isinstance(control, w.Checkbox) else "select" if isinstance(control, w.Dropdown) else "range"
    described = [dict(label=control.description or getattr(control, "_kwarg", ""), kind=kind(control), values=[all_[i][0] for i in places], at=places.index(i_at))
                 for control, all_, places, i_at in zip(controls, values, kept, at)]
    return dict(controls=described, frames=frames)


@contextmanager
def same_chance():
    "Random numbers go on afterwards as if nothing had been drawn."
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    for restore, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), states): restore(state)


TAKEN, SPENT = {}, []   # frames by the id of the widget's model, None for widgets that do not turn; seconds it took


def take(_result) -> None:
    "After each cell: the frames of its widgets, while all they need is as they found it."
    from ipywidgets.widgets import widget

    start = time.perf_counter()
    new = [(key, w) for key, w in list(widget._instances.items()) if key not in TAKEN and hasattr(w, "children")]
    for key, w in new:
        with same_chance(): TAKEN[key] = frames_of(w)
    SPENT.append(time.perf_counter() - start)


def begin() -> None:
    "Called in a notebook's kernel before its first cell."
    from IPython import get_ipython
    get_ipython().events.register("post_run_cell", take)


def end() -> None:
    "Called after the last: display what was taken."
    from IPython.display import display
    display({"application/json": dict(frames={key: frames for key, frames in TAKEN.items() if frames}, seconds=sum(SPENT))}, raw=True)


def page(found: dict) -> str:
    "A widget as the site shows it: its controls, the frame they stand on, and the others for site.js."
    sizes, fields = [len(c["values"]) for c in found["controls"]], []
    first = sum(c["at"] * math.prod(sizes[i + 1:]) for i, c in enumerate(found["controls"]))
    for c in found["controls"]:
        values = [str(value) for value in c["values"]]
        if c["kind"] == "checkbox": field = f'<input type="checkbox"{" checked" if c["at"] else ""}>'
        elif c["kind"] == "select": field = "<select>" + "".join(f"<option{' selected' if i == c['at'] else ''}>{html.escape(v)}</option>" for i, v in enumerate(values)) + "</select>"
        else: field = f'<input type="range" min="0" max="{len(values) - 1}" value="{c["at"]}" data-values="{html.escape(json.dumps(values))}" aria-valuetext="{html.escape(values[c["at"]])}"><output>{html.escape(values[c["at"]])}</output>'
        fields.append(f"<label><span>{html.escape(c['label'])}</span>{field}</label>")
    frames = json.dumps(dict(sizes=sizes, frames=found["frames"]), ensure_ascii=False).replace("</", "<\\/")
    return f'<div class="turn">{"".join(fields)}<div class="frame" aria-live="polite">{found["frames"][first]}</div><script type="application/json">{frames}</script></div>'
