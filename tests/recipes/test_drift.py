"""What the recipe promises, on SQLite: each kind of difference is found, and the start refuses. Needs alembic."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from playbook.migrations.drift import NewerSchema, WrongSchema, check_revision, drift
from playbook.migrations.first_migration import alembic_config

ENV = """from alembic import context

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = "revision, down_revision = {!r}, {!r}\n\n\ndef upgrade():\n    pass\n\n\ndef downgrade():\n    pass\n"


def orders(*more: Any, kind: Any = sa.String, key: str = "id", **options: Any) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "orders", metadata, sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("total", kind, primary_key=key == "both", **options), *more,
    )  # fmt: skip
    return metadata


def shop(metadata: sa.MetaData) -> sa.Engine:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    metadata.create_all(engine)
    return engine


@pytest.fixture
def history(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV, encoding="utf-8")
    for name, below in (("0001", None), ("0002", "0001")):
        (tmp_path / "versions" / f"{name}.py").write_text(REVISION.format(name, below), encoding="utf-8")
    return tmp_path


CHANGES = {
    "a column": orders(sa.Column("note", sa.String)),
    "an index": orders(sa.Index("by_total", "total")),
    "a unique index": orders(sa.Index("by_total", "total", unique=True)),
    "NOT NULL": orders(nullable=False),
    "a type": orders(kind=sa.Integer),
    "a default": orders(server_default="x"),
    "a foreign key": orders(sa.ForeignKeyConstraint(["total"], ["orders.id"], "fk_total")),
    "a CHECK": orders(sa.CheckConstraint("id > 0", "positive")),
    "the primary key": orders(key="both", nullable=True),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_difference_is_found_from_both_sides(what: str) -> None:
    assert drift(shop(orders()), orders()) == []
    assert drift(shop(CHANGES[what]), CHANGES[what]) == []
    assert drift(shop(orders()), CHANGES[what]) != [], "the database lacks it"
    assert drift(shop(CHANGES[what]), orders()) != [], "the models lack it"


def test_a_table_too_many_and_one_too_few() -> None:
    assert drift(shop(orders()), sa.MetaData()) == ["op.drop_table('orders')"]
    [line] = drift(shop(sa.MetaData()), orders())
    assert line.startswith("op.create_table('orders', ")
    assert "\n" not in line


def test_what_is_not_ours_can_be_left_out() -> None:
    def ours(item: Any, name: str | None, kind: str, *_: Any) -> bool:
        return name != "orders"

    assert drift(shop(orders()), sa.MetaData(), include_object=ours) == []


def test_the_start_refuses_what_is_not_at_head_and_says_what_to_run(history: Path) -> None:
    engine = shop(orders())
    with pytest.raises(WrongSchema, match="is at no revision, this program needs 0002: run `alembic upgrade head`"):
        check_revision(engine, history)
    command.stamp(alembic_config(engine, history), "0001")
    with pytest.raises(WrongSchema, match="is at 0001, this program needs 0002: run `alembic upgrade head`") as behind:
        check_revision(engine, history)
    assert not isinstance(behind.value, NewerSchema)
    command.upgrade(alembic_config(engine, history), "head")
    check_revision(engine, history)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0003'"))
    with pytest.raises(NewerSchema, match=r"does not know that one: .* run `alembic downgrade 0002`") as refused:
        check_revision(engine, history)
    assert "\n" not in str(refused.value)
