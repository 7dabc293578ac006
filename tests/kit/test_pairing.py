"""Text and notebook are one: made from each other without loss, executed whole or not written, compared by cells."""

import os
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from playbook.kit import hook, pairing
from playbook.kit.course import Course, Playbook
from playbook.kit.data import ROOT
from playbook.kit.errors import InputError

LESSON = '''\
# %% [markdown]
"""
# Sums

Add numbers.
"""

# %% [markdown]
"""
## See it break

What is one and one?
"""

# %%
total = 1 + 1
print(total)


# %% tags=["export"]
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


# %% [markdown]
"""
It is two. Next:

## Check it
"""

# %%
assert add(1, 2) == 3
total

# %% tags=["solution"]
add(2, 3)

# %% [markdown] tags=["nav"]
"""
[index](../index.ipynb)
"""
'''


def course(root: Path, **lessons: str) -> Course:
    """A course below `root` with one track and the lessons given, and no landing page."""
    (root / "playbook" / "basics").mkdir(parents=True, exist_ok=True)
    for name, source in lessons.items():
        (root / "playbook" / "basics" / f"{name}.py").write_text(source, encoding="utf-8")
    names = ", ".join(f'"{name}"' for name in lessons)
    (root / "playbook" / "course.toml").write_text(
        f'[[track]]\nname = "basics"\ntitle = "basics"\nplaybooks = [{names}]\n', encoding="utf-8"
    )
    return Course(root)


def lesson(root: Path, source: str = LESSON) -> Playbook:
    return course(root, sums=source).get("sums")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The executed notebook of LESSON: made once, a kernel takes a second."""
    sums = lesson(tmp_path_factory.mktemp("stored"))
    assert pairing.refresh(sums) is True
    return sums.notebook.read_text(encoding="utf-8")


def with_notebook(root: Path, stored: str, source: str = LESSON) -> Playbook:
    """A playbook whose text is `source` and whose notebook is the executed one of LESSON."""
    sums = lesson(root, source)
    pairing.write_whole(sums.notebook, stored)
    return sums


def change(playbook: Playbook, edit: Any) -> None:
    """Edit the stored notebook as another tool would."""
    notebook = pairing.read_notebook(playbook)
    edit(notebook.cells)
    pairing.write_whole(playbook.notebook, pairing.dumps(notebook))


# --- text to notebook and back ---


def test_text_to_notebook_to_text_changes_nothing(tmp_path: Path) -> None:
    sums = lesson(tmp_path)
    assert pairing.to_text(pairing.from_text(sums)) == LESSON


def test_executed_notebook_to_text_changes_nothing(tmp_path: Path, stored: str) -> None:
    sums = with_notebook(tmp_path, stored)
    assert pairing.to_text(pairing.read_notebook(sums)) == LESSON
    assert pairing.bring_back(sums) is False


@pytest.mark.parametrize(
    "cell",
    [
        "# %%\n# only a comment",
        "# %%\nx = '''\n\n\n'''",
        '# %% [markdown]\n"""\nprose with `code`, a \\\\ backslash and\n\n    an indented line\n"""',
        "# %%\nclass A:\n    pass\n\n\nA()",
        "# %%\n@property\ndef f(self):\n    pass\n",
        "# %%\nif True:\n    print(1)",
        '# %% tags=["exercise"]\nraise NotImplementedError',
    ],
)
def test_cells_of_many_kinds_survive_the_round_trip(tmp_path: Path, cell: str) -> None:
    head, rest = LESSON.split("\n\n", 2)[0:2], "# %%\nlast = 1\n"
    blank = "\n\n\n" if cell.endswith("pass\n") else "\n\n"
    source = "\n\n".join(head).rstrip() + "\n\nAdd.\n" + '"""\n\n' + cell.rstrip("\n") + blank + rest
    sums = lesson(tmp_path, source)
    notebook = pairing.from_text(sums)
    again = lesson(tmp_path / "again", pairing.to_text(notebook))
    shapes = [(c.cell_type, c.source, c.metadata) for c in notebook.cells]
    assert [(c.cell_type, c.source, c.metadata) for c in pairing.from_text(again).cells] == shapes
    assert pairing.to_text(pairing.from_text(again)) == again.source


