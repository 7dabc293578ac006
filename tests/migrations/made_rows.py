"""Rows that nobody chose, for every table of a database: what `check_step` is given for Pantry's history.

Hypothesis makes them from each column's type, the simplest first and then whatever it finds odd. From a CHECK
constraint comes what is easy to take: the texts that it names, small letters, positive numbers. Whether a row is
allowed, the database knows best: what it refuses is left out. With a seed the rows are the same in every run.
"""

import datetime as dt
import re
import uuid
from collections.abc import Mapping
from typing import Any

import hypothesis
import sqlalchemy as sa
from hypothesis import strategies as st
from leftovers import schema

TEXT = st.characters(codec="utf-8", exclude_characters="\0")  # PostgreSQL stores no NUL
Given = Mapping[str, st.SearchStrategy[Any]]  # strategies of your own, by `table.column`
BY_TYPE: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    bytes: st.binary(max_size=12),
    dt.date: st.dates(dt.date(1900, 1, 1)),
    dt.time: st.times(),
    dt.timedelta: st.timedeltas(dt.timedelta(0), dt.timedelta(1000)),
    float: st.floats(allow_nan=False, allow_infinity=False, width=32),
    uuid.UUID: st.uuids(),
}


def of_type(kind: sa.types.TypeEngine[Any]) -> st.SearchStrategy[Any]:
    """Values of a column's type. Raises NotImplementedError or KeyError for one that nobody has taught it."""
    if isinstance(kind, sa.Enum):
        return st.sampled_from(kind.enums)
    if isinstance(kind, sa.ARRAY):
        return st.lists(of_type(kind.item_type), max_size=3)
    if isinstance(kind, sa.JSON):
        return st.dictionaries(st.text("abc", max_size=3), st.integers(0, 9), max_size=3)
    if isinstance(kind, sa.String):
        return st.text(TEXT, max_size=min(kind.length or 8, 8))
    if isinstance(kind, sa.Integer):
        bits = 16 if isinstance(kind, sa.SmallInteger) else 64 if isinstance(kind, sa.BigInteger) else 32
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if isinstance(kind, sa.DateTime):
        zones = st.just(dt.UTC) if kind.timezone else st.none()
        return st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1), timezones=zones)
    if isinstance(kind, sa.Numeric) and kind.asdecimal:
        places = kind.scale or 0
        largest = 10 ** ((kind.precision or 18) - places) - 1
        return st.decimals(-largest, largest, places=places)
    return BY_TYPE[kind.python_type]


def values(column: sa.Column[Any]) -> st.SearchStrategy[Any]:
    """Values for a column. For a reference a number: which of the parents it will be."""
    if column.foreign_keys:
        return st.none() | st.integers(0, 10**6) if column.nullable else st.integers(0, 10**6)
    found, keys = of_type(column.type), list[Any]([column.table.primary_key])
    keys += (index for index in column.table.indexes if index.unique)
    rules = [str(c.sqltext) for c in column.table.constraints if isinstance(c, sa.CheckConstraint)]
    rules = [rule for rule in rules if re.search(rf"\b{re.escape(column.name)}\b", rule)]
    if isinstance(column.type, sa.String):
        if any(column.name in key.columns for key in keys):
            found = found.filter(bool)  # the empty text would fit once
        if any("lower(" in rule for rule in rules):
            found = found.map(str.lower)
        if named := [text.replace("''", "'") for rule in rules for text in re.findall(r"'((?:[^']|'')*)'", rule)]:
            listed = any(re.search(r" IN \(|= ANY \(", rule) for rule in rules)  # as DuckDB and PostgreSQL write it
            found = st.sampled_from(named) if listed else st.sampled_from(named) | found
    elif any(re.search(">=? 0", rule) for rule in rules):
        found = found.filter(lambda value: value > 0)
    return st.none() | found if column.nullable else found


def row_of(there: sa.Table, given: Given) -> st.SearchStrategy[dict[str, Any]]:
    """Rows of a table, without what the database computes."""
    written = [c for c in there.c if c.computed is None and not (c.identity and c.identity.always)]
    return st.fixed_dictionaries(
        {c.name: given[own] if (own := f"{there.name}.{c.name}") in given else values(c) for c in written}
    )


