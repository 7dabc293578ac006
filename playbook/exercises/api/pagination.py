"""The exercise of the page "Keyset pagination": its checker, its two hints, and answers that are wrong."""

import itertools
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import Grouping

from playbook.kit.exercises import checker

HINTS = (
    "See 'The statement': by the first column, and within ties by the next.\n"
    "Write each of these two cases as a condition.",
    "A row comes later if it has fewer downloads. It also comes later if it\n"
    "has the same downloads and a greater name. `sa.or_` and `sa.and_` combine them.\n"
    "No index can start at an OR. Which comparison of `downloads` holds in both cases?\n"
    "Put it beside the OR, with `sa.and_`.",
)

WRONG = (
    # one direction for both columns
    "def comes_after(tools, downloads, name):\n"
    "    return sa.tuple_(tools.c.downloads, tools.c.name) < (downloads, name)",
    # the right rows, and no place to start at
    "def comes_after(tools, downloads, name):\n"
    "    same = sa.and_(tools.c.downloads == downloads, tools.c.name > name)\n"
    "    return sa.or_(tools.c.downloads < downloads, same)",
    # names are compared in other ties, too
    "def comes_after(tools, downloads, name):\n    return sa.and_(tools.c.downloads <= downloads, tools.c.name > name)",
    # the row itself comes again
    "def comes_after(tools, downloads, name):\n"
    "    fewer = tools.c.downloads < downloads\n"
    "    return sa.and_(tools.c.downloads <= downloads, sa.or_(fewer, tools.c.name >= name))",
    # a negated number has the right order and no index
    "def comes_after(tools, downloads, name):\n"
    "    return sa.tuple_(-tools.c.downloads, tools.c.name) > (-downloads, name)",
    # a bound that is none
    "def comes_after(tools, downloads, name):\n"
    "    same = sa.and_(tools.c.downloads == downloads, tools.c.name > name)\n"
    "    return sa.and_(tools.c.downloads >= 0, sa.or_(tools.c.downloads < downloads, same))",
    # what was counted, and not compared
    "def comes_after(tools, downloads, name):\n    return tools.c.downloads < downloads",
)

# The first row has neighbours on every side, so it makes the clearest message.
ROWS = list(itertools.product((7, 0, 900), ("flask", "black", "ruff")))


def comes_later(row: tuple[int, str], last: tuple[int, str]) -> bool:
    """Whether `row` stands after `last` in ORDER BY downloads DESC, name ASC."""
    (downloads, name), (last_downloads, last_name) = row, last
    return (-downloads, name) > (-last_downloads, last_name)


@checker
def check(comes_after: Callable[..., Any]) -> str:
    """Ask `comes_after` about every row of a small table, compare with plain Python; then look at the condition."""
    tools = sa.Table(
        "tools",
        sa.MetaData(),
        sa.Column("downloads", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
    )
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        tools.create(connection)
        values = [{"downloads": downloads, "name": name} for downloads, name in ROWS]
        connection.execute(tools.insert(), values)
        for last in ROWS:
            condition = comes_after(tools, *last)
            if not isinstance(condition, sa.ColumnElement):
                return f"not yet: return a condition for WHERE, not {condition!r}"
            rows = connection.execute(sa.select(tools).where(condition))
            found = {(row.downloads, row.name) for row in rows}
            wanted = {row for row in ROWS if comes_later(row, last)}
            if found != wanted:
                return f"not yet: after {last}, {difference(found, wanted, last)}"
            if not any(is_bound(part, tools.c.downloads, last[0]) for part in conjuncts(condition)):
                return (
                    "not yet: these are the right rows, but an index cannot help to find them. Every later row must "
                    f"pass a comparison of `downloads` alone, outside of any OR. Yours is: {condition}"
                )
    return "right"


def conjuncts(condition: Any) -> list[Any]:
    """The parts of `condition` that every row must pass: those that AND combines at the top."""
    if isinstance(condition, sa.BooleanClauseList) and condition.operator is operators.and_:
        return [part for clause in condition.clauses for part in conjuncts(clause)]
    if isinstance(condition, Grouping):
        return conjuncts(condition.element)
    return [condition]


def is_bound(part: Any, column: sa.Column[Any], value: int) -> bool:
    """Whether `part` compares `column` itself with `value`."""
    if not isinstance(part, sa.BinaryExpression) or part.operator not in (operators.le, operators.ge):
        return False
    sides = [part.left, part.right]
    return column in sides and any(getattr(side, "value", None) == value for side in sides)


def difference(found: set[tuple[int, str]], wanted: set[tuple[int, str]], last: tuple[int, str]) -> str:
    """One row that is wrong, and why, in words."""
    for row in sorted(found - wanted):
        if row == last:
            return "the same row comes again: the client would see it twice"
        if row[0] > last[0]:
            return f"{row} comes again, but more downloads stand earlier"
        return f"{row} comes again, but within the same downloads names ascend"
    row = min(wanted - found)
    if row[0] < last[0]:
        return f"{row} is lost: fewer downloads come later, whatever the name"
    return f"{row} is lost: it has the same downloads and a later name"
