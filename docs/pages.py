"The pages of the site, made from the notebooks: chapters, reference, home in two languages, llms.txt. conf.py calls `write_pages`."
import ast
import html
import importlib
import io
import json
import re
import shutil
import tokenize
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FunctionType

from frames import FOLDER, WIDGET, page

HERE = Path(__file__).parent
ROOT = HERE.parent
NBS = ROOT / "nbs"
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
GITHUB = f"{cfg['git_url']}/blob/{cfg['branch']}"
COLAB = GITHUB.replace("https://github.com/", "https://colab.research.google.com/github/")
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
FENCE = re.compile(r"(^```.*?^```|``[^`]+``|\$\$.*?\$\$|\]\([^)]*\)|<[^>]*>)", re.S | re.M)   # parts of prose in which no name is linked


def source(cell: dict) -> str: return "".join(cell["source"])


def directives(code: str) -> dict[str, str]:
    "nbdev's comments at the head of a cell: {'export': '', 'code-fold': 'true'}."
    found = {}
    for line in code.splitlines():
        if match := DIRECTIVE.match(line): found[match[1]] = match[2]
        elif line.strip(): break
    return found


def without_directives(code: str) -> str:
    return "\n".join(line for line in code.splitlines() if not DIRECTIVE.match(line)).strip("\n")


@dataclass
class Chapter:
    "One notebook."
    path: Path
    built: dict[str, str] = field(default_factory=dict)   # full name of what a cell exports -> the heading it stands under

    @property
    def stem(self) -> str: return self.path.stem

    @property
    def number(self) -> str: return self.stem[:2]

    @property
    def module(self) -> str: return f"gpt_nb.{self.stem[3:]}"

    @cached_property
    def cells(self) -> list[dict]: return json.loads(self.path.read_text("utf-8"))["cells"]

    @cached_property
    def head(self) -> tuple[str, str]:  # title, promise
        text = "\n".join(source(c) for c in self.cells[:3] if c["cell_type"] == "markdown")
        return re.search(r"^# (.+)$", text, re.M)[1], re.search(r"^> (.+)$", text, re.M)[1]

    @cached_property
    def chinese(self) -> tuple[str, str]:  # title, summary
        title, _, text = (HERE / "zh" / f"{self.stem}.md").read_text("utf-8").partition("\n")
        return title.removeprefix("# "), text.strip()

    @property
    def minutes(self) -> int:
        "To read it: 200 words of prose or 20 lines of code that are shown a minute."
        words = sum(len(source(c).split()) for c in self.cells if c["cell_type"] == "markdown")
        lines = sum(len(source(c).splitlines()) for c in self.cells if c["cell_type"] == "code" and shown(c))
        return round(words / 200 + lines / 20)

    @property
    def seconds(self) -> int | None:
        "To run it, as `make notebooks` last took."
        path = NBS / "results" / "seconds.json"
        return json.loads(path.read_text("utf-8")).get(self.stem) if path.is_file() else None

    @property
    def builds_on(self) -> list[str]:
        "Numbers of the chapters whose modules this one uses."
        used = set(re.findall(r"from gpt_nb\.(\w+) import", "\n".join(source(c) for c in self.cells if c["cell_type"] == "code")))
        return sorted(p.stem[:2] for p in NBS.glob("[0-9][0-9]_*.ipynb") if p.stem[3:] in used and p.stem[:2] < self.number)

    @cached_property
    def public(self) -> list[str]: return importlib.import_module(self.module).__all__


def shown(cell: dict) -> bool:
    said = directives(source(cell))
    return not (said.keys() & {"hide", "default_exp"} or said.get("include") == "false" or said.get("echo") == "false")


def defined(code: str) -> list[str]:
    "The names a cell defines at its top level."
    names = []
    for node in ast.parse(code).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.append(node.name)
        elif isinstance(node, ast.Assign): names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return names


def only_imports(code: str) -> bool:
    "A cell that a reader can skip: it imports, and at most sets up the fonts."
    setup = lambda node: isinstance(node, (ast.Import, ast.ImportFrom)) or ast.unparse(node) == "plot_fonts()"
    try: return len(code.splitlines()) > 3 and all(map(setup, ast.parse(code).body))
    except SyntaxError: return False   # a line that only Jupyter understands