def reflected(engine: sa.Engine, models: sa.MetaData) -> sa.MetaData:
    """The tables as they are, without Alembic's, and with the references of `models` between columns that are there."""
    found = sa.MetaData()
    found.reflect(engine, only=lambda name, _: name != "alembic_version")
    unaware = [known for known in found.tables.values() if not known.foreign_keys and known.name in models.tables]
    for child in unaware:
        for key in models.tables[child.name].foreign_key_constraints:
            parent, names = found.tables.get(key.referred_table.name), [e.column.name for e in key.elements]
            if parent is not None and {*names} <= {*parent.c.keys()} and {*key.column_keys} <= {*child.c.keys()}:
                child.append_constraint(sa.ForeignKeyConstraint(key.column_keys, [parent.c[name] for name in names]))
    return found


MADE = 8  # rows for each table


def sample(strategy: st.SearchStrategy[Any], count: int, seed: int) -> list[Any]:
    """`count` values that `strategy` makes, the same for the same seed."""
    found: list[Any] = []
    once: dict[str, Any] = {"phases": [hypothesis.Phase.generate], "database": None, "deadline": None}

    @hypothesis.settings(max_examples=count, suppress_health_check=list(hypothesis.HealthCheck), **once)
    @hypothesis.seed(seed)
    @hypothesis.given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def taken(engine: sa.Engine, there: sa.Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Insert `rows` at once, or, where one of them is refused, one by one. Those that were taken."""
    try:
        with engine.begin() as connection:
            connection.execute(there.insert().values(rows))
        return rows
    except sa.exc.IntegrityError:
        return [one for row in rows for one in taken(engine, there, [row])] if len(rows) > 1 else []


def put(engine: sa.Engine, there: sa.Table, rows: list[dict[str, Any]]) -> int:
    """How many of `rows` were taken."""
    return len(taken(engine, there, rows))


SEEN: dict[Any, sa.MetaData] = {}
KNOWN: dict[str, list[dict[str, Any]]] = {}  # making rows is most of the work, and most tables come again


def key_of(there: sa.Table, seed: int) -> str:
    """The same for the same columns, rules, keys and seed."""
    rules = sorted(str(rule.sqltext) for rule in there.constraints if isinstance(rule, sa.CheckConstraint))
    keys = sorted(str(sorted(index.columns.keys())) for index in there.indexes if index.unique)
    return repr((there, sorted(there.primary_key.columns.keys()), rules, keys, seed))


def rows_of(there: sa.Table, seed: int, given: Given) -> list[dict[str, Any]]:
    """The rows for a table: made once, or anew for strategies that are `given`."""
    if given:
        return sample(row_of(there, given), MADE, seed)
    key = key_of(there, seed)
    if key not in KNOWN:
        KNOWN[key] = sample(row_of(there, given), MADE, seed)
    return [dict(row) for row in KNOWN[key]]


def fill(engine: sa.Engine, models: sa.MetaData, seed: int, given: Given) -> list[str]:
    """Put made rows into every table, parents first. Returns the tables that took none."""
    empty, look = [], (engine.dialect.name, id(models), frozenset(schema(engine)))
    if look not in SEEN:  # reflecting takes long on DuckDB, and the end of a step is where the next one begins
        SEEN[look] = reflected(engine, models)
    for there in SEEN[look].sorted_tables:
        rows = rows_of(there, seed, given)
        numbers = [dict(row) for row in rows]  # a column may be part of two references, the wider one wins
        for key in sorted(there.foreign_key_constraints, key=lambda key: (len(key.column_keys), key.column_keys)):
            columns = [element.column for element in key.elements]
            with engine.connect() as connection:
                parents = connection.execute(sa.select(*columns).order_by(*columns)).all()
            for row, made in zip(rows, numbers, strict=True):
                number = made[key.column_keys[0]]
                chosen = parents[number % len(parents)] if parents and number is not None else [None] * len(columns)
                row |= dict(zip(key.column_keys, chosen, strict=True))
        good = taken(engine, there, rows)
        if len(good) < len(rows) and good and not given:  # the next time without those that are refused
            KNOWN[key_of(there, seed)] = [made for made, row in zip(numbers, rows, strict=True) if row in good]
        empty += [there.name] * (not good)
    return empty
