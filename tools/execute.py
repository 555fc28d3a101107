"""Run notebooks in place from a fresh kernel: `python tools/execute.py nbs/00_tales.ipynb ...`.

None named: all. Their outputs are kept; what their widgets show for a choice of values goes to
docs/frames/. A cell that warns (of a letter without a font, say) fails as one that errs does."""
import base64
import json
import os
import re
import sys
import time
from pathlib import Path
from queue import Empty

import nbformat
from frames import FIRST, FOLDER, LAST, WIDGET, smaller
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SKIP = "skip-execution"
STATE = "application/vnd.jupyter.widget-state+json"


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


def execute(path: Path) -> float:
    "Run one notebook, store outputs and widget state in it, return the seconds it took."
    start, nb = time.perf_counter(), nbformat.read(path, 4)
    cells = [c for c in nb.cells if c.cell_type == "code"]
    for c in cells:
        if "#| eval: false" in c.source:
            c.metadata["tags"] = c.metadata.get("tags", []) + [SKIP]
    os.environ.pop("MPLBACKEND", None)   # a notebook shows its pictures, whatever else is set
    nb.metadata.pop("widgets", None)
    nb.cells.insert(0, nbformat.v4.new_code_cell(FIRST.format(tools=str(ROOT / "tools"))))
    nb.cells.append(nbformat.v4.new_code_cell(LAST))
    client = NotebookClient(nb, timeout=300, kernel_name="python3", store_widget_state=True,
                            skip_cells_with_tag=SKIP)
    client.resources = {"metadata": {"path": str(path.parent)}}
    client.execute()
    seconds = time.perf_counter() - start
    complain(path, cells)
    taken = nb.cells.pop().outputs[-1].data["application/json"]
    nb.cells.pop(0)
    keep_frames(nb, taken["frames"], FOLDER / f"{path.stem}.json")
    for c in cells:
        c.execution_count = None
        c.metadata.pop("execution", None)
        tags = [t for t in c.metadata.pop("tags", []) if t != SKIP]
        if tags: c.metadata["tags"] = tags
        for o in c.outputs:
            if "execution_count" in o: o["execution_count"] = None
            shrink(o.get("data", {}))
    for widget in nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {}).values():
        for o in widget["state"].get("outputs", ()): shrink(o.get("data", {}))
    nb.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    nb.metadata.pop("language_info", None)
    nbformat.write(nb, path)
    return seconds - taken["seconds"]


if __name__ == "__main__":
    took = ROOT / "nbs" / "results" / "seconds.json"   # the site says how long a chapter runs
    every = sorted((ROOT / "nbs").glob("*.ipynb"))
    for path in [Path(a) for a in sys.argv[1:]] or every:
        seconds = round(execute(path))
        print(f"{path.name}: {seconds} s", flush=True)
        known = json.loads(took.read_text("utf-8")) if took.is_file() else {}
        known[path.stem] = seconds
        took.write_text(json.dumps(dict(sorted(known.items()))) + "\n", "utf-8")