def caption(chapter: Chapter, code: str, heading: str) -> dict:
    "What stands over an exported cell: the file it becomes part of, and the names it gives it, linked to their reference."
    names = [name for name in defined(code) if name in chapter.public]
    labels = "".join(f"(built-{chapter.module}.{name})=\n" for name in names)
    for name in names: chapter.built[f"{chapter.module}.{name}"] = heading
    links = ", ".join(f"{{py:obj}}`{name} <{chapter.module}.{name}>`" for name in names)
    file = f"[gpt_nb/{chapter.stem[3:]}.py](../reference/{chapter.stem}.md)"
    return dict(cell_type="markdown", metadata={}, source=f"{labels}{{.becomes}}\nbecomes part of {file}{': ' if links else ''}{links}")


def link_names(text: str, public: dict[str, str]) -> str:
    "The first time a cell's prose names something public in code letters, it links to its reference."
    seen = set()

    def link(match: re.Match) -> str:
        name, attribute, call = match.groups(default="")
        full = public.get(name)
        if not full or name + attribute in seen: return match[0]
        seen.add(name + attribute)
        return f"{{py:obj}}`{name}{attribute}{call} <{full}{attribute}>`"

    parts = FENCE.split(text)
    parts[::2] = [re.sub(r"(?<![\w`\[{}])`([A-Za-z_]\w*)(\.\w+)?(\([^`\n]*)?`(?!`)", link, part) for part in parts[::2]]
    return "".join(parts)


def publish_code(cell: dict, chapter: Chapter | None, heading: str) -> list[dict]:
    "A code cell as the site shows it: nbdev's directives become tags, an exported cell gets its caption, a widget what it shows for some of its values."
    code, said = source(cell), directives(source(cell))
    if said.keys() & {"hide", "default_exp"} or said.get("include") == "false": return []
    exported = any(name.startswith("export") for name in said)
    tags = {"exported": exported, "remove-input": said.get("echo") == "false", "remove-output": said.get("output") == "false",
            "hide-input": said.get("code-fold") == "true" or only_imports(code)}
    code, bar = without_directives(code), lambda o: re.search(r"\d%\|", "".join(o.get("data", {}).get("text/plain", ""))) and WIDGET in o["data"]
    cell = cell | {"outputs": [o for o in cell["outputs"] if not bar(o)]}   # what a progress bar left behind
    image = {"mystnb": {"image": {"alt": said["fig-alt"]}}} if said.get("fig-alt") else {}
    result = [cell | {"source": code, "metadata": {"tags": [tag for tag, wanted in tags.items() if wanted]} | image}]
    if exported and chapter and defined(code): result.insert(0, caption(chapter, code, heading))
    if chapter and any(map(is_widget, cell["outputs"])):
        result[-1]["outputs"] = list(turned(cell["outputs"], chapter, cell["id"]))
        note = f"{{.still}}\nWhat it shows for these values was drawn beforehand. [In Colab]({COLAB}/nbs/{chapter.path.name}) or with `make lab` Python stands behind it, and you can change the code."
        result.append(dict(cell_type="markdown", metadata={}, source=note))
    return result


def is_widget(output: dict) -> bool: return WIDGET in output.get("data", {})


def turned(outputs: list[dict], chapter: Chapter, cell: str) -> Iterator[dict]:
    "Outputs with the frames taken by execute.py in the place of their widgets."
    path = FOLDER / f"{chapter.stem}.json"
    frames = iter(json.loads(path.read_text("utf-8")).get(cell, []) if path.is_file() else [])
    for output in outputs:
        if not is_widget(output): yield output
        elif found := next(frames, None): yield dict(output_type="display_data", metadata={}, data={"text/html": page(found)})
        else: raise RuntimeError(f"{path} has no frames of cell {cell}: run tools/execute.py {chapter.path}")


def publish_prose(cell: dict, public: dict[str, str]) -> dict:
    "Jupyter writes the anchors of headings with capitals, the site without; names link to their reference."
    text = re.sub(r"\]\(#([^)]+)\)", lambda m: f"](#{m[1].lower()})", source(cell))
    return cell | {"source": link_names(text, public), "metadata": {}}