def test_notebooks_are_valid_and_carry_nothing_of_this_machine(tmp_path: Path, stored: str) -> None:
    notebook = nbformat.reads(stored, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {"kernelspec": pairing.KERNELSPEC}
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3, 4]
    assert stored.endswith("}\n")
    assert [c.metadata for c in notebook.cells if c.metadata] == [
        {"tags": ["export"]},
        {"jupyter": {"source_hidden": True}, "tags": ["solution", "hide-input"]},
        {"tags": ["nav"]},
    ]


# --- ids ---


def ids(playbook: Playbook) -> list[str]:
    return [cell.id for cell in pairing.from_text(playbook).cells]


def test_ids_say_where_a_cell_stands(tmp_path: Path) -> None:
    assert ids(lesson(tmp_path)) == [
        "title-1",
        "see-it-break-1",
        "see-it-break-2",
        "see-it-break-3",
        "see-it-break-4",
        "check-it-1",
        "check-it-2",
        "check-it-3",
    ]


def test_an_edited_cell_keeps_its_id(tmp_path: Path) -> None:
    before = ids(lesson(tmp_path))
    assert ids(lesson(tmp_path, LESSON.replace("1 + 1", "2 + 2").replace("What is", "How much is"))) == before


def test_an_inserted_cell_moves_only_its_own_section(tmp_path: Path) -> None:
    before = ids(lesson(tmp_path))
    inserted = LESSON.replace("# %%\ntotal = ", "# %%\nfirst = 0\n\n# %%\ntotal = ")
    after = ids(lesson(tmp_path, inserted))
    assert [i for i in after if not i.startswith("see")] == [i for i in before if not i.startswith("see")]
    assert after.count("see-it-break-5") == 1


def test_ids_are_unique_and_valid_whatever_the_headings(tmp_path: Path) -> None:
    headings = ["Title", "Title", "Überschrift / ümläute", "x" * 200, "a-1", "a", "!!!", "Title 1", "## twice"]
    cells = [f'# %% [markdown]\n"""\n## {h}\n"""\n\n# %%\n1\n' for h in headings for _ in range(2)]
    notebook = pairing.from_text(lesson(tmp_path, LESSON + "\n" + "\n".join(cells)))
    nbformat.validate(notebook)
    found = [cell.id for cell in notebook.cells]
    assert len(set(found)) == len(found)


# --- execution ---


def test_refresh_again_writes_the_same_bytes(tmp_path: Path, stored: str) -> None:
    sums = with_notebook(tmp_path, stored)
    written = sums.notebook.stat().st_mtime_ns
    assert pairing.refresh(sums) is False
    assert sums.notebook.read_text(encoding="utf-8") == stored
    assert sums.notebook.stat().st_mtime_ns == written
    assert sorted(p.name for p in sums.notebook.parent.iterdir()) == ["sums.ipynb"], "something was left behind"


def test_the_kernel_runs_where_nbval_and_jupyterlab_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the notebook's folder, without the reader's database and settings, in this very environment."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/else")
    monkeypatch.setenv("PANTRY_SECRET", "of the reader")
    code = (
        "# %%\nimport os, sys\n"
        "print(os.getcwd(), sys.prefix, sorted(k for k in os.environ if k.startswith(('PANTRY', 'DATABASE'))))\n"
    )
    sums = lesson(tmp_path, code)
    [cell] = pairing.execute(sums).cells
    assert cell.outputs[0].text.split() == [str(sums.notebook.parent), sys.prefix, "[]"]


FAILING = LESSON.replace("assert add(1, 2) == 3", 'secret = 41\nraise ValueError("not three")')


