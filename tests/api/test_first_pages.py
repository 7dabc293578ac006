"""The statement of a first page is kept: whoever asks gets the one of their own question, and of nobody else's."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import Response

from playbook.api.cursors import link
from playbook.pantry.catalog import Package
from playbook.pantry.conditions import representation
from playbook.pantry.http import Caller
from playbook.pantry.lists import FIRST, LINKS, Pager, cursors_of
from playbook.pantry.packages import PACKAGE_LIST, PAGE_LIST, PackagePage, PackageQuery, package_out, page_shown
from playbook.pantry.policy import visible_to
from playbook.pantry.reads import Rows


class Asked:
    """A database that notes what it is asked, and has nothing."""

    def __init__(self) -> None:
        self.statements: list[sa.Select[Any]] = []

    def execute(self, statement: sa.Select[Any]) -> Rows:
        self.statements.append(statement)
        return Rows()


def asked(listing: Any, query: PackageQuery, visible: Any) -> sa.Select[Any]:
    db = Asked()
    Pager(cursors_of("a secret"), "/packages", Response()).page(db, listing, query, visible)
    (statement,) = db.statements
    return statement


def text(statement: sa.Select[Any]) -> str:
    return str(statement.compile(compile_kwargs={"literal_binds": True}))


QUERIES = [
    PackageQuery.model_validate({"sort": sort, "limit": limit, "organization": organization})
    for sort, limit, organization in product(["name", "-name", "updated"], [20, 21], [None, "acme", "other"])
]
BY_NAME = [query for query in QUERIES if query.sort.endswith("name")]  # the key of a row is its name
VISIBLE = [visible_to(Caller(uuid.UUID(int=number), "somebody")) for number in (1, 2)]
QUESTIONS = list(product([PACKAGE_LIST, PAGE_LIST], QUERIES, VISIBLE))


def test_each_question_has_a_statement_of_its_own() -> None:
    FIRST.clear()
    first = [asked(*question) for question in QUESTIONS]
    assert len({text(statement) for statement in first}) == len(QUESTIONS), "two questions are the same"
    again = [asked(*question) for question in QUESTIONS[::-1]][::-1]
    for before, after in zip(first, again, strict=True):
        assert after is before
    FIRST.clear()
    for question, kept in zip(QUESTIONS, again, strict=True):
        assert text(asked(*question)) == text(kept)


def test_behind_a_cursor_nothing_is_kept() -> None:
    FIRST.clear()
    cursor = cursors_of("a secret").sign(["next", ["numpy"]], PACKAGE_LIST.asked("/packages", QUERIES[0]).name)
    asked(PACKAGE_LIST, QUERIES[0].model_copy(update={"cursor": cursor}), Package.private.is_(False))
    assert not FIRST


# ---------------------------------------------------------------- what is kept of an answer is how it is written

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
ROWS = [
    ("tool", "acme", 'ü "quoted" \\ \u2028 \x1f 🙂', True, 1, "1.0", NOW, NOW + timedelta(microseconds=1)),
    ("tool", "acme", None, False, None, None, NOW, NOW),
    ("tool", "acme", "", False, 1, None, NOW, NOW),
]


@pytest.mark.parametrize("count", range(4))
def test_a_page_is_written_as_its_model_is(count: int) -> None:
    links = {"complete": count == 0, "next": None, "prev": '/packages?a="b"'}
    for _ in range(2):
        whole = PackagePage(items=[package_out(row) for row in ROWS[:count]], **links)
        assert page_shown(ROWS[:count], links) == representation(whole)


def test_each_page_has_a_link_of_its_own() -> None:
    """By its list, filter, sort, limit, last row, and by who signs."""
    LINKS.clear()
    ends = [[("a",)], [("b",)]]

    def links(way: Callable[[Pager, Any, Any, int], str]) -> list[str]:
        return [
            way(Pager(cursors_of(secret), path, Response()), rows, PACKAGE_LIST.asked(path, query), query.limit)
            for secret, path, rows, query in product(["a secret", "another"], ["/packages", "/others"], ends, BY_NAME)
        ]

    recipe = links(lambda pager, rows, asked, limit: link("next", rows, asked, limit, pager.cursors))
    for _ in range(2):
        assert links(Pager.next_link) == recipe
    assert len(set(recipe)) == len(recipe)


def test_a_first_page_whose_rows_repeat_is_refused() -> None:
    """As the recipe refuses it: a page that ends between the two would lose one."""
    pager = Pager(cursors_of("a secret"), "/packages", Response())
    with pytest.raises(ValueError, match="two rows have one key"):
        pager.first_page(PACKAGE_LIST, PackageQuery(), [(*ROWS[0], "tool"), (*ROWS[1], "tool")])
