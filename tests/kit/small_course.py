"""A whole small course in a temporary folder: its pages are what `playbook new` makes, filled."""

import re
import shutil
from pathlib import Path

from playbook.kit import answers, maps, scaffold
from playbook.kit.course import Course, Playbook
from playbook.kit.data import ROOT

TOML = """\
# The order of a small course.

[[track]]
name = "foundations"  # first
title = "the ground"
playbooks = [
    # nothing yet
]

[[track]]
name = "api"
title = "the contract"
playbooks = []
"""

INDEX = '''\
# %% [markdown]
"""
# A small course

See what a course looks like.
"""

# %% [markdown] tags=["map"]
"""
(made by maps.py)
"""
'''

README = "# Small\n\nBefore.\n\n<!-- map -->\n<!-- /map -->\n\nAfter.\n"

FILLED = [  # (what the template says, what an author writes), in the order of the template
    (r"TODO The promise: .*", "Keep a number between its bounds, whatever comes in."),
    (r"TODO the situation .* \|", "a number comes from outside |"),
    (r"read 0 min, exercise 15 min TODO .* \|", "read 6 min, exercise 10 min |"),
    (r"TODO, the words, .* \|", "{topics} |"),
    (r"\| \*\*Standard\*\* \| TODO .*\n", ""),
    (r"^{name}\(\)  # TODO how .*", "page = {name}(10**9)"),
    (r"\*Lift: 0 lines in .*", "*Lift: 3 lines in 1 file; needs nothing.*"),
    (
        r"TODO The tempting version, (?s:.*) Predict: what will the next cell print\?",
        "Take what comes. The folded cell defines `LAST`. Predict: what will the next cell print?",
    ),
    (r"# TODO servers, .*", "LAST = 9"),
    (r'raise NotImplementedError\("TODO let .*', 'print(f"page {{10 ** 9}} of {{LAST}}")'),
    (r"TODO What happened\. .*", "A page that does not exist."),
    (r"TODO Two to five .*", "Where is the bound kept?"),
    (r"\| TODO what most .* \|", "| in every caller | nothing to write | one caller forgets |"),
    (r"\| \*\*TODO what we .* \|", "| **in one function** | cannot be forgotten | a call |"),
    (r"TODO Why this one, .*", "One function, because a rule belongs in one place."),
    (r"TODO The idea first, .*", "The bound goes where the number comes in."),
    (r"def {name}\(\) -> None:", "def {name}(number: int, low: int = 0, high: int = 9) -> int:"),
    (r'"""TODO Definitions .*', '"""`number`, or the nearer bound."""\n    return max(low, min(high, number))'),
    (r"^{name}\(\)  # TODO use .*", "print([{name}(number) for number in (-5, 5, 15)])"),
    (r"TODO The same situation again, .*", "The same number again."),
    (r"^{name}\(\)  # TODO end .*", "print({name}(10**9))"),
    (r"TODO Only what changes\. .*", "Nothing changes: no database is asked."),
    (r"from playbook\.kit\.lesson import on_postgres\n(?s:.*)on_postgres\(there\)", 'print("no database")'),
    (
        r'assert {name}\(\) == 1, "TODO .*',
        "for number in range(-5, 16):\n"
        '    assert {name}(number) >= 0, "a number is below its bound"\n'
        '    assert {name}(number) <= 9, "a number is above its bound"',
    ),
    (r'assert {name}\(\) == 2, "TODO .*', 'assert {name}(5) == 5, "a number within is changed"'),
    (r'assert {name}\(\) == 3, "TODO .*', 'assert {name}(9) == 9, "the bound itself is changed"'),
    (r"TODO one line that .*\"", 'always between the bounds"'),
    (r"\| `TODO text .* \|", "| `max(low, min(high, number))` | `min(high, number)` | a number is below its bound |"),
    (r"\| `TODO` \| .* \|\n\|", "| `min(high, number)` | `number` | a number is above its bound |\n|"),
    (r"\| `TODO` \| .* \|", "| `low: int = 0` | `low: int = 6` | a number within is changed |"),
    (r"TODO The task: .*", "Write `answer`: a number that is its own bound."),
    (r"TODO Name it, .*\"\"\"", 'A number."""'),
    (r"return 42  # TODO$", "return 9"),
    (r"TODO What it asks of the\n.*", "It asks\nnothing of the reader's project."),
    (r"TODO what to look for .*", "one place that knows the bounds."),
    (r"TODO the property .*", "every result is between the bounds."),
    (r"TODO or front end, .*", "no number from outside is used as it is."),
    (r"TODO Three sentences: .*", "A number from outside is not used as it is."),
    (r"TODO Standards .*", "None."),
]
FILLED_EXERCISE = [
    (r"TODO where to look .*\"", 'See *Build it*."'),
    (r"TODO the idea, .*\"", 'A bound is not changed."'),
    (r"return 1  # TODO", "return -1"),
    (r"return 2  # TODO", "return 5"),
    (r"return 3  # TODO", "return 10"),
    (r"TODO What is asked .*\"\"\"", 'Ask for a bound."""'),
    (r"found != 42:  # TODO .*", "found not in (0, 9):"),
    (r"TODO say in words .*\"", '{{found}} is no bound"'),
]


def fill(path: Path, hints: list[tuple[str, str]], **values: str) -> None:
    """Write what `playbook new` made as an author leaves it. Fails when it has a hint that `hints` does not know."""
    text = path.read_text(encoding="utf-8")
    for hint, written in hints:
        filled = written.format(**values).replace("\\", r"\\")
        text, count = re.subn(hint.replace("{name}", values["name"]), filled, text, flags=re.M)
        assert count, f"the template has no {hint!r}"
    assert "TODO" not in text, f"nothing is written for {text[text.index('TODO') :].splitlines()[0]!r}"
    path.write_text(text, encoding="utf-8")


def start(root: Path) -> Course:
    """A course of two tracks and a landing page, without playbooks."""
    for folder in ("playbook", "notebooks", "data"):
        (root / folder).mkdir(parents=True)
    (root / "playbook" / "course.toml").write_text(TOML)
    (root / "playbook" / "index.py").write_text(INDEX)
    (root / "README.md").write_text(README)
    (root / "data" / "manifest.toml").write_text("")
    return Course(root)


def add(root: Path, key: str, topics: str = "bounds, clamp") -> Playbook:
    """A new, filled playbook with its exercise, and the generated parts of all."""
    made = scaffold.create(Course(root), key)
    made.text.write_text(made.text.read_text().replace(" TODO or what else is needed", ""))
    fill(made.text, FILLED, name=made.name, topics=topics)
    fill(answers.place(made), FILLED_EXERCISE, name=made.name)
    maps.update(Course(root))
    return Course(root).get(key)


def with_kit(root: Path) -> None:
    """Copy the kit beside the pages: with `root` on `PYTHONPATH` they import it, and their exercises, from there."""
    (root / "playbook" / "__init__.py").write_text((ROOT / "playbook" / "__init__.py").read_text(encoding="utf-8"))
    shutil.copytree(ROOT / "playbook" / "kit", root / "playbook" / "kit", ignore=shutil.ignore_patterns("__pycache__"))


def replace(playbook: Playbook, old: str, new: str, count: int = 1) -> None:
    """Edit a page's text; `old` must be there."""
    text = playbook.text.read_text()
    assert old in text, f"{old!r} is not in the page"
    playbook.text.write_text(text.replace(old, new, count))