def test_nothing_is_written_when_a_cell_fails(tmp_path: Path, stored: str) -> None:
    sums = with_notebook(tmp_path, stored, FAILING)
    with pytest.raises(pairing.CellFailure) as caught:
        pairing.refresh(sums)
    failure = caught.value
    lines = FAILING.split("\n")
    assert failure.playbook == "basics/sums"
    assert failure.number == 3
    assert lines[failure.line - 1] == "secret = 41"
    assert failure.error == "ValueError: not three"
    assert failure.source.startswith("secret = 41")
    assert "not three" in failure.traceback
    assert "\x1b" not in failure.traceback
    assert str(failure) == f"basics/sums: cell 3 (line {failure.line}) failed with ValueError: not three"
    assert sums.notebook.read_text(encoding="utf-8") == stored


@pytest.mark.parametrize("before", ["", "print('busy', flush=True)\n"], ids=["silent", "after output"])
def test_a_cell_that_takes_too_long_is_named(tmp_path: Path, before: str) -> None:
    slow = LESSON.replace("assert add(1, 2) == 3", before + "import threading; threading.Event().wait(60)")
    sums = lesson(tmp_path, slow)
    with pytest.raises(pairing.CellFailure) as caught:
        pairing.execute(sums, seconds=1)
    assert (caught.value.number, caught.value.source) == (
        3,
        before + "import threading; threading.Event().wait(60)\ntotal",
    )
    assert "timed out" in caught.value.error
    assert not sums.notebook.exists()


@pytest.mark.parametrize("number", [1, 3])
def test_a_cell_that_ends_the_kernel_is_named(tmp_path: Path, number: int) -> None:
    found = {1: "total = 1 + 1", 3: "assert add(1, 2) == 3"}[number]
    sums = lesson(tmp_path, LESSON.replace(found, "import os\nos._exit(1)"))
    with pytest.raises(pairing.CellFailure) as caught:
        pairing.execute(sums)
    assert caught.value.number == number
    assert caught.value.source.startswith("import os\nos._exit(1)")
    assert sums.source.split("\n")[caught.value.line - 1] == "import os"
    assert "died" in caught.value.error
    assert not sums.notebook.exists()


