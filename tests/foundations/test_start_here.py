"""The first page names only what exists: helpers, commands, and the words that its table explains."""

import re

import pytest
from typer.main import get_command

from playbook.kit import cli, lesson, stage
from playbook.kit.course import Course

TEXT = Course().get("start_here").prose
EXPLAINED = {
    "lesson_url", "on_postgres", "serving", "show_http", "show", "table", "together", "Timeline", "checker",
}  # fmt: skip


def missing(text: str) -> list[str]:
    """What the table of helpers and the commands in `text` name and the kit does not have."""
    helpers = {**vars(lesson), **vars(stage)}
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    named = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    called = re.findall(r"`playbook\s(\w+)", text)
    return [name for name in named if not callable(helpers.get(name))] + [c for c in called if c not in commands]


def test_what_the_page_names_exists() -> None:
    assert missing(TEXT) == []


def test_the_table_explains_what_pages_use() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == EXPLAINED


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("| `together` |", "| `all_together` |", "all_together"),
        ("`playbook run", "`playbook start", "start"),
        ("`playbook lift", "`playbook\nlend", "lend"),
    ],
)
def test_a_name_that_does_not_exist_is_found(old: str, new: str, name: str) -> None:
    assert old in TEXT
    assert missing(TEXT.replace(old, new)) == [name]
