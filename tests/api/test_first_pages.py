"""The statement of a first page is kept: whoever asks gets the one of their own question, and of nobody else's."""

import uuid
from itertools import product
from typing import Any

import sqlalchemy as sa
from fastapi import Response

from playbook.pantry.catalog import Package
from playbook.pantry.http import Caller
from playbook.pantry.lists import FIRST, Pager, cursors_of
from playbook.pantry.packages import PACKAGE_LIST, PAGE_LIST, PackageQuery
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