def test_several_at_a_time_and_one_of_them_fails(tmp_path: Path) -> None:
    good, bad = "# %%\nprint({!r})\n", "# %%\n1 / 0\n"
    many = course(tmp_path, one=good.format("one"), two=bad, three=good.format("three"))
    (tmp_path / "playbook/course.toml").write_text(
        '[[track]]\nname = "basics"\ntitle = "t"\nplaybooks = ["one", "two", "three", "lost"]\n', encoding="utf-8"
    )
    many = Course(tmp_path)
    said: dict[str, bool | Exception] = {}
    failed = pairing.refresh_many(many.playbooks, 2, lambda playbook, result: said.update({playbook.name: result}))
    assert failed == 2
    assert (said["one"], said["three"]) == (True, True)
    assert isinstance(said["two"], pairing.CellFailure)
    assert (said["two"].error, said["two"].number, said["two"].line) == ("ZeroDivisionError: division by zero", 1, 2)
    assert isinstance(said["lost"], InputError)
    assert sorted(p.name for p in (tmp_path / "notebooks/basics").iterdir()) == ["one.ipynb", "three.ipynb"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Whoever holds the old file open still reads all of it: it is replaced, not written over."""
    path = tmp_path / "deep" / "file.txt"
    pairing.write_whole(path, "old")
    with path.open(encoding="utf-8") as reading:
        pairing.write_whole(path, "new")
        assert reading.read() == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


# --- comparison ---


def edit_source(cells: list[Any]) -> None:
    cells[2].source = "total = 3"


def change_tags(cells: list[Any]) -> None:
    cells[3].metadata = {}


def remove_cell(cells: list[Any]) -> None:
    del cells[6]


def remove_first_cell(cells: list[Any]) -> None:
    del cells[0]


def add_cell(cells: list[Any]) -> None:
    cells.insert(3, nbformat.v4.new_code_cell("extra = 1", id="extra", execution_count=2))


def add_last_cell(cells: list[Any]) -> None:
    cells.append(nbformat.v4.new_markdown_cell("the end", id="the-end"))


def change_kind(cells: list[Any]) -> None:
    cells[1] = nbformat.v4.new_code_cell(cells[1].source, id="see-it-break-1")


def unrun_cell(cells: list[Any]) -> None:
    cells[5].execution_count = None


def run_out_of_order(cells: list[Any]) -> None:
    cells[2].execution_count, cells[3].execution_count = 2, 1


EDITS = {
    edit_source: ("cell see-it-break-2 differs from the text", "total = 3"),
    change_tags: ("cell see-it-break-3 differs from the text", "def add"),
    remove_cell: ("cell check-it-2 is missing", "add(2, 3)"),
    remove_first_cell: ("cell title-1 is missing", "# Sums"),
    add_cell: ("cell extra is not in the text", "extra = 1"),
    add_last_cell: ("cell the-end is not in the text", "the end"),
    change_kind: ("cell see-it-break-1 differs from the text", "## See it break"),
}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_notebook_is_found_with_the_cell_and_the_remedy(tmp_path: Path, stored: str, edit: Any) -> None:
    sums = with_notebook(tmp_path, stored)
    assert pairing.differences(sums) == []
    change(sums, edit)
    [found] = pairing.differences(sums)
    where, quoted = EDITS[edit]
    assert found.startswith(f"notebooks/basics/sums.ipynb: {where}")
    assert quoted in found
    assert "`playbook refresh sums`" in found
    assert "`playbook refresh --from-notebook sums`" in found
    assert "\n" not in found


@pytest.mark.parametrize("edit", [unrun_cell, run_out_of_order], ids=lambda edit: edit.__name__)
def test_a_cell_that_was_not_run_in_order_is_found(tmp_path: Path, stored: str, edit: Any) -> None:
    sums = with_notebook(tmp_path, stored)
    change(sums, edit)
    [found] = pairing.differences(sums)
    assert "was not run in order" in found
    assert "`playbook refresh sums`" in found


def test_several_edits_are_several_findings(tmp_path: Path, stored: str) -> None:
    sums = with_notebook(tmp_path, stored)
    change(sums, lambda cells: (edit_source(cells), remove_cell(cells)))
    assert len(pairing.differences(sums)) == 2


def test_a_missing_or_broken_notebook_is_one_line(tmp_path: Path) -> None:
    sums = lesson(tmp_path)
    with pytest.raises(InputError, match=r"does not exist: make it with `playbook refresh sums`"):
        pairing.differences(sums)
    for broken in ("", "{", "[]", '{"cells": 3}', "\0"):
        pairing.write_whole(sums.notebook, broken)
        with pytest.raises(InputError, match=r"not a readable notebook .*`playbook refresh sums`") as caught:
            pairing.differences(sums)
        assert "\n" not in str(caught.value)


def test_a_notebook_without_a_text_is_found(tmp_path: Path, stored: str) -> None:
    sums = with_notebook(tmp_path, stored)
    shutil.copy(sums.notebook, sums.notebook.with_name("stray.ipynb"))
    checkpoint = sums.notebook.parent / ".ipynb_checkpoints" / "sums-checkpoint.ipynb"
    pairing.write_whole(checkpoint, stored)
    index = tmp_path / "playbook/index.py"
    index.write_text(LESSON, encoding="utf-8")
    pairing.write_whole(tmp_path / "notebooks/index.ipynb", stored)
    assert pairing.all_differences(Course(tmp_path)) == [
        "notebooks/basics/stray.ipynb has no playbook in course.toml: add it there or delete it"
    ]


def test_bring_back_takes_the_notebook_into_the_text(tmp_path: Path, stored: str) -> None:
    sums = with_notebook(tmp_path, stored)
    change(sums, lambda cells: (edit_source(cells), add_last_cell(cells)))
    assert pairing.bring_back(sums) is True
    text = sums.text.read_text(encoding="utf-8")
    assert text.startswith(LESSON.split("# %%\ntotal")[0])
    assert "# %%\ntotal = 3\n" in text
    assert text.endswith('# %% [markdown]\n"""\nthe end\n"""\n')
    assert pairing.differences(lesson(tmp_path, text)) == []
    assert pairing.bring_back(sums) is False


# --- what a text cannot hold ---


def code_cell(source: str, **more: Any) -> Any:
    return nbformat.v4.new_code_cell(source, id="odd", execution_count=2, **more)


def markdown_cell(source: str, **more: Any) -> Any:
    return nbformat.v4.new_markdown_cell(source, id="odd", **more)


PICTURE = {"image.png": {"image/png": "iVBORw0KGgo="}}
WIDGET = nbformat.v4.new_output("display_data", {pairing.WIDGET: {"model_id": "1"}, "text/plain": "Button()"})
UNKEPT = {
    "three quotes": (markdown_cell('say """ here'), 'has three quotes (""")'),
    "only quotes": (markdown_cell('"""'), 'has three quotes (""")'),
    "a header in Markdown": (markdown_cell("like this:\n# %% tags"), "has the line '# %% tags'"),
    "a header in code": (code_cell("x = 1\n# %%\ny = 2"), "has the line '# %%'"),
    "a header of another editor": (code_cell("#%%\nx = 1"), "has the line '#%%'"),
    "a header of an export": (code_cell("# In[1]:\nx = 1"), "has the line '# In[1]:'"),
    "a header in a string": (code_cell('s = """\n# %% [markdown]\n"""'), "has the line '# %% [markdown]'"),
    "a cell magic": (code_cell("%%bash\nls"), "would be another cell in the text"),
    "a form feed": (code_cell("x = 1\x0cy = 2"), "would be another cell in the text"),
    "a line separator": (markdown_cell("a\u2028b"), "would be another cell in the text"),
    "a raw cell": (nbformat.v4.new_raw_cell("as it is", id="odd"), "is a raw cell, which pages do not have"),
    "a picture": (markdown_cell("![x](attachment:image.png)", attachments=PICTURE), "has image.png pasted into it"),
    "metadata": (markdown_cell("a", metadata={"slideshow": {"slide_type": "slide"}}), "text would lose, slideshow"),
    "a tag with a bracket": (code_cell("x = 1", metadata={"tags": ["a]b"]}), "would be another cell in the text"),
    "a widget": (code_cell("x = 1", outputs=[WIDGET]), "shows a widget, which is empty in a stored notebook"),
}


@pytest.mark.parametrize("kind", UNKEPT)
def test_a_cell_that_a_text_cannot_hold_is_refused_and_named(tmp_path: Path, stored: str, kind: str) -> None:
    cell, why = UNKEPT[kind]
    sums = with_notebook(tmp_path, stored)
    change(sums, lambda cells: cells.insert(3, deepcopy(cell)))
    before = sums.notebook.read_bytes()
    with pytest.raises(InputError, match=r"^notebooks/basics/sums\.ipynb: cell odd ") as caught:
        pairing.bring_back(sums)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sums.text.read_text(encoding="utf-8") == LESSON
    [found] = pairing.differences(sums)
    assert found.startswith("notebooks/basics/sums.ipynb: cell odd ")
    assert why in found
    assert sums.notebook.read_bytes() == before


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("# %% [raw]\n# as it is", "is a raw cell"),
        ('# %% [markdown]\n"""\n# %% in prose\n"""', "has the line '# %% in prose'"),
        ('# %%\ntext = """\n# %% in a string\n"""', "has the line '# %% in a string'"),
    ],
)
def test_a_text_that_is_not_the_same_cells_to_python_is_refused(tmp_path: Path, cell: str, why: str) -> None:
    """Before a kernel is started, and by `playbook check`."""
    source = LESSON.replace("# %%\nassert add", cell + "\n\n# %%\nassert add")
    assert source != LESSON
    sums = lesson(tmp_path, source)
    with pytest.raises(InputError, match=r"^playbook/basics/sums\.py: cell ") as caught:
        pairing.refresh(sums)
    assert why in str(caught.value)
    assert not sums.notebook.exists()


