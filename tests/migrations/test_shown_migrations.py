"""The code that three pages show under *Take it with you*, run as printed, in a shop."""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from playbook.kit.course import Course
from playbook.migrations import drift as drifted
from playbook.migrations import first_migration, test_migrations
from playbook.migrations.first_migration import current, downgrade, generate, upgrade


def shown(name: str, number: int) -> list[str]:
    """The blocks of code, which are `number`."""
    prose = Course().get(name).source.split("## Take it with you")[1]
    blocks = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    assert len(blocks) == number
    return blocks


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.MetaData]:
    """A project in the current folder: the package `shop` with the lifted recipe, and what `alembic init` makes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("shop").mkdir()
    Path("shop/__init__.py").write_text("", encoding="utf-8")
    recipe = f"from {first_migration.__name__} import *\n"
    Path("shop/first_migration.py").write_text(recipe, encoding="utf-8")
    command.init(Config("alembic.ini", stdout=open("init.txt", "w", encoding="utf-8")), "migrations")  # noqa: SIM115
    metadata = sa.MetaData()
    key = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    sa.Table("customers", metadata, key, sa.Column("email", sa.String, nullable=False, unique=True))
    key = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    customer = sa.Column("customer_id", sa.ForeignKey("customers.id"))
    sa.Table("orders", metadata, key, customer, sa.Column("note", sa.String))
    yield metadata
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def lay_open(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """The module `shop.database`, as if the project had it, and the environment that the first page shows."""
    database: Any = type(sys)("shop.database")
    database.engine, database.metadata = engine, metadata
    sys.modules["shop.database"] = database
    Path("migrations/env.py").write_text(shown("first_migration", 2)[0], encoding="utf-8")


def revise(draft: Path, up: str, down: str = "pass") -> None:
    head = draft.read_text(encoding="utf-8").partition("def upgrade")[0]
    draft.write_text(f"{head}def upgrade():\n    {up}\n\n\ndef downgrade():\n    {down}\n", encoding="utf-8")


@pytest.fixture
def sqlite() -> sa.Engine:
    return sa.create_engine("sqlite://", poolclass=sa.StaticPool)


# ---------------------------------------------------------------- first migration


def test_an_env_py_serves_the_command_line_and_the_program(shop: sa.MetaData, sqlite: sa.Engine) -> None:
    lay_open(sqlite, shop)
    config = Config("alembic.ini")  # as the command line has it
    command.revision(config, "Baseline", autogenerate=True, rev_id="0001_baseline")
    command.upgrade(config, "head")
    assert current(sqlite) == ("0001_baseline",)
    command.check(config)
    assert generate(sqlite, "Next", shop).stem == "0002_next"
    upgrade(sqlite)
    assert current(sqlite) == ("0002_next",)


def test_the_limits_hold_for_each_revision_and_do_not_go_back_to_the_pool(shop: sa.MetaData, postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    lay_open(engine, shop)
    environment, limited = shown("first_migration", 2)
    imports = environment.partition("\n\n")[0]
    more = "from contextlib import contextmanager\n\nimport sqlalchemy as sa\n"
    Path("migrations/env.py").write_text(f"{more}{imports}\n\n{limited}", encoding="utf-8")
    wanted = {"lock_timeout": "4s", "statement_timeout": "5s"}
    look = "assert {n: op.get_bind().scalar(sa.text('SHOW ' + n)) for n in ('lock_timeout', 'statement_timeout')} == "
    revise(generate(engine, "one"), f"{look}{wanted}")
    lifted = "op.execute('SET LOCAL statement_timeout = 0')"
    revise(generate(engine, "backfill"), f"{lifted}; {look}{wanted | {'statement_timeout': '0'}}")
    revise(generate(engine, "three"), f"{look}{wanted}")
    upgrade(engine)
    assert current(engine) == ("0003_three",)
    with engine.connect() as connection:
        assert [connection.scalar(sa.text(f"SHOW {name}")) for name in wanted] == ["0", "0"]
    engine.dispose()


# ---------------------------------------------------------------- drift


def test_a_start_and_a_test_of_drift(shop: sa.MetaData, sqlite: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    lay_open(sqlite, shop)
    generate(sqlite, "baseline", shop)
    names: dict[str, Any] = {"__name__": "shop", "create_app": lambda engine: "an application", "metadata": shop}
    names |= {"logging": logging, "upgrade": upgrade, **vars(drifted)}
    exec(shown("drift", 1)[0], names)
    with pytest.raises(drifted.WrongSchema, match="alembic upgrade head"):
        names["start"](sqlite)
    names["test_migrations_and_models_agree"](sqlite)
    assert (names["start"](sqlite), caplog.messages) == ("an application", [])
    with sqlite.begin() as connection:
        connection.execute(sa.text("ALTER TABLE orders ADD COLUMN planted VARCHAR"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0002_next'"))
    assert names["start"](sqlite) == "an application"
    [warning] = caplog.messages
    assert "0002_next" in warning
    with sqlite.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001_baseline'"))
    with pytest.raises(AssertionError):
        names["test_migrations_and_models_agree"](sqlite)


# ---------------------------------------------------------------- test migrations


@contextmanager
def empty(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, **({"poolclass": sa.StaticPool} if "sqlite" in url else {}))
    with engine.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            connection.execute(sa.text(f"DROP TABLE {table}" + (" CASCADE" if "postgresql" in url else "")))
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> str:
    return "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


ADD, DROP = "op.add_column('orders', sa.Column('paid', sa.Boolean()))", "op.drop_column('orders', 'paid')"


def test_each_step_is_a_test_and_a_loss_turns_it_red(shop: sa.MetaData, address: str) -> None:
    with empty(address) as engine:
        lay_open(engine, shop)
        generate(engine, "baseline", shop)
        upgrade(engine)
        revise(generate(engine, "paid"), ADD, DROP)
        upgrade(engine)
        revise(generate(engine, "shout"), "op.execute('UPDATE customers SET email = upper(email)')")
        upgrade(engine)
        revise(generate(engine, "new table"), "op.create_table('parcels', sa.Column('id', sa.Integer()))")
        downgrade(engine, "0002_paid")
    baseline = Path("migrations/versions/0001_baseline.py")
    losses = "loses = {'customers': 'it begins here', 'orders': 'it begins here'}\n"
    baseline.write_text(baseline.read_text(encoding="utf-8") + losses, encoding="utf-8")

    names: dict[str, Any] = {"__name__": "shop", "sa": sa, "pytest": pytest, **vars(test_migrations)}
    exec(shown("test_migrations", 1)[0], names)
    test: Callable[..., None] = names["test_a_revision_keeps_what_it_does_not_declare"]
    [mark] = test.pytestmark  # type: ignore[attr-defined]
    steps = mark.args[1]
    assert [mark.kwargs["ids"](step) for step in steps] == [
        "0001_baseline",
        "0002_paid",
        "0003_shout",
        "0004_new_table",
    ]
    for step in steps[:2]:
        with empty(address) as engine:
            test(engine, step)
    for step in steps[2:]:
        with empty(address) as engine, pytest.raises(AssertionError):
            test(engine, step)
    found = []
    for step in steps[2:]:
        with empty(address) as engine:
            found += test_migrations.check_step(engine, step, names["fill"])
    assert "0003_shout: changes or loses customers.email" in found
    assert "0004_new_table: no row for parcels" in found
