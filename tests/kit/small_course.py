"""A whole small course in a temporary folder: pages of the old form, made by the template of that time and filled."""

import re
from pathlib import Path

from playbook.kit import maps, scaffold
from playbook.kit.course import Course, Playbook

TOML = """\
# The order of a small course.
old_form = []

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

OLD_TEMPLATE = Path(__file__).with_name("old_template.py.txt")
CASES = "\n".join(f"    ({n}, {max(0, min(9, n))})," for n in range(-5, 16))
FILLED = [  # (what the template says, what an author writes), in the order of the template
    (r"TODO The promise: .*", "Keep a number between its bounds, whatever comes in."),
    (r"TODO the situation .* \|", "a number comes from outside |"),
    (r"TODO minutes, .* \|", "12 minutes |"),
    (r"TODO, the words, .* \|", "{topics} |"),
    (r"TODO RFC, .* \|", "none |"),
    (r"TODO Two to four .*", "Where is the bound kept?"),
    (r"\| TODO what most .* \|", "| in every caller | nothing to write | one caller forgets |"),
    (r"\| \*\*TODO what we .* \|", "| **in one function** | cannot be forgotten | a call |"),
    (
        r"TODO Why this one, .*",
        "One function, because a rule belongs in one place. In the database when others write there.",
    ),
    (
        r"TODO The tempting version, in one sentence\. .*",
        "Take what comes. Before you run the cell: what will it print?",
    ),
    (r'raise NotImplementedError\("TODO run .*', 'print(f"page {{10 ** 9}} of 9")'),
    (r"TODO What happened, .*", "A page that does not exist."),
    (r"TODO Why the first .*", "The bound goes where the number comes in."),
    (r"def {name}\(\) -> None:", "def {name}(number: int, low: int = 0, high: int = 9) -> int:"),
    (r'"""TODO Definitions .*', '"""`number`, or the nearer bound."""\n    return max(low, min(high, number))'),
    (r"TODO The same situation again, .*", "The same number again."),
    (r"{name}\(\)  # TODO .*", "print({name}(10**9))"),
    (r"TODO What changes .*", "Nothing changes: no database is asked."),
    (r"from playbook\.kit\.lesson import on_postgres\n(?s:.*)on_postgres\(there\)", 'print("no database")'),
    (r"TODO The property .*", "The result is always between the bounds."),
    (
        r'assert False, "TODO .*',
        f"CASES = [\n{CASES}\n]\nfor number, expected in CASES:\n    assert {{name}}(number) == expected",
    ),
    (r"TODO one line that .*\"", 'always between the bounds"'),
    (r"TODO The task: .*", "Write `answer`: a number that is its own bound."),
    (r"  # TODO name it, .*", ""),
    (r"  # TODO try what .*", ""),
    (r"TODO say in words .*\"", 'another number"'),
    (r"  # TODO$", ""),
    (r"TODO what to look for .*", "one place that knows the bounds."),
    (r"TODO the property .*", "every result is between the bounds."),
    (r"TODO or the front .*", "no number from outside is used as it is."),
    (r"TODO Standards .*", "None."),
]


def fill(text: str, name: str, topics: str = "bounds, clamp") -> str:
    """The template's text as an author leaves it. Fails when the template has a hint that this does not know."""
    for hint, written in FILLED:
        filled = written.format(name=name, topics=topics).replace("\\", r"\\")
        text, count = re.subn(hint.replace("{name}", name), filled, text, flags=re.M)
        assert count, f"the template has no {hint!r}"
    return text


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
    """A new, filled playbook of the old form, and the generated parts of all."""
    keep_old(root, key)
    course, (track, _, name) = Course(root), key.partition("/")
    before = [p for t in course.tracks[: [t.name for t in course.tracks].index(track) + 1] for p in t.playbooks]
    need = f"[{before[-1].title}]({scaffold._relative(before[-1], track)})" if before else "nothing"
    text = OLD_TEMPLATE.read_text()
    for hint, value in {"title": name.replace("_", " ").capitalize(), "name": name, "need": need}.items():
        text = text.replace("{" + hint + "}", value)
    made = Playbook(track, name, root)
    made.text.parent.mkdir(exist_ok=True)
    made.text.with_name("__init__.py").write_text('"""A track."""\n')
    made.text.write_text(fill(text, name, topics))
    toml = root / "playbook" / "course.toml"
    toml.write_text(scaffold.add_to_toml(toml.read_text(), track, name))
    maps.update(Course(root))
    return Course(root).get(key)


def keep_old(root: Path, key: str) -> None:
    """List a page as one of the old form."""
    toml = root / "playbook" / "course.toml"
    text = toml.read_text()
    assert "\nold_form = [" in text
    toml.write_text(text.replace("\nold_form = [", f'\nold_form = ["{key}", '))


def replace(playbook: Playbook, old: str, new: str, count: int = 1) -> None:
    """Edit a page's text; `old` must be there."""
    text = playbook.text.read_text()
    assert old in text, f"{old!r} is not in the page"
    playbook.text.write_text(text.replace(old, new, count))
