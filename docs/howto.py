"""The page "How do I ...?" in two languages: the blocks of nbs/howto.ipynb, in Chinese with the
words of docs/zh/howto.md."""
import json
import re
from collections.abc import Iterator
from pathlib import Path

from chapters import (GITHUB, HERE, NBS, directives, hidden, publish_code, publish_prose, source,
                      write_notebook)
from home import slug

NOTEBOOK = NBS / "howto.ipynb"
COMMANDS, FILE = re.compile(r"(?:![^\n]*\n?)+\Z"), re.compile(r"%%writefile (\S+)\n")


def said_by(cell: dict) -> str:
    "What a cell printed."
    return "".join("".join(o.get("text", "")) for o in cell["outputs"]).strip()


def block(cell: dict) -> list[dict]:
    "A code cell: commands and files as they are copied, Python as in a chapter."
    code = source(cell)
    if hidden(directives(code)): return []
    if COMMANDS.match(code):
        commands = re.sub(r"^!", "", code.strip(), flags=re.M)
        said = said_by(cell)
        shown = f"\n\n```text\n{said}\n```" if said else ""
        return [prose(f"```sh\n{commands}\n```{shown}")]
    if name := FILE.match(code):
        return [prose(f"`{name[1]}`:\n\n```python\n{code[name.end():].strip()}\n```")]
    return publish_code(cell, None, "")


def prose(text: str) -> dict: return dict(cell_type="markdown", metadata={}, source=text)


def linked(text: str) -> str:
    "Links as the site has them, to headings and out of the notebooks' folder."
    text = re.sub(r"\]\(#([^)]+)\)", lambda m: f"](#{slug(m[1])})", text)
    return text.replace("](../CONTRIBUTING.md)", f"]({GITHUB}/CONTRIBUTING.md)")


def cells() -> list[dict]: return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def english(public: dict[str, str]) -> list[dict]:
    "The page as the notebook has it."
    made = []
    for cell in cells():
        if cell["cell_type"] == "code": made += block(cell)
        else: made.append(publish_prose(prose(linked(source(cell))), public, {}))
    return made


def questions(text: str) -> list[str]: return re.findall(r"^### (.+)$", text, re.M)


def pieces(text: str) -> Iterator[str]:
    "The prose of the Chinese page, in the order of the notebook's cells: headings stand alone."
    for part in re.split(r"^(#{2,} .+)$|^---$", text, flags=re.M):
        if part and part.strip(): yield part.strip()


def contents(text: str) -> str:
    "Groups with links to their questions."
    lines, number = [], 0
    for title, body in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        links = []
        for question in questions(body):
            links.append(f"[{question}](#howto-zh-{number})")
            number += 1
        lines.append(f"**{title}**\n\n" + "\n".join(f"- {link}" for link in links))
    return "\n\n".join(lines)


def chinese(public: dict[str, str]) -> list[dict]:
    "The same blocks between Chinese words."
    text = (HERE / "zh" / "howto.md").read_text("utf-8")
    parts, made, number = pieces(text), [], 0
    for i, cell in enumerate(cells()):
        if cell["cell_type"] == "code":
            made += block(cell)
            continue
        part = contents(text) if i == 1 else next(parts)   # the second cell lists the questions
        if part.startswith("### "):
            part = f"(howto-zh-{number})=\n{part}"
            number += 1
        made.append(publish_prose(prose(linked(part)), public, {}))
    left = list(parts)
    if left: raise RuntimeError(f"docs/zh/howto.md has more than nbs/howto.ipynb: {left[0][:60]}")
    return made


def write_howto(folder: Path, public: dict[str, str]) -> None:
    write_notebook(english(public), NOTEBOOK, folder / "howto.ipynb")
    write_notebook(chinese(public), NOTEBOOK, folder / "howto-zh.ipynb")