def head_of(chapter: Chapter) -> str:
    "Under the title: what it promises, what it takes, where to open it, a Chinese summary."
    title, promise = chapter.head
    takes = [f"{chapter.minutes} min to read"] + [f"{chapter.seconds} s to run"] * (chapter.seconds is not None)
    if chapter.builds_on: takes.append("builds on " + ", ".join(f"[{n}]({next(NBS.glob(n + '_*')).name})" for n in chapter.builds_on))
    links = [f"[open in Colab]({COLAB}/nbs/{chapter.path.name})", f"[on GitHub]({GITHUB}/nbs/{chapter.path.name})",
             f"{{download}}`download <../../nbs/{chapter.path.name}>`", f"[{chapter.module}](../reference/{chapter.stem}.md)"]
    name, summary = chapter.chinese
    return (f"# {title}\n\n> {promise}\n\n{{.facts}}\n{' · '.join(takes)}<br>{' · '.join(links)}\n\n"
            f'<details class="zh" lang="zh-CN"><summary>中文摘要：{name}</summary>\n\n{summary}\n\n</details>')


def publish(chapter: Chapter, public: dict[str, str]) -> list[dict]:
    "The cells of a chapter's page."
    cells, heading = [dict(cell_type="markdown", metadata={}, source=head_of(chapter))], chapter.head[0]
    for cell in chapter.cells:
        if cell["cell_type"] == "code":
            cells += publish_code(cell, chapter, heading)
            continue
        text = re.sub(r"\A\s*(# .+\n*)?(\s*> .+\n*)?", "", source(cell)) if cell in chapter.cells[:3] else source(cell)
        for line in re.findall(r"^#{2,} (.+)$", text, re.M): heading = line
        if text.strip(): cells.append(publish_prose(cell | {"source": text}, public))
    return cells


def write_notebook(cells: list[dict], path: Path, metadata: dict) -> None:
    for i, cell in enumerate(cells): cell["id"] = f"cell-{i}"
    metadata = {key: value for key, value in metadata.items() if key != "widgets"}
    path.write_text(json.dumps(dict(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5), ensure_ascii=False), "utf-8")


def comment_on(path: Path) -> dict[str, str]:
    "The comment at the end of a line that gives a name its value, and in lines of its own above it."
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT and (match := re.match(r"([A-Z]\w*) = ", token.line)): found.setdefault(match[1], token.string.lstrip("# "))
    return found


def reference_page(chapter: Chapter) -> str:
    "Every public name of a module, from its docstrings and docments."
    module, remarks = importlib.import_module(chapter.module), comment_on(ROOT / "gpt_nb" / f"{chapter.stem[3:]}.py")
    parts = []
    for name in chapter.public:
        thing = getattr(module, name)
        if isinstance(thing, type):
            methods = [key for key, value in vars(thing).items() if key[0] != "_" and isinstance(value, (FunctionType, classmethod, staticmethod, property, cached_property))]
            parts.append(f".. autoclass:: {chapter.module}.{name}\n" + (f"   :members: {', '.join(methods)}\n   :undoc-members:\n" if methods else ""))
        elif callable(thing): parts.append(f".. autofunction:: {chapter.module}.{name}\n")
        else:
            value = " ".join(repr(thing).split())
            remark = remarks.get(name, "")
            parts.append(f".. py:data:: {name}\n   :value: {value if len(value) < 80 else value[:77] + '...'}\n\n   {remark[:1].upper() + remark[1:]}\n\n   {built_in(chapter, name)}\n")
    body = "\n".join(parts)
    return (f"# {chapter.module}\n\n> {chapter.head[1]}\n\nBuilt in [chapter {chapter.number}, {chapter.head[0]}](../notebooks/{chapter.stem}.ipynb).\n\n"
            f"```{{eval-rst}}\n.. py:module:: {chapter.module}\n\n{body}\n```\n")


def built_in(chapter: Chapter, name: str) -> str:
    "A link from the reference to the cell that builds a name."
    full = f"{chapter.module}.{name}"
    if full not in chapter.built: return ""
    heading = re.sub(r"[`*|\\<>]", "", chapter.built[full])
    return f"Built in :ref:`chapter {chapter.number}, {heading} <built-{full}>`."


