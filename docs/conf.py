"""The site: the notebooks of ../nbs with their outputs, and a reference made from docstrings.

Nothing is fetched when a page is read."""
import inspect
import re
import shutil
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "tools")]
from font import write_web_font  # noqa: E402
from home import chinese_sidebar  # noqa: E402
from live import write_models  # noqa: E402
from pages import built_in, cfg, llms, write_pages  # noqa: E402
from sphinx.search import languages  # noqa: E402
from sphinx.search.en import SearchEnglish  # noqa: E402
from stories import write_stories  # noqa: E402


class SearchBoth(SearchEnglish):
    "English words by their stem, those with hyphens as one; of Chinese one and two characters."
    def split(self, text: str) -> list[str]:
        words = super().split(text)
        words += [word.replace("-", "") for word in re.findall(r"\w+(?:-\w+)+", text)]
        runs = [run for word in words for run in re.findall(r"[\u4e00-\u9fff]+", word)]
        parts = [run[i:i + n] for run in runs for n in (1, 2) for i in range(len(run) - n + 1)]
        return words + runs + parts


languages["en"] = SearchBoth


def vendor(modules: Path, target: Path) -> None:
    "Formulas are set by files of the site."
    shutil.rmtree(target, ignore_errors=True)
    for part in ("tex-mml-chtml.js", "output/chtml/fonts", "input/tex/extensions", "sre", "a11y"):
        source, place = modules / "mathjax/es5" / part, target / "mathjax" / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir(): shutil.copytree(source, place)
        else: shutil.copy(source, place)
    spoken = {"base.json", "en.json", "nemeth.json"}   # formulas read aloud, or in braille
    for path in (target / "mathjax/sre/mathmaps").iterdir():
        if path.name not in spoken: path.unlink()


def write_web(target: Path) -> None:
    "The page in which a GPT writes, and the models it opens."
    from gpt_nb.checkpoint import load_tokenizer
    from gpt_nb.model import GPT
    from gpt_nb.page import write_page
    from gpt_nb.tales import Tales

    shutil.rmtree(target, ignore_errors=True)
    worlds = {"tales-en": Tales("en", 2), "tales-zh": Tales("zh", 2), "tales-chat": None}
    write_page(target, {name: (GPT.from_pretrained(name), load_tokenizer(name), world)
                        for name, world in worlds.items()})
    for page in target.glob("*.html"): page.unlink()   # the site makes pages of its own of them
    write_models(target / "live" / "models")
    write_stories(target)


def write_web_page(name: str) -> None:
    "A page of gpt_nb/web as one of the site's: what stands between its two marks."
    from gpt_nb.page import WEB

    whole = (WEB / f"{name}.html").read_text("utf-8")
    title, page = re.search(r"<h1>(.*?)</h1>\n<!--.*?-->\n(.*?)<!-- end -->", whole, re.S).groups()
    page = page.replace('data-web=""', 'data-web="_static/web/"')
    page = re.sub('(src|href)="(?!notebooks/)', r'\1="_static/web/', page)   # or a chapter
    style = f'<link rel="stylesheet" href="_static/web/{name}.css">'
    text = f"---\nhide-toc: true\n---\n\n# {title}\n\n```{{raw}} html\n{style}\n{page}```\n"
    (HERE / f"{name}.md").write_text(text, "utf-8")


def plain(text: str) -> str:
    "A text in which no character marks anything."
    return re.sub(r"([*|\\])", r"\\\1", text)


def parameters(obj) -> dict[str, str]:
    "What the comments beside a function's parameters say, or beside the fields of a named tuple."
    from fastcore.docments import docments

    if hasattr(obj, "_fields"):
        return dict(re.findall(r"^    (\w+): [^#\n]*# (.*)", inspect.getsource(obj), re.M))
    try: found = docments(obj, full=True)
    except Exception: return {}   # an object without a signature has no parameters to describe
    return {key: value["docment"] for key, value in found.items() if value.get("docment")}


