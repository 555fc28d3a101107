"Chapters as the site shows them: a notebook's cells with captions, folds, links and widgets."
import ast
import html
import json
import re
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from frames import FOLDER, WIDGET, left_by_a_bar, page

HERE = Path(__file__).parent
ROOT = HERE.parent
NBS = ROOT / "nbs"
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
GITHUB = f"{cfg['git_url']}/blob/{cfg['branch']}"
COLAB = GITHUB.replace("https://github.com/", "https://colab.research.google.com/github/")
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
NOT_PROSE = (r"^```.*?^```", r"``[^`]+``", r"\$\$.*?\$\$", r"\]\([^)]*\)", r"<[^>]*>")
FENCE = re.compile(f"({'|'.join(NOT_PROSE)})", re.S | re.M)   # in these no name is linked
NO_TERMS = (*NOT_PROSE, r"^#.*?$", r"^> .*?$", r"`[^`]*`", r"\$[^$]*\$", r"\[[^\]]*\]")
QUIET = re.compile(f"({'|'.join(NO_TERMS)})", re.S | re.M)    # nor any word in these


def source(cell: dict) -> str: return "".join(cell["source"])


def directives(code: str) -> dict[str, str]:
    "nbdev's comments at the head of a cell: {'export': '', 'fig-alt': 'A line'}."
    found = {}
    for line in code.splitlines():
        if match := DIRECTIVE.match(line): found[match[1]] = match[2]
        elif line.strip(): break
    return found


def without_directives(code: str) -> str:
    return "\n".join(line for line in code.splitlines() if not DIRECTIVE.match(line)).strip("\n")


class Chinese(NamedTuple):
    "What docs/zh/NN_name.md says of a chapter."
    title: str
    summary: str
    sections: list[str]   # its headings, in order
    remember: list[str]   # three things


@dataclass
class Chapter:
    "One notebook."
    path: Path
    built: dict[str, str] = field(default_factory=dict)   # exported name -> heading over its cell

    @property
    def stem(self) -> str: return self.path.stem

    @property
    def number(self) -> str: return self.stem.partition("_")[0]

    @property
    def module(self) -> str: return f"gpt_nb.{self.stem.partition('_')[2]}"

    @cached_property
    def cells(self) -> list[dict]: return json.loads(self.path.read_text("utf-8"))["cells"]

    @cached_property
    def head(self) -> tuple[str, str]:  # title, promise
        text = "\n".join(source(c) for c in self.cells[:3] if c["cell_type"] == "markdown")
        return re.search(r"^# (.+)$", text, re.M)[1], re.search(r"^> (.+)$", text, re.M)[1]

    @cached_property
    def sections(self) -> list[str]:
        "Its headings of the second level."
        prose = "\n".join(source(c) for c in self.cells if c["cell_type"] == "markdown")
        return re.findall(r"^## (.+)$", prose, re.M)

    @cached_property
    def chinese(self) -> Chinese:
        text = (HERE / "zh" / f"{self.stem}.md").read_text("utf-8")
        head, *parts = re.split(r"^## (.+)\n", text, flags=re.M)
        title, _, summary = head.partition("\n")
        items = [re.findall(r"^(?:-|\d\.) (.+)$", body, re.M) for body in parts[1::2]]
        lists = dict(zip(parts[::2], items))
        sections, remember = lists.get("各节", []), lists.get("记住三点", [])
        return Chinese(title.removeprefix("# "), summary.strip(), sections, remember)

    @property
    def minutes(self) -> tuple[int, int]:
        "To read its text alone, and its code too: 200 words or 20 lines a minute."
        prose = [source(c) for c in self.cells if c["cell_type"] == "markdown"]
        prose = [re.sub(r"<details>.*?</details>", "", text, flags=re.S) for text in prose]
        code = [source(c) for c in self.cells if c["cell_type"] == "code" and open_to_read(c)]
        text = sum(len(p.split()) for p in prose) / 200
        return round(text), round(text + sum(len(c.splitlines()) for c in code) / 20)

    @property
    def seconds(self) -> int | None:
        "To run it, as `make notebooks` last took."
        path = NBS / "results" / "seconds.json"
        return json.loads(path.read_text("utf-8")).get(self.stem) if path.is_file() else None

    @property
    def builds_on(self) -> list[str]:
        "Numbers of the chapters whose modules this one uses."
        code = "\n".join(source(c) for c in self.cells if c["cell_type"] == "code")
        used = set(re.findall(r"from gpt_nb\.(\w+) import", code))
        stems = [path.stem.partition("_") for path in NBS.glob("[0-9][0-9]*_*.ipynb")]
        numbers = {name: number for number, _, name in stems}
        below = {numbers[name] for name in used & numbers.keys()}
        return sorted(number for number in below if number < self.number)

    @cached_property
    def public(self) -> list[str]: return import_module(self.module).__all__


