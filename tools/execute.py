"""Run notebooks in place from a fresh kernel and keep their outputs: `python tools/execute.py nbs/00_tales.ipynb ...` (none named: all).

What their widgets show for a choice of values goes to docs/frames/."""
import base64
import json
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


def shrink(data: dict) -> None:
    "What a reader does not miss: most colours of a picture, the style sheet that pandas puts before each table."
    if "text/html" in data: data["text/html"] = re.sub(r"<style scoped>.*?</style>\n?", "", data["text/html"], flags=re.S)
    if "image/png" not in data: return
    raw = base64.b64decode(data["image/png"])
    data["image/png"] = base64.b64encode(min(raw, smaller(raw, 64, "png", optimize=True), key=len)).decode() + "\n"


def keep_frames(nb, taken: dict, path: Path) -> None:
    "Of each cell that shows widgets, their frames."
    shown = {c.id: [taken[o.data[WIDGET]["model_id"]] for o in c.get("outputs", ()) if o.get("data", {}).get(WIDGET, {}).get("model_id") in taken] for c in nb.cells}
    if not any(shown.values()): return path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({cell: frames for cell, frames in shown.items() if frames}, ensure_ascii=False, indent=0) + "\n", "utf-8")


def look_again(get_msg):
    "Wait for a message in slices of a second: now and then the wake-up for one that has come is missed (pyzmq issue 2173), and the wait would last to the timeout."
    async def get(self, timeout: float | None = None) -> dict:
        end = time.monotonic() + (1e9 if timeout is None else timeout)
        while True:
            try: return await get_msg(self, max(0.0, min(1.0, end - time.monotonic())))
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
    nb.metadata.pop("widgets", None)
    nb.cells.insert(0, nbformat.v4.new_code_cell(FIRST.format(tools=str(ROOT / "tools"))))
    nb.cells.append(nbformat.v4.new_code_cell(LAST))
    NotebookClient(nb, timeout=300, kernel_name="python3", store_widget_state=True, skip_cells_with_tag=SKIP,
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    seconds, taken = time.perf_counter() - start, nb.cells.pop().outputs[-1].data["application/json"]
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
    nb.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    nb.metadata.pop("language_info", None)
    nbformat.write(nb, path)
    return seconds - taken["seconds"]


if __name__ == "__main__":
    took = ROOT / "nbs" / "results" / "seconds.json"   # the site says how long a chapter runs
    for path in [Path(a) for a in sys.argv[1:]] or sorted((ROOT / "nbs").glob("*.ipynb")):
        seconds = round(execute(path))
        print(f"{path.name}: {seconds} s", flush=True)
        known = json.loads(took.read_text("utf-8")) if took.is_file() else {}
        took.write_text(json.dumps(dict(sorted((known | {path.stem: seconds}).items()))) + "\n", "utf-8")
