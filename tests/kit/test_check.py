"""Every rule of `playbook check` finds what breaks it, says where and what to do, and is quiet otherwise."""

import shutil
from pathlib import Path

import nbformat
import pytest
import small_course

from playbook.kit import anatomy, check
from playbook.kit.course import Course, Playbook


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("check") / "course"
    small_course.start(root)
    small_course.add(root, "foundations/first")
    small_course.add(root, "foundations/second")
    small_course.add(root, "api/third")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "course"))


def page(root: Path, name: str = "second") -> Playbook:
    return Course(root).get(name)


def test_a_course_that_keeps_the_rules_has_no_findings(root: Path) -> None:
    assert check.findings(Course(root)) == []


def test_the_template_is_found_unfinished(root: Path) -> None:
    from playbook.kit import scaffold

    made = scaffold.create(Course(root), "api/fourth")
    left = check.to_do(made)
    assert len(left) == sum("TODO" in line for line in made.source.split("\n"))
    assert left[0].startswith("playbook/api/fourth.py:5: unfinished: TODO The promise")


# (rule, what is replaced, by what, what the finding says)
SPOILED = [
    (check.code, 'print("no database")', "%time print(1)", "a magic or shell line"),
    (check.code, 'print("no database")', "# %matplotlib inline", "a magic or shell line"),
    (check.code, 'print("no database")', "!ls", "a magic or shell line"),
    (check.code, 'print("no database")', "print(1);", "a trailing `;`"),
    (check.code, 'print("no database")', "import time\n\ntime.sleep(0.1)", "a sleep"),
    (check.code, 'print("no database")', "print(", "not Python"),
    (check.exports, "def second(", 'print("hello")\n\n\ndef second(', "`print('hello')` runs at import"),
    (check.exports, "def second(", "LIMIT = open('limit').read()\n\n\ndef second(", "`open` is called at import"),
    (
        check.exports,
        "def second(",
        "engine = sa.create_engine('x')\n\n\ndef second(",
        "`create_engine` is called at import",
    ),
    (check.exports, "def second(", "class C:\n    x = print(1)\n\n\ndef second(", "`print` is called at import"),
    (check.exports, "low: int = 0", "low: int = input()", "`input` is called at import"),
    (check.exports, "def second(", "for x in ():\n    pass\n\n\ndef second(", "runs at import"),
    (check.updates, "def second(", 'SQL = "UPDATE t SET a = 1"\n\n\ndef second(', "an UPDATE without RETURNING"),
    (
        check.updates,
        "def second(",
        'T = "t"\nSQL = f"UPDATE {T} SET a = 1"\n\n\ndef second(',
        "an UPDATE without RETURNING",
    ),
    (
        check.updates,
        "def second(",
        'SQL = """\n  insert into t values (1)\n  on conflict (a) do update set a = 2"""\n\n\ndef second(',
        "an UPDATE without RETURNING",
    ),
    (check.machine_paths, 'print("no database")', 'print("/home/me/data.csv")', "a path of one machine, '/home/m'"),
    (check.machine_paths, 'print("no database")', 'print("/usr/x")', "a path of one machine"),
    (check.machine_paths, 'print("no database")', "print('C:\\\\data')", "a path of one machine"),
]


@pytest.mark.parametrize(("rule", "old", "new", "says"), SPOILED, ids=[says for *_, says in SPOILED])
def test_a_page_that_breaks_a_rule_is_found(root: Path, rule, old: str, new: str, says: str) -> None:
    assert rule(page(root)) == []
    small_course.replace(page(root), old, new)
    found = rule(page(root))
    assert any(says in line for line in found), found
    assert all(line.startswith("playbook/foundations/second.py:") and "; " in line for line in found)


def test_a_finding_names_the_line(root: Path) -> None:
    small_course.replace(page(root), 'print("no database")', "import time\n\ntime.sleep(0.1)")
    lines = page(root).source.split("\n")
    (found,) = check.code(page(root))
    assert found == f"playbook/foundations/second.py:{lines.index('time.sleep(0.1)') + 1}: a sleep; " + (
        "wait for an event or a barrier"
    )


