"""The reader's own copies of the notebooks, in `workbook/`, which git ignores.

A copy is not paired with a text; it has no outputs and no solution. It is made once and never overwritten. The names
are numbered, so that a list by name is in course order: `01-foundations/02-settings.ipynb`. A number is given once:
where the course changes its order, copies keep their names, and the links between them hold.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playbook.kit import answers, progress
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError
from playbook.kit.progress import FOLDER

GENERATED = {"nav", "map"}  # cells that change when another page does
ZIP = "workbook.zip"
BINDER = "BINDER_LAUNCH_HOST"  # set wherever BinderHub runs somebody's copy

YOURS = """\
> This is your own copy: change what you like. Imports come from the course, so a change here breaks no other page.
> `playbook lab --fresh {name}` begins it again and keeps what you wrote."""
SOLUTION = "A solution stands in the course: `playbook solution {name}` prints it in a terminal."
FLEETING = """
>
> **Binder forgets your work** when you leave, or after ten minutes without a click. *File > Download* saves this page.
> For all of them, run `!playbook lab --zip` in a cell, and download `workbook.zip` from the list of files."""


def folder(course: Course) -> Path:
    return course.root / FOLDER


def places(course: Course) -> dict[Playbook, Path]:
    """Where each page's copy is, or would be."""
    there = folder(course)
    found: dict[Playbook, Path] = {course.index: there / "index.ipynb"}
    for number, track in enumerate(course.tracks, 1):
        inside = _numbered(there, track.name, "") or there / f"{number:02}-{track.name}"
        for place, page in enumerate(track.playbooks, 1):
            name = f"{place:02}-{page.name}.ipynb"
            found[page] = _numbered(inside, page.name, ".ipynb") or inside / name
    return found


def _numbered(there: Path, name: str, ending: str) -> Path | None:
    """The file or folder in `there` that is called `name` behind a number."""
    named = re.compile(rf"\d+-{re.escape(name + ending)}")
    found = sorted(p for p in there.glob(f"*-{name}{ending}") if named.fullmatch(p.name))
    return found[0] if found else None


# ---------------------------------------------------------------- make


def make(course: Course, fleeting: bool = False) -> list[Path]:
    """Make the copies that are missing; the new files. Pages without a notebook of their own are left out.

    With `fleeting` each says that it does not last, and how to download it.

    Raises InputError when they cannot be written; the copies that were made until then are whole.
    """
    where = places(course)
    missing = [(page, path) for page, path in where.items() if page.notebook.is_file() and not path.exists()]
    made = []
    for page, path in missing:
        text = copy_of(course, page, where, fleeting)
        with _explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            if _create(path, text):
                made.append(path)
    return made


def begin_again(course: Course, page: Playbook, fleeting: bool = False) -> Path | None:
    """Make a new copy of `page`, and keep the old one beside it under a name with a number; that name, if any."""
    where = places(course)
    path, kept = where[page], None
    text = copy_of(course, page, where, fleeting)
    with _explained():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = _keep(path)
        with _beside(path, text) as new:
            os.replace(new, path)
    return kept