def add_docments(app, what, name, obj, options, lines):
    "Docstrings are plain text; comments beside parameters become fields; a link leads to the cell."
    lines[:] = [plain(line) for line in lines]
    if what not in ("function", "method", "class"): return
    module, _, short = name.rpartition(".")
    chapter = next((c for c in CHAPTERS if c.module == module), None)
    if chapter and (link := built_in(chapter, short)): lines.extend(["", link])
    said = parameters(obj)
    result = said.pop("return", None)
    fields = [f":param {key}: {plain(text)}" for key, text in said.items() if key != "self"]
    if result: fields.append(f":returns: {plain(result)}")
    if fields: lines.extend(["", *fields])


CHINESE = ("zh", "start-zh", "notebooks/howto-zh")   # pages in Chinese


def finish_page(app, pagename, templatename, context, doctree):
    "Captions of the sidebar say their level of heading, folded cells go by what stands on them."
    if tree := context.get("furo_navigation_tree"):
        level = tree.replace('role="heading"', 'role="heading" aria-level="2"')
        context["furo_navigation_tree"] = level
    if body := context.get("body"):
        context["body"] = body.replace(' aria-label="Toggle hidden content"', "")
    context["chinese_page"] = pagename in CHINESE
    context["other_language"] = other_language(pagename)
    if pagename in CHINESE:
        context["language"] = "zh-CN"
        context["furo_navigation_tree"] = chinese_sidebar(CHAPTERS, "../" * pagename.count("/"))


def other_language(pagename: str) -> tuple[str, str]:
    "The page that says the same in the other language: name and anchor."
    pairs = {"zh": "index", "start-zh": "start", "start": "start-zh",
             "notebooks/howto": "notebooks/howto-zh", "notebooks/howto-zh": "notebooks/howto"}
    chapter = re.match(r"notebooks/(\d\d\w?)_", pagename)
    return pairs.get(pagename, "zh"), f"#zh-{chapter[1]}" if chapter else ""


def write_llms(app, error):
    if not error: (Path(app.outdir) / "llms.txt").write_text(llms(CHAPTERS), "utf-8")


def setup(app):
    app.connect("autodoc-process-docstring", add_docments)
    app.connect("html-page-context", finish_page, priority=900)   # after furo's navigation
    app.connect("build-finished", write_llms)


warnings.filterwarnings("error", message="Glyph .* missing from")   # a box in a picture: a mistake
CHAPTERS = write_pages()
write_web_font(HERE / "_static" / "made" / "chinese.woff")
vendor(HERE / "node_modules", HERE / "_static" / "vendor")
write_web(HERE / "_static" / "web")
for name in ("playground", "inside", "talk", "training"): write_web_page(name)

project, author, release, copyright = cfg["title"], cfg["author"], cfg["version"], cfg["copyright"]
language = "en"
highlight_language = "text"   # of blocks that name none
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax",
              "sphinx_copybutton"]
nb_execution_mode = "off"
nb_code_prompt_show, nb_code_prompt_hide = "Show the {type}", "Hide the {type}"
nb_render_markdown_format = "gfm"
nb_ipywidgets_js = {}   # widgets turn by frames.py
mathjax_path = "vendor/mathjax/tex-mml-chtml.js"
mathjax_options = {"defer": "defer"}
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block", "attrs_inline", "colon_fence"]
myst_heading_anchors = 3
default_role = "py:obj"   # a name in the backticks of a docstring links to its reference
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "_static/favicon.svg"
html_search_scorer = str(HERE / "search.js")
templates_path = ["_templates"]
html_title = cfg["title"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
exclude_patterns = ["node_modules", "*.template.md", "zh/*"]
viewcode_follow_imported_members = False   # a name lies where it is told of
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False   # those of torch.nn.Module say nothing of ours
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
suppress_warnings = ["mystnb.unknown_mime_type"]