ALLOWED = [
    (check.exports, "def second(", "import time\nfrom re import compile\n\nWORD = compile('x')\n\n\ndef second("),
    (check.exports, "def second(", "def other():\n    print(open('x').read())\n\n\ndef second("),
    (check.exports, "def second(", "WAIT = lambda: print(1)\n\n\ndef second("),
    (check.code, "    return max(", "    time.sleep(0)\n    return max("),
    (check.updates, "def second(", 'SQL = "UPDATE t SET a = 1 RETURNING 1"\n\n\ndef second('),
    (check.updates, "def second(", 'SQL = f"UPDATE {2} SET a = 1 RETURNING 1"\n\n\ndef second('),
    (check.updates, "def second(", 'def other():\n    """Update what is set."""\n\n\ndef second('),
    (check.updates, 'print("no database")', 'print("UPDATE t SET a = 1")'),
    (check.code, 'print("no database")', 'print("a;")  # 100 % of it'),
    (check.code, 'print("no database")', "# 5 % is left\nprint(7 % 2)"),
    (
        check.machine_paths,
        'print("no database")',
        'print("/packages/httpx", "https://example.org/usr/x", "/etc/passwd")',
    ),
]


@pytest.mark.parametrize(("rule", "old", "new"), ALLOWED)
def test_what_only_looks_like_it_is_left_alone(root: Path, rule, old: str, new: str) -> None:
    small_course.replace(page(root), old, new)
    assert rule(page(root)) == []


@pytest.mark.parametrize("rule", check.PAGE_RULES, ids=lambda rule: rule.__name__)
def test_each_rule_is_tried(rule) -> None:
    # `test_lesson_rules.py`; and below and above
    elsewhere = {*anatomy.PAGE_RULES, check.opening, check.to_do, check.stored_hints}
    assert rule in elsewhere or any(tried is rule for tried, *_ in SPOILED)


OPENING = [
    ("# A small course\n", "A small course\n", "the first cell has no title"),
    ("See what a course looks like.", "", "no promise of one sentence"),
    ("looks like.", "looks like", "no promise of one sentence"),
    ("looks like.", "looks like. It is easy.", "no promise of one sentence"),
    ("looks like.", "looks like" + ", and so on" * 20 + ".", "more than 200 letters"),
]


@pytest.mark.parametrize(("old", "new", "says"), OPENING)
def test_the_landing_page_needs_a_title_and_a_promise_and_no_anatomy(root: Path, old: str, new: str, says: str) -> None:
    index = Course(root).index
    assert [rule(index) for rule in check.PAGE_RULES] == [[]] * len(check.PAGE_RULES)
    small_course.replace(index, old, new)
    (found,) = check.opening(Course(root).index)
    assert says in found
    assert found.startswith("playbook/index.py:")
    assert "; " in found


def test_an_output_with_a_path_of_this_machine_is_found(root: Path) -> None:
    from playbook.kit import pairing

    second = page(root)
    notebook = pairing.from_text(second)
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.source = "def f(x: T) -> T:\n    return x"  # what JSON writes as `T:\\n` is no drive
    pairing.write_whole(second.notebook, pairing.dumps(notebook))
    assert check.machine_paths(second) == []
    for output in (
        nbformat.v4.new_output("stream", text="made /home/me/x.duckdb\n"),
        nbformat.v4.new_output("execute_result", {"text/plain": "'/home/me/x.duckdb'"}, execution_count=1),
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=["File /home/me/x.py"]),
    ):
        code.outputs = [output]
        pairing.write_whole(second.notebook, pairing.dumps(notebook))
        (found,) = check.machine_paths(second)
        assert found.startswith("notebooks/foundations/second.ipynb: cell see-it-break-1: an output shows a path")


def test_a_stored_hint_that_is_not_the_modules_is_found(root: Path) -> None:
    from playbook.kit import answers, pairing

    second = page(root)
    notebook = pairing.from_text(second)
    cells = [cell for cell in notebook.cells if "hint" in cell.metadata.get("tags", ())]
    for number, cell in enumerate(cells):
        cell.outputs = [nbformat.v4.new_output("stream", text=answers.hints(second)[number] + "\n")]
    pairing.write_whole(second.notebook, pairing.dumps(notebook))
    assert check.stored_hints(second) == []
    cells[1].outputs[0].text = "What it said yesterday.\n"
    pairing.write_whole(second.notebook, pairing.dumps(notebook))
    (found,) = check.stored_hints(second)
    assert found.endswith("shows a hint of before; run `playbook refresh second`")