def copy_of(course: Course, page: Playbook, where: Mapping[Playbook, Path], fleeting: bool = False) -> str:
    """The notebook file of a reader's copy of `page`, made from the stored notebook."""
    notebook = _original(page)
    note = YOURS.format(name=page.name) + (FLEETING if fleeting else "")
    cells = [{"cell_type": "markdown", "id": "your-copy", "metadata": {}, "source": note}]
    targets = {str(p.notebook.resolve()): path for p, path in where.items()}
    hints = iter(_hints(page))
    for cell in notebook["cells"]:
        cell = dict(cell)
        if "solution" in _tags(cell):
            cell = _markdown(cell, SOLUTION.format(name=page.name))
        elif "hint" in _tags(cell) and (hint := next(hints, None)):
            cell = _markdown(cell, hint)  # Run All would show it
        elif cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None, "metadata": _without_hidden_outputs(cell["metadata"])}
        else:
            cell["source"] = _led(_source(cell), page.notebook.parent, where[page].parent, targets)
        cells.append(cell)
    own = {"page": page.key, "digest": _digest(notebook)}
    made = {"cells": cells, "metadata": notebook["metadata"] | {"playbook": own}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"


def _markdown(cell: Any, text: str) -> dict[str, Any]:
    """A Markdown cell in the place of `cell`."""
    return {"cell_type": "markdown", "id": cell["id"], "metadata": {}, "source": text}


def _hints(page: Playbook) -> list[str]:
    """The hints as texts that open at a click."""
    try:
        texts = answers.hints(page) if page.track else ()
    except InputError:  # a page that has none
        return []
    about = ["where to look", "the idea"]
    return [
        f"<details><summary>Hint {number}: {what}</summary>\n\n{text}\n\n</details>"
        for number, (what, text) in enumerate(zip(about, texts, strict=False), 1)
    ]


def _without_hidden_outputs(metadata: Any) -> dict[str, Any]:
    """Where there is no output, there is nothing to fold: JupyterLab would show three dots below the question."""
    folded = {k: v for k, v in metadata.get("jupyter", {}).items() if k != "outputs_hidden"}
    kept = {key: value for key, value in metadata.items() if key not in ("jupyter", "tags")}
    tags = [tag for tag in metadata.get("tags", ()) if tag != "hide-output"]
    return kept | ({"jupyter": folded} if folded else {}) | ({"tags": tags} if tags else {})


def _led(text: str, before: Path, now: Path, targets: Mapping[str, Path]) -> str:
    """`text` with its links to pages leading to their copies, and those to other files (the glossary) to the file."""

    def lead(match: re.Match[str]) -> str:
        original = (before / match[1]).resolve()
        there = targets.get(str(original)) or (original if original.is_file() else None)
        return f"]({Path(os.path.relpath(there, now)).as_posix()}" if there else match[0]

    return re.sub(r"\]\(([^()\s#:]+\.(?:ipynb|md))", lead, text)


def _original(page: Playbook) -> Any:
    try:
        return json.loads(page.notebook.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        from playbook.kit import pairing

        pairing.read_notebook(page)  # says what is wrong and what to do
        raise


def _source(cell: Any) -> str:
    return "".join(cell["source"])


def _tags(cell: Any) -> list[str]:
    return list(cell["metadata"].get("tags", ()))


def _digest(notebook: Any) -> str:
    """Tells one state of a page from another: what it says and does, not its outputs or its links to neighbours."""
    shape = [[c["cell_type"], _source(c), _tags(c)] for c in notebook["cells"] if not GENERATED & set(_tags(c))]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def prepare(course: Course, page: Playbook, fresh: bool = False) -> tuple[Path, list[str]]:
    """Have the workbook ready for a reader who opens `page`: the copy of it, and what to tell, one line each.

    Raises InputError when there is no such copy, or it is not a notebook any more.
    """
    fleeting = BINDER in os.environ
    kept = begin_again(course, page, fleeting) if fresh else None
    made = make(course, fleeting)
    lines = []
    if made:
        lines.append(f"made your own copies of {len(made)} pages in {FOLDER}/: git ignores them, change what you like")
    if kept:
        lines.append(f"your copy of before is {kept.relative_to(course.root).as_posix()}")
    path = places(course)[page]
    readable(page, path)
    return path, lines + notices(course)


def next_hint(course: Course, name: str, complain: Callable[[str], None]) -> str:
    """The first hint of a page that has not been shown, which is remembered; all of them when each was shown before.

    Where nothing can be remembered, `complain` is told so.
    """
    page = course.get(name)
    hints = answers.hints(page)
    shown = progress.read(folder(course)).hints.get(page.key, 0)
    after = f"playbook solution {page.name}"
    if shown >= len(hints):
        return "\n".join([*hints, f"These are all hints. The solution: {after}"])
    try:
        progress.append(folder(course), {"page": page.key, "hint": shown + 1})
    except OSError as error:
        complain(f"not remembered that you have seen this hint: {FOLDER}/{progress.LOG}: {error.strerror}")
    return f"{hints[shown]}\n({shown + 1} of {len(hints)})"


# ---------------------------------------------------------------- write, without ever overwriting


@contextmanager
def _explained() -> Iterator[None]:
    """Turn an OSError into what the reader can do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{FOLDER}/ cannot be written ({error.strerror}): make it a folder that you may write, or read the "
            "originals with `playbook lab --edit`"
        ) from None


@contextmanager
def _beside(path: Path, text: str) -> Iterator[Path]:
    """A file beside `path` that has the text whole; gone afterwards, unless it was moved."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        new.write_text(text, encoding="utf-8", newline="\n")
        yield new
    finally:
        new.unlink(missing_ok=True)


def _create(path: Path, text: str) -> bool:
    """Make `path` with `text`, whole; False when it exists by now, as when two labs start at once."""
    with _beside(path, text) as new:
        return _link(new, path)


def _link(old: Path, new: Path) -> bool:
    """Give `old` the name `new` too, unless it is taken. Where files cannot have two names, move it."""
    try:
        os.link(old, new)
    except FileExistsError:
        return False
    except OSError:
        if new.exists():
            return False
        os.rename(old, new)
    return True


def _keep(path: Path) -> Path:
    for number in itertools.count(1):
        kept = path.with_name(f"{path.stem}-old-{number}.ipynb")
        if _link(path, kept):
            return kept
    raise AssertionError  # there is always a next number


# ---------------------------------------------------------------- what has changed meanwhile


def notices(course: Course) -> list[str]:
    """What the reader should know about the copies, one line each: those that are behind, those that are broken."""
    behind, lines = [], []
    for page, path in places(course).items():
        if not path.is_file():
            continue
        try:
            copy = readable(page, path)
        except InputError as error:
            lines.append(str(error))
            continue
        own = copy["metadata"].get("playbook")
        made_from = own.get("digest") if isinstance(own, dict) else None
        if made_from and page.notebook.is_file() and made_from != _digest(_original(page)):
            behind.append(page.name)
    if behind:
        lines.append(
            f"changed in the course since your copy was made: {', '.join(behind)}; `playbook lab --fresh NAME` makes "
            "a new copy and keeps yours"
        )
    if folder(course).is_dir() and not os.access(folder(course), os.W_OK):
        lines.append(f"{FOLDER}/ is read-only: JupyterLab will not save what you write, and no progress is kept")
    return lines


def readable(page: Playbook, path: Path) -> Any:
    """The copy at `path`. Raises InputError when it is not a notebook any more."""
    try:
        copy = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(copy["cells"], list) and isinstance(copy["metadata"], dict):
            return copy
    except (ValueError, KeyError, TypeError):
        pass
    where = path.relative_to(page.root).as_posix()
    raise InputError(
        f"{where} is not a notebook any more: `playbook lab --fresh {page.name}` makes a new copy and keeps this file"
    )


# ---------------------------------------------------------------- take along


def pack(course: Course) -> Path:
    """Write the workbook into `workbook/workbook.zip`, to be downloaded; unpacked in a clone it is there again."""
    there = folder(course)
    if not there.is_dir():
        raise InputError(f"there is no {FOLDER}/ yet: `playbook lab` makes it")
    target = there / ZIP
    with _explained(), _beside(target, "") as new:
        with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in _files(there):
                archive.write(path, path.relative_to(course.root).as_posix())
        os.replace(new, target)
    return target


def _files(there: Path) -> Iterator[Path]:
    for path in sorted(there.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(there).parts)
        if path.is_file() and not hidden and path.name != ZIP:
            yield path