def test_what_editors_note_for_themselves_is_no_fault(tmp_path: Path, stored: str) -> None:
    sums = with_notebook(tmp_path, stored)
    change(sums, lambda cells: cells[2].metadata.update(collapsed=False, scrolled=True, execution={"x": 1}))
    assert pairing.differences(sums) == []
    assert pairing.bring_back(sums) is False


FOLDS = {
    "stage": ({"source_hidden": True}, "hide-input"),
    "solution": ({"source_hidden": True}, "hide-input"),
    "predict": ({"outputs_hidden": True}, "hide-output"),
    "hint": ({"outputs_hidden": True}, "hide-output"),
}


@pytest.mark.parametrize("role", FOLDS)
def test_what_is_folded_follows_from_the_role_and_is_not_in_the_text(tmp_path: Path, role: str) -> None:
    sums = lesson(tmp_path, LESSON.replace("# %%\ntotal", f'# %% tags=["{role}"]\ntotal'))
    notebook = pairing.from_text(sums)
    option, book = FOLDS[role]
    assert notebook.cells[2].metadata == {"tags": [role, book], "jupyter": option}
    assert pairing.to_text(notebook) == sums.source
    assert pairing.unkept(notebook) == []


@pytest.mark.parametrize(
    ("index", "metadata"),
    [
        (2, {"jupyter": {"source_hidden": True}}),
        (2, {"tags": ["hide-output"]}),
        (-2, {"tags": ["solution", "hide-input"], "jupyter": {}}),
        (-2, {"tags": ["solution"], "jupyter": {"source_hidden": True}}),
    ],
)
def test_a_stored_cell_that_is_not_folded_as_its_role_says_is_found(
    tmp_path: Path, stored: str, index: int, metadata: dict[str, Any]
) -> None:
    sums = with_notebook(tmp_path, stored)
    assert pairing.differences(sums) == []
    change(sums, lambda cells: cells[index].__setitem__("metadata", nbformat.from_dict(metadata)))
    [found] = pairing.differences(sums)
    assert "is not folded as its tags in the text say; run `playbook refresh sums`" in found
    assert pairing.bring_back(sums) is False, "the text has roles, never the folding"


