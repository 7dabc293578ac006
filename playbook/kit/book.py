"""The book: a static site of the stored notebooks, to read and search. No cell is executed.

Sphinx makes it from a copy of the notebooks, in a temporary folder beside the result. The result takes the place of the
book of before at the very end, so that an interrupted build leaves nothing behind and loses nothing. A page loads
nothing from another host, and a link, a heading or a diagram that Sphinx complains about fails the build.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playbook.kit import binder, pairing
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "book"  # in the repository, ignored by git
STATIC = Path(__file__).with_name("book_static")
# `@mermaid-js/tiny` 11.17.2 as npm has it: Mermaid without mind maps and formulas. A copy, since no pinned package
# brings one; a classic script, since a browser loads no module (sphinxcontrib-mermaid's way) from a file.
MERMAID = "mermaid.tiny.js"
TITLE = "The Backend Playbook"
MARK = ".buildinfo"  # Sphinx writes it: a folder that has it is a book, and may be replaced

# What stands on a folded cell, by its role: (closed, open).
LABELS = {
    "stage": ("What the page needs to stage this", "What the page needs to stage this"),
    "predict": ("Prediction: open for the answer", "Prediction: the answer"),
    "hint": ("Hint {number}", "Hint {number}"),
    "solution": ("Solution", "Solution"),
}

# What Sphinx is told. There is no conf.py: nobody runs `sphinx-build` on a folder that exists for seconds.
SETTINGS: Mapping[str, Any] = {
    "project": TITLE,
    "author": "",
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "html_title": TITLE,
    "extensions": ["myst_nb", "sphinx_copybutton"],
    "root_doc": "index",
    "nb_execution_mode": "off",
    "nb_render_markdown_format": "gfm",  # tables are displayed as Markdown
    "myst_enable_extensions": ["attrs_block", "colon_fence"],
    "myst_heading_anchors": 4,
    "suppress_warnings": ["myst.header"],  # small headings may stand in the title's cell, above the first section
    "copybutton_selector": "div:not(.output) > div.highlight > pre",
    "html_theme": "sphinx_book_theme",
    "html_context": {"default_mode": "auto"},
    "html_theme_options": {
        "navbar_persistent": [],  # the search is in the sidebar
        "show_navbar_depth": 1,
        "show_toc_level": 2,
        "use_download_button": False,
        "use_fullscreen_button": False,
        "footer_content_items": [],  # neither author nor copyright
        "toc_title": "On this page",
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
    },
    "html_static_path": [str(STATIC)],
    "html_favicon": str(STATIC / "favicon.svg"),
    "html_css_files": ["book.css"],
    "html_js_files": [("book.js", {"defer": "defer"})],
    "html_copy_source": False,
    "html_show_sourcelink": False,
    "html_permalinks_icon": "#",
    "smartquotes": False,  # a quote in a text may be code
}


@dataclass
class BookError(Exception):
    """The pages cannot be a book: one line for each complaint, with the notebook and the cell."""

    complaints: list[str]

    def __str__(self) -> str:
        return "\n".join(self.complaints)


def build(course: Course, into: Path, report: Callable[[str], None] = lambda page: None) -> Path:
    """Build the book of `course` as the folder `into`; the path of its first page.

    `report` gets the name of each page twice: when it is read, and when it is written. A book that is there is
    replaced. Raises InputError for a folder that holds something else and for a notebook that is missing or unreadable,
    BookError when a page has a link that leads nowhere or Sphinx complains in another way. Then, as after an interrupt,
    `into` is as it was.
    """
    into = into.absolute()
    _refuse_a_folder_of_others(into)
    if find_spec("sphinx") is None or find_spec("myst_nb") is None:
        raise InputError("Sphinx is not installed: `python -m pip install -r binder/requirements.txt`")
    with _beside(into) as work:
        _write_sources(course, work / "notebooks")
        _run_sphinx(course, work, report)
        _replace(into, work)
    return into / "index.html"


def steps(course: Course) -> int:
    """How often `build` will report a page."""
    return 2 * (len(course.pairs) + len(_extra_pages(course)))


def _refuse_a_folder_of_others(into: Path) -> None:
    if not into.parent.is_dir():
        raise InputError(f"{into.parent} is not a folder: make it first, or name another one with --into")
    if into.exists() and not into.is_dir():
        raise InputError(f"{into} is a file: name a folder with --into")
    if into.is_dir() and any(into.iterdir()) and not (into / MARK).is_file():
        raise InputError(
            f"{into} holds something else than a book, which would be lost: name another folder with --into"
        )


@contextmanager
def _beside(into: Path) -> Iterator[Path]:
    """A folder on the same file system as `into`, which is gone afterwards, whatever happens."""
    work = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(into: Path, work: Path) -> None:
    """Put `work/site` where `into` was. What was there goes with `work`."""
    (work / "site").chmod(0o755)
    if into.exists():
        into.rename(work / "before")
    (work / "site").rename(into)


# ---------------------------------------------------------------- from notebooks to Sphinx's sources


def _extra_pages(course: Course) -> list[Path]:
    """Pages beside the landing page that have no text, such as a generated glossary."""
    folder, pairs = course.index.notebook.parent, {page.notebook for page in course.pairs}
    found = [*folder.glob("*.md"), *folder.glob("*.ipynb")]
    return sorted(path for path in found if path not in pairs)


def _write_sources(course: Course, folder: Path) -> None:
    import nbformat

    folder.mkdir()
    for page in course.pairs:
        notebook = pairing.read_notebook(page)
        cells = [cell for cell in notebook.cells if "nav" not in cell.metadata.get("tags", ())]
        _label(cells)
        _index(cells, page.topics)
        for cell in cells:
            if cell.cell_type == "markdown":
                cell.source = _anchors(_card(cell.source))
        if last := _last(course, page):
            cells.append(nbformat.v4.new_markdown_cell(last, id="book"))
        notebook.cells = cells
        target = folder / f"{page.key}.ipynb"
        target.parent.mkdir(exist_ok=True)
        target.write_text(pairing.dumps(notebook), encoding="utf-8")
    for path in _extra_pages(course):
        shutil.copyfile(path, folder / path.name)


def _label(cells: list[Any]) -> None:
    """Fold each cell as its role says, and write on it what it hides."""
    hints = 0
    for cell in cells:
        for role in LABELS.keys() & set(cell.metadata.get("tags", ())):
            hints += role == "hint"
            closed, opened = (label.format(number=hints) for label in LABELS[role])
            fold = pairing.FOLDED[role][1]
            cell.metadata.tags = [*(tag for tag in cell.metadata.tags if tag not in pairing.BOOK_TAGS), fold]
            cell.metadata["mystnb"] = {"code_prompt_show": closed, "code_prompt_hide": opened}


def _card(source: str) -> str:
    """Name the table below the title, which has no heading, so that the style sheet finds it."""
    return re.sub(r"^(?=\| \| \|$)", "{.card}\n", source, count=1, flags=re.M)


def _anchors(source: str) -> str:
    """JupyterLab's anchors have the capitals of the heading (`#Write-skew`), Sphinx's have none."""
    return re.sub(r"(\]\([^)\s#]+\.(?:ipynb|md))(#[^)\s]+)", lambda link: link[1] + link[2].lower(), source)


def _index(cells: list[Any], topics: list[str]) -> None:
    """Enter the card's topics into the index, each where the page defines it (in bold), or else at the title.

    The search box puts entries of the index first, so that it leads to the section and not to a page that only uses the
    word.
    """
    left = list(topics)
    for cell in cells:
        if cell.cell_type == "markdown":
            blocks = re.split(r"\n\n+", cell.source)
            for place, block in enumerate(blocks):
                here = [topic for topic in left if _defines(block, topic)]
                if here and not cell.source[: cell.source.index(block)].count("```") % 2:
                    blocks[place] = f"{_entries(here)}\n\n{block}"
                    left = [topic for topic in left if topic not in here]
            cell.source = "\n\n".join(blocks)
    if left:
        cells[0].source = re.sub(
            r"^# .+$", lambda title: f"{title[0]}\n\n{_entries(left)}", cells[0].source, count=1, flags=re.M
        )


def _defines(block: str, topic: str) -> bool:
    """Whether the paragraph has `topic` in bold. In a table or a list an entry would take the paragraph apart."""
    return block[:1] not in "|-" and bool(re.search(rf"\*\*{re.escape(topic)}s?\*\*", block, re.I))


def _entries(topics: list[str]) -> str:
    """Main entries (`!`): the search box puts the others last."""
    return "\n\n".join(f"```{{index}} ! {topic}\n```" for topic in topics)


def _last(course: Course, page: Playbook) -> str:
    """What ends a page instead of the links to its neighbours, which the theme has: how to run it, or the contents."""
    if page == course.index:
        return _contents(course)
    if not page.track:
        return ""
    return f"---\n\nRun this page, and solve its exercise, in JupyterLab:\n\n```sh\nplaybook lab {page.name}\n```"


def _contents(course: Course) -> str:
    """The table of contents, which the sidebar shows: a part for each track, in course order."""
    parts = [(f"{track.name}: {track.title}", [page.key for page in track.playbooks]) for track in course.tracks]
    others = [page.key for page in course.pairs if not page.track and page != course.index]
    others += [path.stem for path in _extra_pages(course)]
    parts.append(("Look up", [*others, "genindex"]))
    return "\n\n".join(
        "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"]) for caption, names in parts
    )


# ---------------------------------------------------------------- Sphinx


def _run_sphinx(course: Course, work: Path, report: Callable[[str], None]) -> None:
    from sphinx.application import Sphinx

    complaints = io.StringIO()
    app = Sphinx(
        srcdir=work / "notebooks",
        confdir=None,
        outdir=work / "site",
        doctreedir=work / "doctrees",
        buildername="html",
        confoverrides=dict(SETTINGS),
        status=None,
        warning=complaints,
    )
    launch = _launcher(course)

    def read(_: "Sphinx", name: str, source: list[str]) -> None:
        report(name)

    def write(app: "Sphinx", name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
        if doctree is None:  # the index and the search
            return
        report(name)
        if any(node.get("diagram") for node in doctree.findall() if hasattr(node, "get")):
            app.add_js_file(MERMAID, defer="defer", priority=400)  # 2.5 MB, on the pages that have a diagram
        if address := launch(name):
            context["header_buttons"].append(
                {
                    "type": "link",
                    "url": address,
                    "text": "Binder",
                    "tooltip": "Run this page in Binder",
                    "icon": "fas fa-rocket",
                    "label": "binder-button",
                }
            )

    app.connect("source-read", read)
    app.connect("doctree-resolved", _diagrams)
    app.connect("html-page-context", write, priority=600)  # after the theme has made its list of buttons
    app.build(force_all=True)
    if found := _complaints(complaints.getvalue(), work):
        raise BookError(found)


def _launcher(course: Course) -> Callable[[str], str]:
    """From the name of a page to the address that opens it in Binder; to nothing when there is no public repository."""
    try:
        address = binder.launch_url(binder.remote(course.root))
    except InputError:
        return lambda name: ""
    pages = {page.key for page in course.pairs}
    return lambda name: address.replace("/index.ipynb", f"/{name}.ipynb") if name in pages else ""


def _diagrams(app: "Sphinx", doctree: Any, name: str) -> None:
    """Replace the source of each diagram with a place that `book.js` draws it in. Without scripts it stays readable."""
    from html import escape

    from docutils import nodes

    for node in list(doctree.findall(nodes.literal_block)):
        if node.get("language") == "mermaid":
            drawn = f'<div class="diagram"><pre>{escape(node.astext())}</pre></div>'
            node.replace_self(nodes.raw("", drawn, format="html", diagram=True))


def _complaints(text: str, work: Path) -> list[str]:
    """Sphinx's warnings, with the notebook and the cell in place of a temporary file and a number made of both."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).replace(f"{work}/", "")

    def place(match: re.Match[str]) -> str:
        cell, line = divmod(int(match[2]), 10_000)
        return f"{match[1]}, cell {cell}, line {line}:" if cell else f"{match[1]}, line {line}:"

    return [re.sub(r"^(\S+\.ipynb):(\d+):", place, line) for line in plain.splitlines() if line.strip()]