ORDER = [
    ("from playbook.api.third import third", "imports api/third, which comes later"),
    ("from playbook.api import third", "imports api/third, which comes later"),
    ("import playbook.api.third", "imports api/third, which comes later"),
    ("def f():\n    from playbook.api.third import third", "imports api/third, which comes later"),
    ("import playbook.foundations.second", "imports itself"),
    ("from . import first", "the relative import '.'"),
]


@pytest.mark.parametrize(("statement", "says"), ORDER)
def test_a_page_imports_only_what_comes_before(root: Path, statement: str, says: str) -> None:
    small_course.replace(page(root), 'print("no database")', statement)
    (found,) = check.order(Course(root))
    assert says in found
    assert found.startswith("playbook/foundations/second.py:")


def test_earlier_pages_and_the_kit_may_be_imported_but_not_the_kit_by_an_export(root: Path) -> None:
    small_course.replace(page(root), 'print("no database")', "from playbook.foundations.first import first")
    small_course.replace(page(root), "print(second(10**9))", "from playbook.kit.lesson import show")
    assert check.order(Course(root)) == []
    small_course.replace(page(root), "def second(", "from playbook.kit.lesson import show\n\n\ndef second(")
    (found,) = check.order(Course(root))
    assert "an export imports playbook.kit.lesson" in found


def test_what_a_page_needs_comes_before_it_and_links_lead_somewhere(root: Path) -> None:
    small_course.replace(page(root), "(first.ipynb)", "(../api/third.ipynb)")
    assert "does not come before" in check.order(Course(root))[0]
    small_course.replace(page(root), "[First](../api/third.ipynb)", "the page before")
    assert "You need has no link" in check.order(Course(root))[0]
    small_course.replace(page(root), "the page before", "nothing")
    assert check.order(Course(root)) == []
    small_course.replace(page(root), "The same number again.", "The same, see [it](gone.ipynb).")
    assert "a link to gone.ipynb, which does not exist" in check.order(Course(root))[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("queue", "is a module of the standard library"),
        ("httpx", "is an installed library"),
        ("bigThing", "not snake_case"),
    ],
)
def test_names_that_hide_a_module_or_cannot_be_looked_up_are_found(root: Path, name: str, says: str) -> None:
    toml = root / "playbook" / "course.toml"
    toml.write_text(toml.read_text().replace('"second"', f'"{name}"'))
    page(root, "first").text.with_name("second.py").rename(root / "playbook" / "foundations" / f"{name}.py")
    (found,) = check.names(Course(root))
    assert says in found


def test_two_pages_of_one_name_and_a_page_outside_the_course_are_found(root: Path) -> None:
    toml = root / "playbook" / "course.toml"
    toml.write_text(toml.read_text().replace('"third"', '"first"'))
    found = check.names(Course(root))
    assert sum("2 playbooks are called so" in line for line in found) == 2
    assert "playbook/api/third.py:1: is not in course.toml; add it to its track" in found


@pytest.mark.parametrize(
    ("core", "says"),
    [
        ('["never"]', "core names never, which is no page"),
        ('["third", "first"]', "the core path is not in course order"),
    ],
)
def test_a_core_path_of_pages_in_their_order(root: Path, core: str, says: str) -> None:
    toml = root / "playbook" / "course.toml"
    before = toml.read_text(encoding="utf-8")
    toml.write_text('core = ["first", "third"]\n' + before, encoding="utf-8")
    assert check.names(Course(root)) == []
    toml.write_text(f"core = {core}\n" + before, encoding="utf-8")
    assert any(says in line for line in check.names(Course(root)))


def test_a_generated_part_that_is_out_of_date_is_among_the_findings(root: Path) -> None:
    small_course.replace(page(root), "Next: [Third]", "Next: [Fourth]")
    assert any("previous/next links" in line for line in check.findings(Course(root)))