PIECES = st.sampled_from(
    [
        '"""', "'''", '"', "\\", "\\n", "\\d", "\\N{DASH}", "# %%", "#%%", "# %% [markdown]", "# In[2]:", "\n",
        "\n\n",
        "    ", "x = 1", "def f():", "%%bash", "%time f()", "!ls", "# ", "## Heading", "é→", "\r", "\x0c", "\u2028",
        ";",
        "(", "r", "b'", "# +", "# -", "# ---", "[a](b.ipynb)", "| a |", "```", "pass", "class A:", "@d", "?x",
        "await g()", 'tags=["export"]',
    ]
)  # fmt: skip
CELLS = st.tuples(st.sampled_from(["code", "markdown"]), st.lists(PIECES, max_size=5).map("".join))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.lists(CELLS, min_size=1, max_size=3))
def test_a_notebook_comes_back_from_its_text_or_is_refused(cells: list[tuple[str, str]]) -> None:
    made = [nbformat.v4.new_code_cell(s) if kind == "code" else nbformat.v4.new_markdown_cell(s) for kind, s in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), *made])
    refused = pairing.unkept(notebook)
    assert all(line.startswith("cell") for line in refused)
    if refused:
        return
    text = pairing.to_text(notebook)
    with TemporaryDirectory() as folder:
        again = pairing.from_text(lesson(Path(folder), text))
        assert [(c.cell_type, c.source) for c in again.cells] == [(c.cell_type, c.source) for c in notebook.cells]
        assert pairing.unkept(again) == []
        assert pairing.to_text(again) == text
    lines = text.split("\n")
    for ours, theirs in zip(hook.cells(text), again.cells, strict=True):
        assert ours.markdown == (theirs.cell_type == "markdown")
        if ours.markdown:
            compile("\n".join(lines[ours.start : ours.stop]), "cell", "eval" if theirs.source else "exec")


# --- JupyterLab ---