def chapter_table(chapters: list[Chapter]) -> str:
    rows = ["| | chapter | what you get | read | run | builds on |", "|---|---|---|---|---|---|"]
    for c in chapters:
        run = f"{c.seconds}&nbsp;s" if c.seconds is not None else ""
        rows.append(f"| {c.number} | [{c.head[0]}](notebooks/{c.stem}.ipynb) | {c.head[1]} | {c.minutes}&nbsp;min | {run} | {' '.join(c.builds_on)} |")
    return "\n".join(rows)


def chinese_chapters(chapters: list[Chapter]) -> str:
    return "\n\n".join(f"(zh-{c.number})=\n### {c.number} [{c.chinese[0]}](notebooks/{c.stem}.ipynb)\n\n{c.chinese[1]}" for c in chapters)


def house_story() -> tuple[str, str]:  # the prompt, what followed
    "A story that the house model writes while the site is built: the first of a series of seeds that the world finds to hold."
    import torch

    from gpt_nb.checkpoint import load_tokenizer
    from gpt_nb.model import GPT
    from gpt_nb.sampling import generate
    from gpt_nb.tales import Tales

    torch.set_num_threads(1)
    model, tok, world = GPT.from_pretrained("tales-en").float().eval(), load_tokenizer("tales-en"), Tales(level=2)
    for seed in range(100):
        ids = generate(model, [tok.end_id], max_new_tokens=model.config.context - 1, stop=[tok.end_id], seed=seed)
        text = tok.decode([i for i in ids if i != tok.end_id])
        if world.check(text).story == 1: return text, str(seed)
    raise RuntimeError("no story of 100 by tales-en holds: was the house model changed?")


def draw_emergence(path: Path, ink: str, labels: tuple[str, str, str, str]) -> None:
    "What emerges and in which order, from the committed measurement, on a clear background."
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from gpt_nb.tales import plot_fonts

    plot_fonts()
    grown = json.loads((NBS / "results" / "emergence.json").read_text("utf-8"))["tales" if labels[0].isascii() else "tales-zh"]
    with plt.rc_context({"text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": ink, "svg.fonttype": "path"}):
        fig, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
        for kind, color, label in zip(("words", "sentences", "story"), ("#4c9be8", "#f0883e", "#3fb950"), labels):
            runs = [[look[kind] for look in run] for run in grown["runs"]]
            tokens, low, high = [look["tokens"] for look in grown["runs"][0]], [min(r) for r in zip(*runs)], [max(r) for r in zip(*runs)]
            ax.fill_between(tokens, low, high, color=color, alpha=0.25, lw=0)
            ax.plot(tokens, [sum(r) / len(r) for r in zip(*runs)], color=color, lw=2.2, label=label)
        best = max(c["story"] for c in grown["counting"])
        ax.axhline(best, color=ink, ls="--", lw=1, label=labels[3])
        ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="tokens read" if labels[0].isascii() else "读过的词元")
        ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
        ax.spines[["top", "right"]].set_visible(False)
        fig.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
        fig.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(fig)


def growing(lang: str) -> str:
    "A slider through what one network wrote after each of a number of updates, with what the world says of it."
    from gpt_nb.tales import Tales

    name, label, said = {
        "en": ("tales", "tokens read", "{words:.0%} of words exist, {sentences:.0%} of sentences are well formed, {story:.0%} of stories hold."),
        "zh": ("tales-zh", "读过的词元", "{words:.0%} 的词确实存在，{sentences:.0%} 的句子合语法，{story:.0%} 的故事前后一致。")}[lang]
    looks, world, rows = json.loads((NBS / "results" / "emergence.json").read_text("utf-8"))[name]["runs"][0], Tales(lang), []
    for look in looks:
        check = world.check(look["sample"])
        verdict = ("; ".join(check.reasons[:2]) or "holds together") if lang == "en" else f"{len(check.reasons)} 处不对" if check.reasons else "前后一致"   # reasons are in English
        rows.append(f'<blockquote>{html.escape(look["sample"])}</blockquote><p class="verdict">→ {html.escape(verdict)}</p><p class="small">{said.format(**look)}</p>')
    tokens = dict(label=label, kind="range", values=[f"{look['tokens']:,}" for look in looks], at=0)
    return f'<div class="growing">{page(dict(controls=[tokens], frames=rows))}</div>'


