"""Every rule for lessons finds what breaks it, says where and what to do, and else is quiet."""

import shutil
from collections.abc import Callable
from pathlib import Path

import new_page
import pytest
import small_course

from playbook.kit import anatomy, answers, budget, check, pairing, scaffold
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError
from playbook.kit.lift_size import LiftSize


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("anatomy") / "course"
    page = new_page.make(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        new_page.store(page, monkeypatch)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "course"))


def page(root: Path) -> Playbook:
    return Course(root).get("clamp")


def test_a_page_that_keeps_the_rules_has_no_findings(root: Path) -> None:
    assert check.findings(Course(root)) == []
    assert pairing.differences(page(root)) == []


def test_the_gates_call_every_rule() -> None:
    assert set(anatomy.PAGE_RULES) < set(check.PAGE_RULES)
    assert set(anatomy.COURSE_RULES) < set(check.COURSE_RULES)


LONG_CELL = "\n".join(f"x{n} = {n}" for n in range(26))
CARD_ROWS = ("| **You need** | nothing |\n", "| **Time** | read 8 min, exercise 10 min |\n")
CHOSEN = "| **one function** | cannot be forgotten | a call |\n\nWe choose **one function**"
ENDS = '# %% tags=["hint"]\nprint(HINTS[1])  # the idea\n\n\n# %% tags=["solution"]'
ENDS_TURNED = '# %% tags=["solution"]\nprint(HINTS[1])  # the idea\n\n\n# %% tags=["hint"]'
TOO_MANY = "".join(f"    assert {n} == {n}, 'no'\n" for n in range(5))
SPOILED = [  # (rule, what is replaced, by what, what the finding says)
    (anatomy.card, '"""\n# Clamp\n', '"""\nClamp\n', "the first cell has no title"),
    (anatomy.card, "the result can be used.", "the result can be used", "no promise below the title"),
    (anatomy.card, "can be used.", "can be used" + ", and so on" * 20 + ".", "more than 200 letters"),
    (anatomy.card, "| **Topics** |", "| **Subjects** |", "the card lacks Topics"),
    (anatomy.card, "| **You need** | nothing |\n", "", "the card lacks You need"),
    (anatomy.card, "".join(CARD_ROWS), "".join(reversed(CARD_ROWS)), "the card's rows are out of order"),
    (anatomy.card, "read 8 min, exercise 10 min", "8 minutes", "Time is '8 minutes'"),
    (anatomy.card, "exercise 10 min", "exercise 40 min", "an exercise of 40 min"),
    (anatomy.order_of_sections, "## See it work", "## See it run", "unknown section 'See it run'"),
    (anatomy.order_of_sections, "## In short", "## Sources", "section 'Sources' twice"),
    (anatomy.order_of_sections, "## In short", "### In short", "section 'In short' is missing"),
    (anatomy.order_of_sections, "## Check it", "### Check it", "section 'Check it' is missing"),
    (anatomy.order_of_sections, "## Take it with you", "### Take it", "section 'Take it with you' is missing"),
    (anatomy.order_of_sections, "## The decision", "## On PostgreSQL", "the sections are out of order"),
    (anatomy.order_of_sections, '[markdown] tags=["nav"]', "[markdown]", "not the one with the links"),
    (anatomy.roles, 'tags=["stage"]', 'tags=["stage", "export"]', "a cell with the roles export and stage"),
    (anatomy.roles, '[markdown]\n"""\n## Check', '[markdown] tags=["stage"]\n"""\n## Check', "a Markdown cell tagged"),
    (anatomy.roles, 'tags=["exercise"]', 'tags=["predict"]', "0 cells tagged exercise"),
    (anatomy.roles, '# %% tags=["hint"]\nprint(HINTS[1])', "# %%\nprint(HINTS[1])", "1 cells tagged hint"),
    (anatomy.roles, 'tags=["solution"]', "", "0 cells tagged solution"),
    (anatomy.roles, ENDS, ENDS_TURNED, "exercise, hints and solution are out of order"),
    (anatomy.folded_by_hand, 'tags=["stage"]', 'jupyter={"source_hidden": true} tags=["stage"]', "by hand, jupyter="),
    (anatomy.folded_by_hand, '# %%\nlimit = ', '# %% tags=["hide-input"]\nlimit = ', "folded by hand, hide-input"),
    (anatomy.parts, "Predict: how many does the service read?", "It reads them.", "no question before the failure"),
    (anatomy.parts, "Predict: how many does the service read?", "It reads them.", "a prediction without a question"),
    (anatomy.parts, "# %%\nlimit", '# %% tags=["predict"]\nlimit', "a prediction without a question"),
    (anatomy.parts, '"""\n\n# %% tags=["stage"]', '\n## Else\n"""\n\n# %% tags=["stage"]', "nothing is run"),
    (anatomy.parts, "print(rows_for(1_000_000))", LONG_CELL, "26 visible lines of code in See it break"),
    (anatomy.parts, "| in every caller | nothing to write | one caller forgets |\n", "", "no table of 2 to 5 options"),
    (anatomy.parts, CHOSEN, CHOSEN.replace("*", ""), "the choice is not marked"),
    (anatomy.parts, "function", "function", None),
    (anatomy.parts, "- **Reviewer**: ", "- **Operator**: a metric.\n- **Reviewer**: ", None),
    (anatomy.parts, 'assert result >= 1, "a number is below its bound"', "pass", "2 assertions in Check it"),
    (anatomy.parts, "    result = clamp(number, bounds)\n", TOO_MANY, "8 assertions in Check it"),
    (anatomy.parts, 'result >= 1, "a number is below its bound"', "result >= 1", "an assertion without words"),
    (anatomy.parts, "`playbook lift clamp INTO`", "`playbook lift`", "does not say how to lift"),
    (anatomy.parts, "- **Reviewer**: ", "- Reviewer: ", "2 lines to hand over"),
    (anatomy.parts, "One function knows the bounds.\n", "word " * 90 + "\n", "In short has 100 words"),
    (anatomy.parts, "## Sources\n\nNone.", "## Sources\n", "no sources"),
    (anatomy.synopsis, "```python", "```text", "no synopsis"),
    (anatomy.synopsis, "limit = clamp(wanted, Bounds(1, 100))", "limit = clamp(", "the synopsis is not Python"),
    (anatomy.synopsis, "from playbook.api.clamp import Bounds, clamp\n\nlimit", "limit", "does not import the recipe"),
    (anatomy.synopsis, "import Bounds, clamp\n\nlimit", "import Bound, clamp\n\nlimit", "imports Bound, which is no"),
    (anatomy.synopsis, "limit = clamp(wanted, Bounds(1, 100))\n", "x = 1\n" * 6, "6 lines of use in the synopsis"),
    (anatomy.synopsis, "limit = clamp(wanted, Bounds(1, 100))\n", "", "0 lines of use in the synopsis"),
    (anatomy.synopsis, "*Lift: 12 lines", "*Lift: some lines", "does not say what is lifted"),
    (anatomy.within_budget, "read 8 min", "read 7 min", "the card says 7 min, computed are 8; write `read 8 min,"),
    (anatomy.within_budget, "def rows_for(", "x = 1\n" * 60 + "\n\ndef rows_for(", "63 lines in stage cells"),
    (anatomy.width, "The same client asks again.", "word " * 18, "E501: a line of 90 columns"),
    (anatomy.width, "print(rows_for(limit))", "print(rows_for(limit))  # " + "x y " * 17, "E501: a line of 94"),
    (anatomy.width, "| a call |", "| a call" + " more" * 13 + " |", "E501: a line of 116 columns"),
    (anatomy.introduced, "`rows_for(limit)`", "what it needs", "uses rows_for, which the sentence"),
    (anatomy.introduced, "# %%\nlimit =", "# %%\nprint(Counter())\nlimit =", "uses Counter, which the sentence"),
    (anatomy.introduced, "## See it break\n\nThe folded cell", "`rows_for`\n\nThis cell", None),
    (anatomy.functions, "    at_least_low = max", "    x = 1\n" * 21 + "    at_least_low = max", "clamp has 25 lines"),
    (anatomy.functions, '    """`number`, or the nearer bound."""\n', "", "clamp is exported without a docstring"),
    (anatomy.functions, 'int:\n    """`number`, or the nearer bound."""\n', "int:\n    pass\n", "without a docstring"),
    (anatomy.exercise, "from playbook.exercises.api.clamp import HINTS, check", "pass", "does not import its checker"),
    (anatomy.exercise, "assert check(outside)", "check(outside)", "the solution does not prove itself"),
    (anatomy.break_it, "| `max(bounds.low, number)` | `number` | a number is below its bound |\n", "", "2 changes in"),
    (anatomy.break_it, "**Break it.** Make", "Make", "0 changes in the table Break it"),
    (anatomy.break_it, "| `max(bounds.low, number)`", "| `max(bounds)`", "'max(bounds)' stands 0 times in the export"),
    (anatomy.break_it, "| `max(bounds.low, number)`", "| `number`", "'number' stands 4 times in the export cells"),
    (anatomy.break_it, "| `number` | a number", "| `max(bounds.low, number)` | a number", "is not changed"),
    (anatomy.break_it, "a number is below its bound |", "it is red |", "no assertion says 'it is red'"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "old", "new", "says"), SPOILED, ids=[f"{r.__name__}-{s}" for r, _, _, s in SPOILED])
