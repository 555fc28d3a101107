"""Run notebooks in place from a fresh kernel: `python tools/execute.py nbs/00_tales.ipynb ...`.

None named: all. Their outputs are kept; what their widgets show for a choice of values goes to
docs/frames/. A cell that warns (of a letter without a font, say) fails as one that errs does.

What is run again unchanged comes out unchanged. What a cell tagged `varies` shows (times, last
digits) stays as git has it while the cells above that were not edited say what they said, its own
words are the same and no number is ten times the other. `--times` takes all anew, and the seconds
that each chapter runs."""
import base64
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty

import nbformat
from frames import FIRST, FOLDER, LAST, WIDGET, left_by_a_bar, smaller
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SKIP, VARIES, LIVE = "skip-execution", "varies", "live-"   # tags, and how one begins
SAME, NEAR = 1.01, 10   # how many times as large a number may be: rounding; another machine
STATE = "application/vnd.jupyter.widget-state+json"
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def shrink(data: dict) -> None:
    "What a reader does not miss: most colours of a picture, pandas' style sheet before each table."
    if "text/html" in data:
        style = r"<style scoped>.*?</style>\n?"
        data["text/html"] = re.sub(style, "", data["text/html"], flags=re.S)
    if "image/png" in data:
        raw = base64.b64decode(data["image/png"])
        best = min(raw, smaller(raw, 64, "png", optimize=True), key=len)
        data["image/png"] = base64.b64encode(best).decode() + "\n"


def widget_of(output: dict) -> str | None:
    "The id of the widget that an output shows."
    return output.get("data", {}).get(WIDGET, {}).get("model_id")


def keep_frames(nb, taken: dict, path: Path) -> None:
    "Of each cell that shows widgets, their frames."
    shown = {}
    for c in nb.cells:
        frames = [taken[widget_of(o)] for o in c.get("outputs", ()) if widget_of(o) in taken]
        if frames: shown[c.id] = frames
    if not shown: return path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(shown, ensure_ascii=False, indent=0) + "\n", "utf-8")


def name_widgets(nb) -> None:
    "Widgets go by the cell that shows them and a number, in the place of ids drawn by chance."
    state, names = nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {}), {}

    def inside(key):   # a widget and all that it is made of
        yield key
        for part in re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[key], sort_keys=True)):
            yield from inside(part)

    for c in nb.cells:
        shown = [o for o in c.get("outputs", ()) if widget_of(o) in state]
        parts = dict.fromkeys(key for o in shown for key in inside(widget_of(o)))
        names |= {key: f"{c.id}-{i}" for i, key in enumerate(parts)}
        for o in shown: o.data[WIDGET]["model_id"] = names[widget_of(o)]
    if not names: return nb.metadata.pop("widgets", None)
    text = json.dumps({key: state[key] for key in names})
    new = re.sub("|".join(names), lambda match: names[match[0]], text)
    nb.metadata["widgets"][STATE]["state"] = json.loads(new)


def committed(path: Path) -> dict:
    "The cells of a notebook as git has it, by their ids."
    command = ["git", "show", f"HEAD:./{path.name}"]
    try: done = subprocess.run(command, cwd=path.parent, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError): return {}   # new, or no git
    return {c.id: c for c in nbformat.reads(done.stdout.decode(), 4).cells}


def words(outputs: list) -> str:
    "All that outputs show, pictures as a mark: what lines columns up is left out."
    text = json.dumps(outputs, sort_keys=True, ensure_ascii=False)
    text = re.sub(r'("image/png": )"[^"]*"', r"\1", text)
    return re.sub(r"[ -]+", " ", text)


def near(old: list, new: list, factor: float) -> bool:
    "Whether outputs say the same in the same words, no number more than so many times the other."
    a, b = words(old), words(new)
    if NUMBER.sub("", a) != NUMBER.sub("", b): return False
    for x, y in zip(NUMBER.findall(a), NUMBER.findall(b)):
        low, high = sorted(float(number.replace(",", "")) for number in (x, y))
        if high > factor * low: return False
    return True


def keep_what_varies(cells: list, before: dict) -> None:
    "Until a cell that was not edited says something new: from there on all is new."
    for c in cells:
        old = before.get(c.id)
        if old is None or old.source != c.source: continue
        if VARIES not in c.metadata.get("tags", ()):
            if not near(old.outputs, c.outputs, SAME): return
        elif near(old.outputs, c.outputs, NEAR): c.outputs = old.outputs