def folded(cell: dict) -> bool: return "fold" in cell["metadata"].get("tags", ())


def hidden(said: dict[str, str]) -> bool:
    return bool(said.keys() & {"hide", "default_exp"}) or said.get("include") == "false"


def open_to_read(cell: dict) -> bool:
    said = directives(source(cell))
    return not (hidden(said) or said.get("echo") == "false" or folded(cell))


def defined(code: str) -> list[str]:
    "The names a cell defines at its top level."
    names = []
    for node in ast.parse(code).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return names


def in_one_line(code: str) -> str:
    "What stands on a folded cell: signature and docstring of what it defines, or its names."
    try: nodes = [n for n in ast.parse(code).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    except SyntaxError: nodes = []
    if not nodes:
        names = ", ".join(defined(code)[:6])
        return names or ("imports" if "import " in code else "code")
    first, rest = nodes[0], [node.name for node in nodes[1:]]
    names = [a.arg for a in first.args.args] if isinstance(first, ast.FunctionDef) else None
    line = first.name if names is None else f"{first.name}({', '.join(names)})"
    if note := ast.get_docstring(first): line += f": {note.splitlines()[0]}"
    return line + (f" And {', '.join(rest)}." if rest else "")


def only_imports(code: str) -> bool:
    "A cell that a reader can skip: it imports, and at most sets up the fonts."
    imports = (ast.Import, ast.ImportFrom)
    try: body = ast.parse(code).body
    except SyntaxError: return False   # a line that only Jupyter understands
    setup = [isinstance(n, imports) or ast.unparse(n) == "plot_fonts()" for n in body]
    return len(code.splitlines()) > 3 and all(setup)


def built_label(module: str, name: str) -> str:
    "Of the cell that builds a name; labels know no capitals, and there are Score and score."
    return f"built-{module}.{name}" + ("-class" if name[0].isupper() else "")


def caption(chapter: Chapter, code: str, heading: str, fold: bool) -> dict:
    "What stands over an exported cell: the file it becomes part of, and its names, linked."
    names = [name for name in defined(code) if name in chapter.public]
    labels = "".join(f"({built_label(chapter.module, name)})=\n" for name in names)
    for name in names: chapter.built[f"{chapter.module}.{name}"] = heading
    links = ", ".join(f"{{py:obj}}`{name} <{chapter.module}.{name}>`" for name in names)
    file = f"[{chapter.module.replace('.', '/')}.py](../reference/{chapter.stem}.md)"
    style = ".becomes .folded" if fold else ".becomes"
    text = f"{labels}{{{style}}}\nbecomes part of {file}{': ' if links else ''}{links}"
    return dict(cell_type="markdown", metadata={}, source=text)


def link_names(text: str, public: dict[str, str]) -> str:
    "The first time a cell names something public in code letters, it links to its reference."
    seen = set()

    def link(match: re.Match) -> str:
        name, attribute, call = match.groups(default="")
        full = public.get(name)
        if not full or name + attribute in seen: return match[0]
        seen.add(name + attribute)
        return f"{{py:obj}}`{name}{attribute}{call} <{full}{attribute}>`"

    parts = FENCE.split(text)
    code = re.compile(r"(?<![\w`\[{}])`([A-Za-z_]\w*)(\.\w+)?(\([^`\n]*)?`(?!`)")
    parts[::2] = [code.sub(link, part) for part in parts[::2]]
    return "".join(parts)


class Term(NamedTuple):
    "An entry of the glossary."
    name: str
    forms: list[str]
    chinese: str
    meaning: str
    chinese_meaning: str
    chapter: str

    @property
    def anchor(self) -> str: return "term-" + re.sub(r"\W+", "-", self.name.lower()).strip("-")


@lru_cache(None)
def glossary() -> list[Term]:
    lines = (HERE / "glossary.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    return [Term(name, forms.split("|"), *rest) for name, forms, *rest in rows]


def link_terms(text: str, left: dict[str, Term]) -> str:
    "The first time a chapter uses a word of the glossary, it links there; `left`: still to come."
    def link(match: re.Match) -> str:
        term = left.get(match[0].lower())
        if term is None: return match[0]
        for form in term.forms: left.pop(form.lower(), None)
        return f"[{match[0]}](../glossary.md#{term.anchor}){{.term}}"

    forms = sorted((form for term in glossary() for form in term.forms), key=len, reverse=True)
    words = re.compile(rf"(?<![\w/-])({'|'.join(map(re.escape, forms))})(?![\w/-])", re.I)
    parts = QUIET.split(text)
    parts[::2] = [words.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def publish_code(cell: dict, chapter: Chapter | None, heading: str) -> list[dict]:
    "A code cell as the site shows it: with caption, folds, frames in the place of widgets."
    said, code = directives(source(cell)), without_directives(source(cell))
    if hidden(said): return []
    exported, fold = any(name.startswith("export") for name in said), folded(cell)
    tags = {"exported": exported, "remove-input": said.get("echo") == "false",
            "remove-output": said.get("output") == "false",
            "hide-input": fold or said.get("code-fold") == "true" or only_imports(code)}
    metadata = {"tags": [tag for tag, wanted in tags.items() if wanted], "mystnb": {}}
    if said.get("fig-alt"): metadata["mystnb"]["image"] = {"alt": said["fig-alt"]}
    if "hide-input" in metadata["tags"]:
        line = in_one_line(code)
        metadata["mystnb"] |= dict(code_prompt_show=line, code_prompt_hide=line)
    outputs = [o for o in cell["outputs"] if not left_by_a_bar(o)]
    result = [cell | dict(outputs=outputs, source=code, metadata=metadata)]
    if exported and chapter and defined(code):
        result.insert(0, caption(chapter, code, heading, fold))
    if chapter and any(map(is_widget, outputs)):
        result[-1]["outputs"] = list(turned(outputs, chapter, cell["id"]))
        result.append(dict(cell_type="markdown", metadata={}, source=still(chapter, live(cell))))
    return result


def is_widget(output: dict) -> bool: return WIDGET in output.get("data", {})


def live(cell: dict) -> str:
    "The module of gpt_nb/web/live that computes a cell's widget in the page, if there is one."
    tags = [tag for tag in cell["metadata"].get("tags", ()) if tag.startswith("live-")]
    return tags[0].removeprefix("live-") if tags else ""


def still(chapter: Chapter, module: str) -> str:
    "What stands under a widget."
    said = "What it shows for these values was drawn beforehand. "
    if module:
        said = ("Your browser computes what it shows: "
                f"[{module}.js]({GITHUB}/gpt_nb/web/live/{module}.js). ")
    return (f"{{.still}}\n{said}[In Colab]({COLAB}/nbs/{chapter.path.name}) or with `make lab` "
            "Python stands behind it, and you can change the code.")


def turned(outputs: list[dict], chapter: Chapter, cell: str) -> Iterator[dict]:
    "Outputs with the frames taken by tools/execute.py in the place of their widgets."
    path = FOLDER / f"{chapter.stem}.json"
    frames = iter(json.loads(path.read_text("utf-8")).get(cell, []) if path.is_file() else [])
    for output in outputs:
        found = next(frames, None) if is_widget(output) else None
        html = {"text/html": page(found)} if found else {}
        if found: yield dict(output_type="display_data", metadata={}, data=html)
        elif not is_widget(output): yield output
        else:
            raise RuntimeError(f"{path} has no frames of cell {cell}: "
                               f"run tools/execute.py {chapter.path}")


def publish_prose(cell: dict, public: dict[str, str], terms: dict[str, Term]) -> dict:
    "Jupyter writes the anchors of headings with capitals, the site without; names and terms link."
    text = re.sub(r"\]\(#([^)]+)\)", lambda m: f"](#{m[1].lower()})", source(cell))
    return cell | {"source": link_names(link_terms(text, terms), public), "metadata": {}}


def head_of(chapter: Chapter) -> str:
    "Under the title: what it promises, what it takes, where to open it, a Chinese summary."
    title, promise = chapter.head
    text, both = chapter.minutes
    takes = [f"{text} min for the text, {both} with its code"]
    if chapter.seconds is not None: takes.append(f"{chapter.seconds} s to run")
    on = [f"[{n}]({next(NBS.glob(n + '_*')).name})" for n in chapter.builds_on]
    if on: takes.append("builds on " + ", ".join(on))
    name = chapter.path.name
    links = [f"[open in Colab]({COLAB}/nbs/{name})", f"[on GitHub]({GITHUB}/nbs/{name})",
             f"{{download}}`download <../../nbs/{name}>`",
             f"[{chapter.module}](../reference/{chapter.stem}.md)"]
    zh = chapter.chinese
    points = "".join(f"{i}. {point}\n" for i, point in enumerate(zh.remember, 1))
    facts = f"{{.facts}}\n{' · '.join(takes)}<br>{' · '.join(links)}"
    label = f"<summary>中文摘要：{html.escape(zh.title)}</summary>"
    chinese = f'<details class="zh" lang="zh-CN">{label}\n\n{zh.summary}\n\n{points}\n</details>'
    return f"# {title}\n\n> {promise}\n\n{facts}\n\n{chinese}"


def all_terms() -> dict[str, Term]:
    return {form.lower(): term for term in glossary() for form in term.forms}


def publish(chapter: Chapter, public: dict[str, str]) -> list[dict]:
    "The cells of a chapter's page."
    cells = [dict(cell_type="markdown", metadata={}, source=head_of(chapter))]
    heading, terms = chapter.head[0], all_terms()
    for i, cell in enumerate(chapter.cells):
        if cell["cell_type"] == "code":
            cells += publish_code(cell, chapter, heading)
            continue
        text = source(cell)
        if i < 3: text = re.sub(r"\A\s*(# .+\n*)?(\s*> .+\n*)?", "", text)   # it is in the head
        for line in re.findall(r"^#{2,} (.+)$", text, re.M): heading = line
        if text.strip(): cells.append(publish_prose(cell | {"source": text}, public, terms))
    return cells


def publish_plain(path: Path, public: dict[str, str]) -> list[dict]:
    "The cells of a notebook that is no chapter."
    cells, terms = [], all_terms()
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code": cells += publish_code(cell, None, "")
        else: cells.append(to_github(publish_prose(cell, public, terms)))
    return cells


def to_github(cell: dict) -> dict:
    "Prose whose links to files that are no pages of the site lead to where they can be read."
    text = re.sub(r"\]\(\.\./([\w/]+\.(?:py|md))\)", rf"]({GITHUB}/\1)", cell["source"])
    return cell | {"source": text}


def write_notebook(cells: list[dict], original: Path, path: Path) -> None:
    for i, cell in enumerate(cells): cell["id"] = f"cell-{i}"
    metadata = json.loads(original.read_text("utf-8"))["metadata"]
    metadata.pop("widgets", None)
    nb = dict(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(nb, ensure_ascii=False), "utf-8")
