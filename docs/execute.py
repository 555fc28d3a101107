"""Run notebooks in place from a fresh kernel and keep their outputs: `python docs/execute.py nbs/00_tales.ipynb ...` (none named: all)."""
import base64
import io
import json
import sys
import time
from pathlib import Path
from queue import Empty

import nbformat
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SKIP = "skip-execution"


def shrink(data: dict) -> None:
    "A picture of few colours needs a palette only: a third of the size, no visible loss."
    from PIL import Image

    if "image/png" not in data: return
    small, raw = io.BytesIO(), base64.b64decode(data["image/png"])
    Image.open(io.BytesIO(raw)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    if small.tell() < len(raw): data["image/png"] = base64.b64encode(small.getvalue()).decode() + "\n"


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
    NotebookClient(nb, timeout=300, kernel_name="python3", store_widget_state=True, skip_cells_with_tag=SKIP,
                   resources={"metadata": {"path": str(path.parent)}}).execute()
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
    return time.perf_counter() - start


if __name__ == "__main__":
    took = ROOT / "nbs" / "results" / "seconds.json"   # the site says how long a chapter runs
    for path in [Path(a) for a in sys.argv[1:]] or sorted((ROOT / "nbs").glob("*.ipynb")):
        seconds = round(execute(path))
        print(f"{path.name}: {seconds} s", flush=True)
        known = json.loads(took.read_text("utf-8")) if took.is_file() else {}
        took.write_text(json.dumps(dict(sorted((known | {path.stem: seconds}).items()))) + "\n", "utf-8")