def write_home(chapters: list[Chapter]) -> None:
    "index.md and zh.md from their templates."
    made = HERE / "_static" / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    english, chinese = ("words that exist", "sentences that are well formed", "stories that hold", "stories that hold, by counting"), ("存在的词", "合语法的句子", "前后一致的故事", "前后一致的故事（计数模型）")
    for lang, labels in (("en", english), ("zh", chinese)):
        for theme, ink in (("light", "#222222"), ("dark", "#dddddd")): draw_emergence(made / f"emergence-{lang}-{theme}.svg", ink, labels)
    story, seed = house_story()
    fill = {"STORY": html.escape(story), "SEED": seed, "GROWINGEN": growing("en"), "GROWINGZH": growing("zh"), "CHAPTERS": chapter_table(chapters), "CHINESE": chinese_chapters(chapters),
            "TOC": "\n".join(f"{c.number} {c.head[0]} <notebooks/{c.stem}>" for c in chapters), "HOURS": str(round(sum(c.minutes for c in chapters) / 60))}
    for name in ("index", "zh"):
        template = (HERE / f"{name}.template.md").read_text("utf-8")
        (HERE / f"{name}.md").write_text(re.sub(r"@([A-Z]+)@", lambda m: fill[m[1]], template), "utf-8")


def write_use(target: Path) -> None:
    "README's text as a page of its own, without its table of chapters."
    from readme import markdown

    text = markdown(NBS / "index.ipynb")
    text = re.sub(r"^## Chapters\n.*?(?=^## )", "", text, flags=re.M | re.S)
    text = re.sub(r"\]\((CONTRIBUTING\.md|LICENSE)\)", rf"]({GITHUB}/\1)", text.replace("](nbs/", "](notebooks/"))
    target.write_text(re.sub(r"\A# .*", "# Use it", text), "utf-8")


def llms(chapters: list[Chapter]) -> str:
    "The site for programs that read (llmstxt.org): what there is and where."
    base = cfg["doc_host"] + cfg["doc_baseurl"]
    raw = GITHUB.replace("https://github.com/", "https://raw.githubusercontent.com/").replace("/blob/", "/")
    lines = [f"# {cfg['title']}", "", f"> {cfg['description']}: numbered Jupyter notebooks build it and are exported into the Python package `gpt_nb`.", "", "## Chapters", ""]
    lines += [f"- [{c.number} {c.head[0]}]({raw}/nbs/{c.path.name}): {c.head[1]}" for c in chapters]
    lines += ["", "## Modules", ""]
    lines += [f"- [{c.module}]({base}/reference/{c.stem}.html): {', '.join(c.public)}" for c in chapters]
    return "\n".join([*lines, "", "## Optional", "", f"- [README]({raw}/README.md)", f"- [What popular articles get wrong]({base}/notebooks/claims.html)", ""])


def write_pages() -> list[Chapter]:
    "All of it, into docs/."
    chapters = [Chapter(path) for path in sorted(NBS.glob("[0-9][0-9]_*.ipynb"))]
    public = {name: f"{c.module}.{name}" for c in chapters for name in c.public if name not in ("pydocs", "pycode")}   # these mean the texts
    for folder in ("notebooks", "reference"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for c in chapters:
        write_notebook(publish(c, public), HERE / "notebooks" / c.path.name, json.loads(c.path.read_text("utf-8"))["metadata"])
        (HERE / "reference" / f"{c.stem}.md").write_text(reference_page(c), "utf-8")
    for name in ("claims",):
        nb = json.loads((NBS / f"{name}.ipynb").read_text("utf-8"))
        cells = [new for cell in nb["cells"] for new in ([publish_prose(cell, public)] if cell["cell_type"] == "markdown" else publish_code(cell, None, ""))]
        write_notebook(cells, HERE / "notebooks" / f"{name}.ipynb", nb["metadata"])
    toc = "\n".join(c.stem for c in chapters)
    (HERE / "reference" / "index.md").write_text(f"# Reference\n\nEvery public name, from the comments and docstrings of the code. `from gpt_nb.all import *` gives them all.\n\n"
                                                 f"```{{toctree}}\n:maxdepth: 2\n\n{toc}\n```\n", "utf-8")
    write_home(chapters)
    write_use(HERE / "use.md")
    return chapters
