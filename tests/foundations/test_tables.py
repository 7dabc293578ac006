"""`make_tables` is `create_all`."""

from typing import Any

import pytest
import sqlalchemy as sa
from tables import make_tables, script

import playbook.pantry.app  # noqa: F401  # its tables
from playbook.foundations.engines import Base, make_engine


def test_what_is_made_is_what_create_all_makes(url: str) -> None:
    engine, sent = make_engine(url), list[str]()
    listen: Any = lambda connection, cursor, statement, *rest: sent.append(statement)  # noqa: E731
    sa.event.listen(engine, "before_cursor_execute", listen)
    Base.metadata.create_all(engine)
    ours = script(engine.dialect.name, tuple(Base.metadata.tables)).replace(" IF NOT EXISTS", "").split(";\n")
    created = [statement for statement in sent if statement.lstrip().startswith("CREATE")]
    assert len(created) > 20
    assert sorted(map(str.strip, ours)) == sorted(map(str.strip, created))


def test_they_are_there_and_may_be_there_already(url: str) -> None:
    engine = make_engine(url)
    for _ in range(2):
        make_tables(engine)
        assert {*sa.inspect(engine).get_table_names()} == {*Base.metadata.tables}
    engine.dispose()


def test_a_table_that_is_new_is_made(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(url)
    make_tables(engine)
    another = sa.Table("another", Base.metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    try:
        make_tables(engine)
        assert sa.inspect(engine).has_table("another")
    finally:
        Base.metadata.remove(another)
    engine.dispose()
