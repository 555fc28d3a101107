"README.md is the home page: nbs/index.ipynb as markdown, without the cells that only set it up."
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def markdown(path: Path) -> str:
    "Prose as it is; code in fences, its text output below it."
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown": parts.append(text)
        elif not text.startswith("#| hide"):
            fence = f"```\n{text[1:]}\n```" if text.startswith("!") else f"```python\n{text}\n```"
            parts.append(fence)
            said = [o.get("text", o.get("data", {}).get("text/plain", [])) for o in cell["outputs"]]
            shown = "".join("".join(text) for text in said).strip()
            if shown: parts.append(f"```text\n{shown}\n```")
    text = "\n\n".join(parts) + "\n"
    text = re.sub(r"\]\((\w+\.ipynb)\)", r"](nbs/\1)", text)   # links from the project's root
    return text.replace("](../", "](")


if __name__ == "__main__":
    sys.path.append(str(ROOT / "docs"))
    from home import draw_emergence

    draw_emergence(ROOT / "docs" / "_static" / "emergence.png", "#222222", "en")
    (ROOT / "README.md").write_text(markdown(ROOT / "nbs" / "index.ipynb"), "utf-8")