def test_a_page_that_breaks_a_rule_is_found(
    root: Path, rule: Callable[[Playbook], list[str]], old: str, new: str, says: str | None
) -> None:
    assert rule(page(root)) == []
    small_course.replace(page(root), old, new)
    found = rule(page(root))
    if says is None:
        assert found == []
        return
    assert any(says in line for line in found), found
    assert all(line.startswith("playbook/api/clamp.py:") and "; " in line for line in found)


@pytest.mark.parametrize("rule", anatomy.PAGE_RULES, ids=lambda rule: rule.__name__)
def test_each_rule_is_tried(rule: Callable[[Playbook], list[str]]) -> None:
    assert any(tried is rule and says for tried, _, _, says in SPOILED)


def test_a_finding_names_the_line(root: Path) -> None:
    small_course.replace(page(root), "`rows_for(limit)`", "what it needs")
    lines = page(root).source.split("\n")
    (found,) = anatomy.introduced(page(root))
    stage, use = lines.index('# %% tags=["stage"]') + 1, lines.index("print(rows_for(1_000_000))") + 1
    assert found.startswith(f"playbook/api/clamp.py:{stage}: line {use} uses rows_for, which")


@pytest.mark.parametrize("between", ["", "# %%\n"])
def test_a_name_that_a_visible_cell_binds_needs_no_sentence(root: Path, between: str) -> None:
    """In the cell that uses it, or in one before."""
    own = f"# %%\nfrom collections import Counter\n\n{between}print(Counter())\nlimit ="
    small_course.replace(page(root), "# %%\nlimit =", own)
    assert anatomy.introduced(page(root)) == []