def complain(path: Path, cells: list) -> None:
    "What a reader should not see on a page, such as a warning of a letter that no font has."
    said = []
    for c in cells:
        said += [(c.id, o.evalue) for o in c.outputs if o.output_type == "error"]
        said += [(c.id, o.text) for o in c.outputs if o.get("name") == "stderr"]
    wrong = [f"{path.name}, cell {cell} says: {text}" for cell, text in said]
    if wrong: raise RuntimeError("\n".join(wrong))


def look_again(get_msg):
    """Wait for a message in slices of a second.

    Now and then the wake-up for one that has come is missed (pyzmq issue 2173), and the wait would
    last to the timeout."""
    async def get(self, timeout: float | None = None) -> dict:
        end = time.monotonic() + (1e9 if timeout is None else timeout)
        while True:
            left = max(0.0, end - time.monotonic())
            try: return await get_msg(self, min(1.0, left))
            except Empty:
                if time.monotonic() >= end: raise
    return get


AsyncZMQSocketChannel.get_msg = look_again(AsyncZMQSocketChannel.get_msg)


def live_cells(nb) -> dict[str, str]:
    "By their text, the cells whose widget a page computes, and the module that does so."
    tags = [(c.source, tag) for c in nb.cells for tag in c.metadata.get("tags", ())]
    return {text: tag.removeprefix(LIVE) for text, tag in tags if tag.startswith(LIVE)}


def run(nb, path: Path) -> tuple[float, dict]:
    "Run a notebook in a fresh kernel: the seconds it took, the frames of its widgets."
    start, tools = time.perf_counter(), str(ROOT / "tools")
    os.environ.pop("MPLBACKEND", None)   # a notebook shows its pictures, whatever else is set
    nb.metadata.pop("widgets", None)
    first = FIRST.format(tools=tools, name=path.stem, live=live_cells(nb))
    nb.cells.insert(0, nbformat.v4.new_code_cell(first))
    nb.cells.append(nbformat.v4.new_code_cell(LAST))
    client = NotebookClient(nb, timeout=300, kernel_name="python3", store_widget_state=True,
                            coalesce_streams=True, skip_cells_with_tag=SKIP)
    client.resources = {"metadata": {"path": str(path.parent)}}
    client.execute()
    seconds = time.perf_counter() - start
    complain(path, [c for c in nb.cells if c.cell_type == "code"])
    taken = nb.cells.pop().outputs[-1].data["application/json"]
    nb.cells.pop(0)
    return seconds - taken["seconds"], taken["frames"]


def tidy(cell) -> None:
    "No counts, no moments, no bars, no names drawn by chance in what is stored of a cell."
    cell.execution_count = None
    cell.metadata.pop("execution", None)
    tags = [tag for tag in cell.metadata.pop("tags", []) if tag != SKIP]
    if tags: cell.metadata["tags"] = tags
    cell.outputs = [o for o in cell.outputs if not left_by_a_bar(o)]
    for o in cell.outputs:
        if "execution_count" in o: o["execution_count"] = None
        data = o.get("data", {})
        shrink(data)
        if "text/html" in data:   # pandas gives a styled table five letters of its own
            named = re.sub(r"\bT_[0-9a-f]{5}(?=[\"_ ])", f"T_{cell.id}", data["text/html"])
            data["text/html"] = named


def execute(path: Path, anew: bool = False) -> float:
    "Run one notebook, store outputs and widget state in it, return the seconds it took."
    nb = nbformat.read(path, 4)
    cells = [c for c in nb.cells if c.cell_type == "code"]
    for c in cells:
        if "#| eval: false" in c.source:
            c.metadata["tags"] = c.metadata.get("tags", []) + [SKIP]
    seconds, frames = run(nb, path)
    keep_frames(nb, frames, FOLDER / f"{path.stem}.json")
    for c in cells: tidy(c)
    name_widgets(nb)
    for widget in nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {}).values():
        for o in widget["state"].get("outputs", ()): shrink(o.get("data", {}))
    if not anew: keep_what_varies(cells, committed(path))
    nb.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    nb.metadata.pop("language_info", None)
    nbformat.write(nb, path)
    return seconds


def main(names: list[str], anew: bool) -> None:
    took = ROOT / "nbs" / "results" / "seconds.json"   # the site says how long a chapter runs
    for path in [Path(name) for name in names] or sorted((ROOT / "nbs").glob("*.ipynb")):
        seconds = round(execute(path, anew))
        print(f"{path.name}: {seconds} s", flush=True)
        known = json.loads(took.read_text("utf-8"))
        if anew or path.stem not in known:
            known[path.stem] = seconds
            took.write_text(json.dumps(dict(sorted(known.items()))) + "\n", "utf-8")


if __name__ == "__main__":
    given = sys.argv[1:]
    main([name for name in given if name != "--times"], "--times" in given)
