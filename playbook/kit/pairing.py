"""Text and notebook of a playbook: make one from the other, run it, and tell where the two part.

The text is the source. `refresh` goes from text to notebook and never looks at file times; `bring_back` goes the
other way for readers who edited in JupyterLab. A notebook is written only after every cell ran without an error.
"""

import ast
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from playbook.kit import quick  # noqa: F401  # before nbformat is imported
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
CELL_SECONDS = 120
Notebook = Any  # nbformat's NotebookNode is untyped


@dataclass(eq=False)
class CellFailure(Exception):
    """A cell raised. `number` counts the code cells from 1, as the notebook's execution counts do."""

    playbook: str
    number: int
    line: int  # of the cell's first line in the playbook's text
    source: str
    error: str  # "ValueError: ..."
    traceback: str

    def __post_init__(self) -> None:
        super().__init__(self.playbook, self.number, self.line, self.source, self.error, self.traceback)

    def __str__(self) -> str:
        return f"{self.playbook}: cell {self.number} (line {self.line}) failed with {self.error}"


def _slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")[:40] or "cell"


def name_cells(notebook: Notebook) -> None:
    """Give every cell an id made of its section and its place in it (`see-it-break-2`).

    The ids do not change when a cell is edited, and an inserted cell moves only the ids of its own section.
    """
    section, count = "title", Counter[str]()
    for cell in notebook.cells:
        headings = re.findall(r"^## (.+)$", cell.source, re.M) if cell.cell_type == "markdown" else []
        if headings and cell.source.lstrip().startswith("## "):
            section = _slug(headings[0])
        count[section] += 1
        cell["id"] = f"{section}-{count[section]}"
        if headings:
            section = _slug(headings[-1])


def from_text(playbook: Playbook) -> Notebook:
    """The notebook that `playbook`'s text describes: cells, tags and ids, nothing executed."""
    import jupytext  # type: ignore[import-untyped]

    notebook = jupytext.reads(replace(playbook).source, fmt="py:percent")  # read again: `source` is cached
    for cell in notebook.cells:
        cell.metadata = _kept_metadata(cell) | _folding(cell)
    notebook.metadata = {"kernelspec": dict(KERNELSPEC)}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    name_cells(notebook)
    return notebook


def to_text(notebook: Notebook) -> str:
    """The percent script that `notebook`'s cells describe, in the course's form: no header, formatted blanks."""
    import jupytext
    import nbformat

    plain = json.loads(json.dumps(notebook))
    plain["metadata"] = {
        "jupytext": {
            "notebook_metadata_filter": "-all",
            "cell_metadata_filter": "tags,-all",
            "cell_markers": '"""',
        }
    }
    for cell, following in zip_longest(plain["cells"], plain["cells"][1:]):
        cell.pop("id", None)
        cell["metadata"] = _kept_metadata(cell)
        if following:
            # jupytext would say it too, but not always as `ruff format` does.
            cell["metadata"]["lines_to_next_cell"] = 2 if _defines(cell, -1) or _defines(following, 0) else 1
    return str(jupytext.writes(nbformat.from_dict(plain), fmt="py:percent"))


