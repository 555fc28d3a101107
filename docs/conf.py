"The site: the notebooks of ../nbs with the outputs they carry, and a reference made from the docstrings. Nothing is fetched when a page is read."
import json
import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")


def directives(source: str) -> dict[str, str]:
    "nbdev's comments at the head of a cell: {'export': '', 'code-fold': 'true'}."
    found = {}
    for line in source.splitlines():
        if match := DIRECTIVE.match(line): found[match[1]] = match[2]
        elif line.strip(): break
    return found


def publish(cell: dict) -> dict | None:
    "A cell as the site shows it: nbdev's directives become tags; None if it is hidden."
    cell = cell | {"source": "".join(cell["source"])}
    if cell["cell_type"] != "code":  # Jupyter writes the anchors of headings with capitals, the site without
        return cell | {"source": re.sub(r"\]\(#([^)]+)\)", lambda m: f"](#{m[1].lower()})", cell["source"])}
    said = directives(cell["source"])
    if said.keys() & {"hide", "default_exp"} or said.get("include") == "false": return None
    tags = {"exported": any(name.startswith("export") for name in said), "remove-input": said.get("echo") == "false", "remove-output": said.get("output") == "false",
            "hide-input": said.get("code-fold") == "true"}
    source = "\n".join(line for line in cell["source"].splitlines() if not DIRECTIVE.match(line)).strip("\n")
    return cell | {"source": source, "metadata": {"tags": [tag for tag, wanted in tags.items() if wanted]}}


def copy_notebooks(source: Path, target: Path) -> None:
    "The notebooks, made ready for the site."
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted(source.glob("*.ipynb")):
        nb = json.loads(path.read_text("utf-8"))
        nb["cells"] = [cell for cell in map(publish, nb["cells"]) if cell]
        if path.stem != "index":
            link = f"{cfg['git_url']}/blob/{cfg['branch']}/nbs/{path.name}"
            colab = link.replace("https://github.com/", "https://colab.research.google.com/github/")
            first = next(i for i, cell in enumerate(nb["cells"]) if cell["cell_type"] == "markdown")
            nb["cells"].insert(first + 1, dict(cell_type="markdown", id="links", metadata={}, source=f"[Open in Colab]({colab}) · [on GitHub]({link})"))
        (target / path.name).write_text(json.dumps(nb, ensure_ascii=False), "utf-8")


def vendor(modules: Path, target: Path) -> None:
    "Formulas and widgets work from files of the site."
    shutil.rmtree(target, ignore_errors=True)
    (target / "widgets").mkdir(parents=True)
    for path in (modules / "@jupyter-widgets/html-manager/dist").glob("embed.js"): shutil.copy(path, target / "widgets")
    for path in (modules / "@jupyter-widgets/html-manager/dist").glob("*.woff2"): shutil.copy(path, target / "widgets")
    for part in ("tex-mml-chtml.js", "output/chtml/fonts", "input/tex/extensions", "sre", "a11y"):
        source, place = modules / "mathjax/es5" / part, target / "mathjax" / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir(): shutil.copytree(source, place)
        else: shutil.copy(source, place)


def write_reference(target: Path) -> None:
    "One page a module, from its docstrings."
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    names = [path.stem for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))]
    for name in names:
        (target / f"{name}.md").write_text(f"# gpt_nb.{name[3:]}\n\nBuilt in [chapter {name[:2]}](../notebooks/{name}.ipynb).\n\n"
                                           f"```{{eval-rst}}\n.. automodule:: gpt_nb.{name[3:]}\n   :members:\n```\n", "utf-8")
    toc = "\n".join(names)
    (target / "index.md").write_text(f"# Reference\n\n```{{toctree}}\n:maxdepth: 1\n\n{toc}\n```\n", "utf-8")


def write_home(target: Path) -> None:
    "The home page's table of contents."
    names = "\n".join(f"notebooks/{path.stem}" for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")))
    target.write_text(f"```{{include}} notebooks/index.md\n```\n\n```{{toctree}}\n:hidden:\n:caption: Chapters\n\n{names}\n```\n\n"
                      "```{toctree}\n:hidden:\n:caption: Library\n\nreference/index\n```\n", "utf-8")


def add_docments(app, what, name, obj, options, lines):
    "Docstrings are plain text; the comments beside parameters become fields of the reference."
    plain = lambda text: re.sub(r"([*|\\])", r"\\\1", text)
    lines[:] = [plain(line) for line in lines]
    if what not in ("function", "method", "class"): return
    from fastcore.docments import docments

    try: found = docments(obj, full=True)
    except Exception: return  # an object without a signature has no parameters to describe
    fields = [f":param {key}: {plain(value['docment'])}" for key, value in found.items() if key not in ("self", "return") and value.get("docment")]
    if (result := found.get("return")) and result.get("docment"): fields.append(f":returns: {plain(result['docment'])}")
    if fields: lines.extend(["", *fields])


def setup(app):
    app.connect("autodoc-process-docstring", add_docments)


copy_notebooks(ROOT / "nbs", HERE / "notebooks")
index = HERE / "notebooks" / "index.ipynb"
if index.exists():
    from readme import markdown

    text = markdown(ROOT / "nbs" / "index.ipynb").replace("](nbs/", "](notebooks/")
    text = re.sub(r"\]\((CONTRIBUTING\.md|LICENSE)\)", rf"]({cfg['git_url']}/blob/{cfg['branch']}/\1)", text)
    (HERE / "notebooks" / "index.md").write_text(text, "utf-8")
    index.unlink()
vendor(HERE / "node_modules", HERE / "_static" / "vendor")
write_reference(HERE / "reference")
write_home(HERE / "index.md")

project, author, release = cfg["title"], cfg["author"], cfg["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax", "sphinx_copybutton"]
nb_execution_mode = "off"
nb_ipywidgets_js = {"vendor/widgets/embed.js": {}}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", 5)]
mathjax_path = "vendor/mathjax/tex-mml-chtml.js"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_title = cfg["title"]
html_show_sourcelink = False
html_copy_source = False
exclude_patterns = ["node_modules", "notebooks/index.md"]
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
suppress_warnings = ["mystnb.unknown_mime_type"]