def test_a_folded_cell_needs_a_sentence(root: Path) -> None:
    small_course.replace(page(root), "Predict: how many does the service read?\n", "Predict: how many?\n\n### Next\n")
    assert any("a folded cell without a sentence" in line for line in anatomy.introduced(page(root)))


def test_a_url_may_be_longer_than_the_line(root: Path) -> None:
    small_course.replace(page(root), "The same client asks again.", "See https://example.org/" + "x" * 90 + " here.")
    assert anatomy.width(page(root)) == []


OVER = {
    "words": 1300, "lines": 161, "tokens": 1701, "longest": 26, "gap": 31, "shown": 59, "minutes": 41,
}  # fmt: skip


@pytest.mark.parametrize("name", OVER)
def test_each_number_of_the_budget_is_found(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = budget.measure(pairing.with_stored_outputs(page(root)).cells)
    changed = budget.Measure(**(vars(real) | {name: OVER[name]}))
    monkeypatch.setattr(budget, "measure", lambda _: changed)
    found = [line for line in anatomy.within_budget(page(root)) if "the card says" not in line]
    assert len(found) == 1
    assert str(OVER[name]) in found[0]
    assert budget.CURE[name] in found[0]


def test_the_longest_cell_is_found_where_it_stands(root: Path) -> None:
    before = "bounds = Bounds(1, 100)\n"
    small_course.replace(page(root), before, f"{before}{LONG_CELL}\n")
    line = page(root).source.split("\n").index("bounds = Bounds(1, 100)") + 1
    assert any(
        found.startswith(f"playbook/api/clamp.py:{line}: a visible cell of 28 lines (at most 25);")
        for found in anatomy.within_budget(page(root))
    )


def test_the_text_is_measured_and_not_what_is_stored(root: Path) -> None:
    stored = budget.measure(pairing.with_stored_outputs(page(root)).cells)
    small_course.replace(page(root), "The same client asks again.", "The same client asks again, and again.")
    after = budget.measure(pairing.with_stored_outputs(page(root)).cells)
    assert (after.words, after.shown, after.gap) == (stored.words + 2, stored.shown, stored.gap)
    path = page(root).notebook
    path.write_text(path.read_text(encoding="utf-8").replace("The same client", "word " * 99), encoding="utf-8")
    assert budget.measure(pairing.with_stored_outputs(page(root)).cells) == after


def test_an_edited_cell_keeps_its_output_and_a_new_one_has_none(root: Path) -> None:
    def shows() -> dict[str, bool]:
        code = [cell for cell in pairing.with_stored_outputs(page(root)).cells if cell.cell_type == "code"]
        return {cell.source: bool(cell.outputs) for cell in code}

    before = shows()
    small_course.replace(page(root), "# %%\nlimit =", "# %%\nnew = 1\n\n\n# %%\nlimit =")
    assert shows() == before | {"new = 1": False}
    small_course.replace(page(root), "# %%\nbounds = Bounds(1, 100)\n", "# %%\nbounds = Bounds(1, 200)\n")
    assert [shown for source, shown in shows().items() if "Bounds(1, 200)" in source] == [True]


# --- recipes ---

IMPORTS = [
    ("from playbook.pantry.app import make_app", "an export imports playbook.pantry.app.make_app"),
    ("from playbook.exercises.api.clamp import check", "an export imports playbook.exercises.api.clamp.check"),
    ("from playbook.service import make", "an export imports playbook.service.make"),
    ("from playbook import index", "an export imports playbook.index"),
    ("import playbook.foundations.first", "an export imports playbook.foundations.first as a whole"),
    ("from playbook.foundations import first", "an export imports playbook.foundations.first as a whole"),
    ("from playbook.foundations.first import LAST", "imports playbook.foundations.first.LAST, which is no export"),
    ("from playbook.kit.lesson import show", "an export imports playbook.kit.lesson"),
    ("from playbook.foundations.first import Auth", "an export imports Auth, which carries everything"),
]
HELD = [
    ("    return request.app.state.auth", "an export uses request.app.state"),
    ("    return rows_for(1)", "an export uses rows_for, which no export cell binds"),
    ("    return refused", "an export uses refused, which no export cell binds"),
]


@pytest.fixture
def with_earlier(root: Path) -> Path:
    """The course with a page before the one that is tried; it exports `first` and `Auth`."""
    first = small_course.add(root, "foundations/first")
    small_course.replace(first, "def first(", "class Auth:\n    pass\n\n\ndef first(")
    return root


@pytest.mark.parametrize(("statement", "says"), IMPORTS)
def test_a_recipe_imports_only_libraries_and_symbols_of_earlier_pages(
    with_earlier: Path, statement: str, says: str
) -> None:
    export = '# %% tags=["export"]\nfrom dataclasses'
    small_course.replace(page(with_earlier), "    at_least_low = max", f"    {statement}\n\n    at_least_low = max")
    inside = check.order(Course(with_earlier)) + anatomy.recipes(Course(with_earlier))
    assert [says in line for line in inside] == [True]
    small_course.replace(page(with_earlier), f"    {statement}\n\n", "")
    small_course.replace(
        page(with_earlier), export, export.replace("from dataclasses", f"{statement}\nfrom dataclasses")
    )
    above = check.order(Course(with_earlier)) + anatomy.recipes(Course(with_earlier))
    assert [says in line for line in above] == [True]
    line = page(with_earlier).source.split("\n").index(statement) + 1
    assert above[0].startswith(f"playbook/api/clamp.py:{line}: ")


def test_an_earlier_page_s_symbol_may_be_imported(with_earlier: Path) -> None:
    wanted = "from playbook.foundations.first import first\nfrom dataclasses"
    small_course.replace(page(with_earlier), "from dataclasses", wanted)
    assert check.order(Course(with_earlier)) + anatomy.recipes(Course(with_earlier)) == []


@pytest.mark.parametrize(("line", "says"), HELD)
def test_a_recipe_takes_nothing_from_the_service_or_the_story(root: Path, line: str, says: str) -> None:
    argument = "number: int, request, " if "request" in line else "number: int, "
    small_course.replace(page(root), "def clamp(number: int, ", f"def clamp({argument}")
    small_course.replace(page(root), "    return min(bounds.high, at_least_low)", line)
    (found,) = anatomy.recipes(Course(root))
    assert says in found


# --- what is lifted ---


def test_the_synopsis_says_what_is_lifted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert anatomy.lifted(Course(root)) == [], "the page says what is computed"
    size = LiftSize(40, 2, ("fastapi", "sqlalchemy"))
    monkeypatch.setattr(anatomy, "lift_size", lambda course, playbook: size)
    (found,) = anatomy.lifted(Course(root))
    assert found.endswith("write `*Lift: 40 lines in 2 files; needs fastapi, sqlalchemy.*`")


# --- a new page ---


def test_a_new_page_has_all_parts_and_is_found_unfinished_in_page_and_exercise(root: Path) -> None:
    made = Course(scaffold.create(Course(root), "api/fourth").root).get("fourth")
    rules = (anatomy.order_of_sections, anatomy.roles, anatomy.folded_by_hand, anatomy.synopsis, anatomy.introduced)
    assert [line for rule in rules for line in rule(made)] == []
    assert [line for line in anatomy.parts(made) if "See it break" not in line] == []
    assert len(check.to_do(made)) > 30
    found = anatomy.exercise(made)
    assert found
    assert all(line.startswith("playbook/exercises/api/fourth.py:") and "unfinished" in line for line in found)
    assert anatomy.strays(Course(root)) == []
    with pytest.raises(InputError, match="unfinished"):
        answers.load(made)


# --- strays ---


def test_a_module_without_a_page_and_a_folder_without_a_package_are_found(root: Path) -> None:
    folder = root / "playbook" / "exercises"
    assert anatomy.strays(Course(root)) == []
    (folder / "api" / "gone.py").write_text("", encoding="utf-8")
    (folder / "api" / "__init__.py").unlink()
    found = anatomy.strays(Course(root))
    assert [line.partition(";")[0] for line in found] == [
        "playbook/exercises/api/gone.py:1: belongs to no page of course.toml",
        "playbook/exercises/api/__init__.py:1: does not exist",
    ]