def _defines(cell: dict[str, Any], place: int) -> bool:
    """Whether the first (0) or last (-1) statement of the cell is a function or a class."""
    if cell["cell_type"] != "code":
        return False
    try:
        body = ast.parse("".join(cell["source"])).body
    except SyntaxError:
        return False
    return bool(body) and isinstance(body[place], (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


# How a cell is folded follows from its role: (the option for JupyterLab, the tag for the book). The text has the role
# alone. JupyterLab may lose the tags for the book when it saves, or fold a cell; neither reaches the text.
FOLDED = {
    "stage": ("source_hidden", "hide-input"),
    "solution": ("source_hidden", "hide-input"),
    "predict": ("outputs_hidden", "hide-output"),
    "hint": ("outputs_hidden", "hide-output"),
}
BOOK_TAGS = frozenset({"hide-input", "hide-output", "hide-cell"})

# What editors note in a cell for themselves. It is dropped without a word; other metadata is not.
OF_THE_EDITOR = frozenset(
    {
        "ExecuteTime", "cell_marker", "collapsed", "execution", "id", "jp-MarkdownHeadingCollapsed", "jupyter",
        "lines_to_end_of_cell_marker", "lines_to_next_cell", "pycharm", "scrolled", "trusted", "vscode",
    }
)  # fmt: skip
KEPT = frozenset({"tags"})
WIDGET = "application/vnd.jupyter.widget-view+json"


def unkept(notebook: Notebook) -> list[str]:
    """The cells that a text cannot hold as they are: which, why and what to do, one line each; empty when all can.

    A cell is held when the text made of it gives the same cell back, to jupytext and to the import hook alike, and
    when Python takes its Markdown for a string.
    """
    why = {number: _loses(cell) for number, cell in enumerate(notebook.cells)}
    if not _survives(notebook.cells):  # asked of all at once, since each takes milliseconds; of each to name it
        why |= {number: _breaks(cell) for number, cell in enumerate(notebook.cells) if not why[number]}
        if not any(why.values()):
            return ["cells are others when they are read again from the text: look for unfinished strings in code"]
    found = []
    for number, cell in enumerate(notebook.cells):
        if why[number]:
            first = next(iter(cell.source.strip().splitlines()), "")[:60]
            found.append(f"cell {cell.get('id', number + 1)} {why[number]} ({first!r})")
    return found


def _loses(cell: Any) -> str:
    """What a text would lose of the cell, and what to do; empty when nothing."""
    if cell.cell_type not in ("code", "markdown"):
        return f"is a {cell.cell_type} cell, which pages do not have: make it Markdown or code"
    if cell.get("attachments"):
        names = ", ".join(cell.attachments)
        return f"has {names} pasted into it, which the text would lose: draw it with `mermaid`, or link to a file"
    if foreign := sorted(cell.metadata.keys() - KEPT - OF_THE_EDITOR):
        return f"has metadata that the text would lose, {', '.join(foreign)}: remove it (tags are kept)"
    if any(WIDGET in output.get("data", {}) for output in cell.get("outputs", ())):
        return "shows a widget, which is empty in a stored notebook: show a table or print"
    return ""


def _breaks(cell: Any) -> str:
    """Why the cell is another when it is read again from a text, and what to do; empty when it is the same."""
    around = {"cell_type": "code", "source": "0", "metadata": {}}
    if _survives([around, cell, around]):
        return ""
    if cell.cell_type == "markdown" and '"""' in cell.source:
        return 'has three quotes ("""), which end the cell in the text: write them in another way'
    if header := re.search(r"^\s*#\s*(?:%%|In\[).*", cell.source, re.M):
        return f"has the line {header[0].strip()!r}, which begins a cell in the text: change that line"
    return "would be another cell in the text: look for unusual line ends, magics and unfinished strings"


def _survives(cells: Sequence[Any]) -> bool:
    """Whether the text made of `cells` has these cells and no others, for jupytext, for the hook and for Python."""
    return _shapes_survive(tuple(_shape(cell) for cell in cells))


@lru_cache(maxsize=4)  # of a pair the text is asked and then the notebook, which are the same as a rule
def _shapes_survive(shapes: tuple["_Shape", ...]) -> bool:
    import jupytext
    import nbformat

    from playbook.kit import hook

    plain: list[dict[str, Any]] = [
        {"cell_type": kind, "source": source, "metadata": {"tags": list(tags)} if tags else {}}
        | ({"outputs": [], "execution_count": None} if kind == "code" else {})
        for kind, source, tags in shapes
    ]
    notebook = nbformat.from_dict({"cells": plain, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    text = to_text(notebook)
    try:
        ours = list(hook.cells(text))
    except ValueError:  # tags that the hook cannot read
        return False
    theirs = jupytext.reads(text, fmt="py:percent").cells
    if tuple(_shape(c) for c in theirs) != shapes or len(ours) != len(theirs):
        return False
    lines = text.split("\n")
    for our, their in zip(ours, theirs, strict=True):
        if (our.markdown, our.tags) != (their.cell_type == "markdown", frozenset(their.metadata.get("tags", ()))):
            return False
        if our.markdown and not _is_string("\n".join(lines[our.start : our.stop])):
            return False
    return True


def _kept_metadata(cell: Any) -> dict[str, Any]:
    """What the text keeps of a cell: its tags, without those that say how it is folded."""
    tags = [tag for tag in cell["metadata"].get("tags", ()) if tag not in BOOK_TAGS]
    return {"tags": tags} if tags else {}


def _folding(cell: Any) -> dict[str, Any]:
    """The metadata that fold `cell`, from its role; to be put over what the text keeps."""
    tags = list(cell["metadata"].get("tags", ()))
    found: dict[str, Any] = {}
    for role in FOLDED.keys() & set(tags):
        option, book = FOLDED[role]
        found.setdefault("jupyter", {})[option] = True
        found["tags"] = [*_kept_metadata(cell)["tags"], book]
    return found


def fold(notebook: Notebook) -> None:
    """Fold each cell as its role says, and no other cell; the rest of its metadata stays."""
    for cell in notebook["cells"]:
        others = {key: value for key, value in cell["metadata"].items() if key not in ("jupyter", "tags")}
        cell["metadata"] = others | _kept_metadata(cell) | _folding(cell)


def _is_string(source: str) -> bool:
    """Whether `source` is one string for Python, without an escape that Python does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return isinstance(ast.literal_eval(source.strip()), str)
        except (SyntaxError, ValueError, Warning):
            return False


def _refuse_unkept(playbook: Playbook, notebook: Notebook, where: str) -> None:
    if found := unkept(notebook):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InputError(f"{where}/{playbook.key}.{'py' if where == 'playbook' else 'ipynb'}: {found[0]}{more}")


def read_notebook(playbook: Playbook) -> Notebook:
    """The stored notebook. Raises InputError when there is none or it is not a notebook."""
    import nbformat

    path = f"notebooks/{playbook.key}.ipynb"
    try:
        return nbformat.read(playbook.notebook, as_version=4)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: make it with `playbook refresh {playbook.name}`") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:100]
        raise InputError(
            f"{path} is not a readable notebook ({reason}): make it anew with `playbook refresh {playbook.name}`"
        ) from None


def with_stored_outputs(playbook: Playbook) -> Notebook:
    """The notebook that the text describes, with the outputs that are stored for its cells.

    A cell that was edited keeps those of the cell that it was; a new one has none. Raises InputError when no notebook
    is stored.
    """
    notebook = from_text(playbook)
    ours, stored = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, read_notebook(playbook)))
    matcher = SequenceMatcher(None, [c.source for c in stored], [c.source for c in ours], autojunk=False)
    for _, start, stop, our_start, our_stop in matcher.get_opcodes():
        for cell, was in zip(ours[our_start:our_stop], stored[start:stop], strict=False):
            cell.outputs = was.outputs
    return notebook


def clean_environment() -> dict[str, str]:
    """The environment a playbook runs in: the reader's, without what points Pantry at another database or changes what
    a program does: without asserts a page checks nothing."""
    own = {"DATABASE_URL", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT"}
    env = {k: v for k, v in os.environ.items() if k not in own and not k.startswith("PANTRY_")}
    return env | {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


class _Stopped(Exception):
    """The execution was told to stop."""


_running: list[Callable[[], None]] = []  # each stops one execution, from any thread


def execute(playbook: Playbook, seconds: int = CELL_SECONDS) -> Notebook:
    """Run the text's cells in a fresh kernel, where nbval and JupyterLab would run them; the notebook with its outputs.

    Raises InputError for a text that is not the same cells as a notebook, and when an output cannot be stored;
    CellFailure at the first cell that raises, takes longer than `seconds`, or ends the kernel. Ctrl-C and
    SIGTERM interrupt the cell, so that it stops what it has started, and become KeyboardInterrupt.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = from_text(playbook)
    _refuse_unkept(playbook, notebook, "playbook")
    folder = playbook.notebook.parent
    folder.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    started: list[int] = []  # indexes of the cells sent to the kernel
    stopped: list[Any] = []  # not empty once the execution was told to stop

    async def interrupt() -> None:
        manager: Any = client.km
        await manager.interrupt_kernel()  # without effect between two cells: there `before_cell` stops

    def stop() -> None:
        stopped.append(loop[0].create_task(interrupt()))

    def stop_from_another_thread() -> None:
        loop[0].call_soon_threadsafe(stop)

    def before_start(**_: Any) -> None:
        loop.append(asyncio.get_running_loop())
        _running.append(stop_from_another_thread)
        # nbclient's own handlers would kill the kernel, and leave behind the servers that the cell has started.
        for number in (signal.SIGINT, signal.SIGTERM):
            # Neither Windows nor a thread can have such handlers.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop[0].add_signal_handler(number, stop)

    def before_cell(cell: Any, cell_index: int) -> None:
        if stopped:
            raise _Stopped
        started.append(cell_index)

    loop: list[asyncio.AbstractEventLoop] = []
    client.on_notebook_start, client.on_cell_execute = before_start, before_cell
    try:
        # What lessons print goes through the kernel; its standard error itself only has warnings about the transport.
        client.execute(env=clean_environment(), stderr=subprocess.DEVNULL)
    except (CellExecutionError, CellTimeoutError, DeadKernelError, _Stopped) as error:
        if stopped:
            raise KeyboardInterrupt from None
        raise _failure(playbook, notebook, started[-1], error) from None
    finally:
        if stop_from_another_thread in _running:
            _running.remove(stop_from_another_thread)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = {"kernelspec": dict(KERNELSPEC)}
    _refuse_unkept(playbook, notebook, "notebooks")
    return notebook


def _failure(playbook: Playbook, notebook: Notebook, index: int, error: Exception) -> CellFailure:
    from playbook.kit import hook

    cell = notebook.cells[index]
    starts = [c.start for c in hook.cells(replace(playbook).source)]
    starts = [0] * (len(notebook.cells) - len(starts)) + starts  # lines before the first header are a cell to jupytext
    number = sum(c.cell_type == "code" and bool(c.source.strip()) for c in notebook.cells[: index + 1])
    outputs = [o for o in cell.outputs if o.output_type == "error"]
    reason = str(error).splitlines()[0]
    if outputs and not isinstance(error, TimeoutError):  # a cell that took too long was interrupted, which is no reason
        reason = f"{outputs[-1].ename}: {outputs[-1].evalue}".removesuffix(": ")
    trace = "\n".join(outputs[-1].traceback) if outputs else str(error)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", trace)
    return CellFailure(playbook.key, number, starts[index] + 1, cell.source, reason, plain)


def dumps(notebook: Notebook) -> str:
    """A notebook as the bytes the repository keeps: sorted keys, one space, a newline at the end."""
    import nbformat

    return str(nbformat.writes(notebook, version=4)).rstrip("\n") + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, with LF on every system, so that a reader sees the old file or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, path)
    except BaseException:  # Ctrl-C, too, leaves nothing beside it
        beside.unlink(missing_ok=True)
        raise


def refresh(playbook: Playbook) -> bool:
    """Execute the text and store the notebook; whether the file changed. Nothing is written when a cell fails."""
    text = dumps(execute(playbook))
    if playbook.notebook.is_file() and playbook.notebook.read_text(encoding="utf-8") == text:
        return False
    write_whole(playbook.notebook, text)
    return True


def refresh_many(
    playbooks: Sequence[Playbook],
    workers: int,
    report: Callable[[Playbook, bool | Exception], None],
    begin: Callable[[str], None] = lambda key: None,
) -> int:
    """Refresh several at a time; `begin` gets the key of each that starts, `report` each result as it comes.

    Returns how many failed. Threads are enough: every kernel is a process of its own. Whatever ends this early
    interrupts the cells that run, waits until their kernels have ended, and still reports what was stored meanwhile.
    """
    failed = 0

    def work(playbook: Playbook) -> bool | Exception:
        begin(playbook.key)
        return _refresh_one(playbook)

    with ThreadPoolExecutor(max(1, min(workers, len(playbooks)))) as pool:
        futures = {pool.submit(work, p): p for p in playbooks}
        unreported = dict(futures)
        try:
            for future in as_completed(futures):
                result = future.result()
                failed += isinstance(result, Exception)
                report(unreported.pop(future), result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # A future that was cancelled before it began would never count as done.
            begun = [future for future in futures if not future.cancelled()]
            while wait(begun, timeout=0.1).not_done:  # kernels that are only starting are stopped in the next round
                while _running:
                    with contextlib.suppress(RuntimeError):  # it has ended by itself
                        _running.pop()()
            for future, playbook in unreported.items():
                if not future.cancelled() and future.exception() is None:
                    report(playbook, future.result())
            raise
    return failed


def _refresh_one(playbook: Playbook) -> bool | Exception:
    try:
        return refresh(playbook)
    except (CellFailure, InputError) as error:
        return error


def differences(playbook: Playbook) -> list[str]:
    """Where text and notebook part, one line each, with the way to bring them together; empty when they are a pair."""
    made, kept = from_text(playbook), read_notebook(playbook)
    found = [f"playbook/{playbook.key}.py: {line}" for line in unkept(made)]
    found += [f"notebooks/{playbook.key}.ipynb: {line}" for line in unkept(kept)]
    if found:  # to bring them together would lose something
        return found
    text, stored = made.cells, kept.cells
    if [_shape(c) for c in text] == [_shape(c) for c in stored]:
        return _unfolded(playbook, text, stored) or _unexecuted(playbook, stored)
    matcher = SequenceMatcher(None, [_shape(c) for c in text], [_shape(c) for c in stored], autojunk=False)
    for kind, a, _, c, d in matcher.get_opcodes():
        if kind == "equal":
            continue
        where = f"cell {stored[c].get('id', c + 1)}" if c < len(stored) else f"after cell {len(stored)}"
        what = {"replace": "differs from the text", "delete": "is missing", "insert": "is not in the text"}[kind]
        if kind == "delete":
            where = f"cell {text[a].get('id', a + 1)}"
        quoted = next(iter((stored[c] if d > c else text[a]).source.strip().splitlines()), "")[:60]
        found.append(
            f"notebooks/{playbook.key}.ipynb: {where} {what} ({quoted!r}); keep the text with `playbook refresh "
            f"{playbook.name}`, or keep the notebook with `playbook refresh --from-notebook {playbook.name}`"
        )
    return found


_Shape = tuple[str, str, tuple[str, ...]]


def _shape(cell: Any) -> _Shape:
    return (cell["cell_type"], cell["source"], tuple(_kept_metadata(cell).get("tags", ())))


def _unfolded(playbook: Playbook, text: Sequence[Any], stored: Sequence[Any]) -> list[str]:
    """The stored cells that are not folded as their tags say: a reader would see an answer before the question."""
    found = []
    for wanted, cell in zip(text, stored, strict=True):
        if _fold(wanted) != _fold(cell):
            found.append(
                f"notebooks/{playbook.key}.ipynb: cell {cell.get('id', '?')} is not folded as its tags in the text "
                f"say; run `playbook refresh {playbook.name}`, which folds it"
            )
    return found


def _fold(cell: Any) -> tuple[list[str], list[str]]:
    """The options that JupyterLab hides by, and the tags that the book hides by."""
    options = [key for key, value in (cell.metadata.get("jupyter") or {}).items() if value]
    return sorted(options), sorted(BOOK_TAGS & set(cell.metadata.get("tags", ())))


def _unexecuted(playbook: Playbook, stored: Sequence[Any]) -> list[str]:
    """nbval compares nothing for a cell without an execution count, so a stored notebook must count 1..n."""
    code = [cell for cell in stored if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        if cell.execution_count != number:
            return [
                f"notebooks/{playbook.key}.ipynb: cell {cell.get('id', number)} was not run in order "
                f"(count {cell.execution_count}, expected {number}): run `playbook refresh {playbook.name}`"
            ]
    return []


def text_of_notebook(playbook: Playbook) -> str:
    """The text that the stored notebook describes. Raises InputError when a text would lose something of a cell."""
    notebook = read_notebook(playbook)
    _refuse_unkept(playbook, notebook, "notebooks")
    return to_text(notebook)


def bring_back(playbook: Playbook) -> bool:
    """Write the notebook's cells into the text (the direction JupyterLab editing needs); whether the text changed.

    Raises InputError, and writes nothing, when a cell cannot be held by a text.
    """
    text = text_of_notebook(playbook)
    if text == playbook.text.read_text(encoding="utf-8"):
        return False
    write_whole(playbook.text, text)
    return True


def all_differences(course: Course) -> list[str]:
    """`differences` of every pair, and notebooks that have no text."""
    found: list[str] = []
    for playbook in course.pairs:
        try:
            found += differences(playbook)
        except InputError as error:
            found.append(str(error))
    known = {p.notebook for p in course.pairs}
    for path in sorted((course.root / "notebooks").rglob("*.ipynb")):
        if path not in known and ".ipynb_checkpoints" not in path.parts:
            found.append(f"{path.relative_to(course.root)} has no playbook in course.toml: add it there or delete it")
    return found