@pytest.fixture
def lab(tmp_path: Path, stored: str) -> Any:
    """JupyterLab's file access with jupytext, on a copy of the repository's configuration."""
    with_notebook(tmp_path, stored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)()
    manager.root_dir = str(tmp_path)
    return manager


TEXT, NOTEBOOK = "playbook/basics/sums.py", "notebooks/basics/sums.ipynb"


def save(lab: Any, path: str, content: Any) -> None:
    lab.save({"type": "notebook", "format": "json", "content": content}, path)


@pytest.mark.parametrize("newer", [TEXT, NOTEBOOK])
@pytest.mark.parametrize("opened", [TEXT, NOTEBOOK])
def test_opening_and_saving_in_jupyterlab_leaves_the_text_alone(lab: Any, newer: str, opened: str) -> None:
    """Whichever is opened, and whichever is newer: `git clone` leaves it to chance, a refresh makes the notebook so."""
    root = Path(lab.root_dir)
    for path in (TEXT, NOTEBOOK):
        moment = 2_000_000_000 if path == newer else 1_900_000_000
        os.utime(root / path, (moment, moment))
    content = lab.get(opened)["content"]
    assert [c.source for c in content.cells][2] == "total = 1 + 1\nprint(total)"
    content.metadata["language_info"] = {"name": "python", "version": "3.14.0"}  # as JupyterLab adds
    save(lab, opened, content)
    assert (root / TEXT).read_text(encoding="utf-8") == LESSON
    [left] = pairing.differences(lesson(root))
    assert "check-it-2 is not folded" in left, "the folding is lost until the refresh, and nothing else"
    code = [c for c in nbformat.read(root / NOTEBOOK, 4).cells if c.cell_type == "code"]
    assert code[0].outputs[0].text == "2\n", "the stored output was lost"
    assert code[-1].metadata["tags"] == ["solution"]
    if opened == NOTEBOOK:
        assert code[-1].metadata["jupyter"] == {"source_hidden": True}, "it was not folded in JupyterLab"


def test_what_is_folded_by_hand_in_jupyterlab_does_not_reach_the_text(lab: Any) -> None:
    root = Path(lab.root_dir)
    content = lab.get(NOTEBOOK)["content"]
    content.cells[2].metadata.update(jupyter={"source_hidden": True}, tags=["hide-input"])
    content.cells[-2].metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": True}
    save(lab, NOTEBOOK, content)
    text = (root / TEXT).read_text(encoding="utf-8")
    assert "jupyter" not in text
    assert text.replace('# %% tags=["hide-input"]', "# %%") == LESSON, "`playbook check` tells of the tag"


def test_an_edit_in_jupyterlab_reaches_the_text_in_the_course_s_form(lab: Any) -> None:
    root = Path(lab.root_dir)
    content = lab.get(NOTEBOOK)["content"]
    cells = [deepcopy(c) for c in content.cells]
    cells[2].source = "total = 2 + 2"
    cells.insert(3, nbformat.v4.new_markdown_cell("A new paragraph."))
    cells.insert(4, nbformat.v4.new_code_cell("new = 1"))
    content.cells = cells
    save(lab, NOTEBOOK, content)
    wanted = LESSON.replace(
        "# %%\ntotal = 1 + 1\nprint(total)\n\n\n",
        '# %%\ntotal = 2 + 2\n\n# %% [markdown]\n"""\nA new paragraph.\n"""\n\n# %%\nnew = 1\n\n\n',
    )
    assert wanted != LESSON
    assert (root / TEXT).read_text(encoding="utf-8") == wanted


def test_an_older_text_still_wins_over_a_notebook_edited_elsewhere(lab: Any) -> None:
    """The text is the source. `playbook check` tells of the difference; a file time must not decide it."""
    root = Path(lab.root_dir)
    sums = lesson(root)
    change(sums, edit_source)
    os.utime(root / TEXT, (1_900_000_000, 1_900_000_000))
    assert lab.get(NOTEBOOK)["content"].cells[2].source == "total = 1 + 1\nprint(total)"
