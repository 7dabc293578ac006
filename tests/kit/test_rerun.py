"""A cell that defines tables can be run again in a notebook; in a program nothing changes."""

import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from sqlalchemy import inspect

from playbook.kit import rerun

SETUP = """
import warnings
from sqlalchemy.exc import SADeprecationWarning, SAWarning
for kind in (SAWarning, SADeprecationWarning):  # not all: what another test has left open is no fault of this one
    warnings.simplefilter("error", kind)
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

class Base(DeclarativeBase):
    pass
"""

USER = """
class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
"""

USE = """
engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add(User(id=1, name="Ada"))
    session.commit()
    found = session.scalars(select(User)).one()
    fresh = type(found) is User
"""


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """An IPython of its own, as a kernel would have it, with the package's hook installed."""
    InteractiveShell.clear_instance()
    running = InteractiveShell.instance(colors="nocolor")
    running.user_module.__name__ = "__main__"
    rerun.install()
    yield running
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, *cells: str) -> dict[str, Any]:
    """Run cells; the names they left behind."""
    for cell in cells:
        result = shell.run_cell(textwrap.dedent(cell))
        result.raise_error()
    return shell.user_ns


def test_without_it_the_second_run_fails(shell: InteractiveShell) -> None:
    """What this module is for: SQLAlchemy refuses the table."""
    shell.events.callbacks["pre_run_cell"].clear()
    run(shell, SETUP, USER)
    with pytest.raises(Exception, match="already contains a class"):
        run(shell, USER)


def test_a_table_defined_again_replaces_the_first_quietly(shell: InteractiveShell) -> None:
    names = run(shell, SETUP, USER, USE)
    first = names["User"]
    names = run(shell, USER, USE)
    assert names["User"] is not first
    assert names["fresh"], "a query returned the old class"
    assert len(names["Base"].registry.mappers) == 1


def test_an_edited_class_has_its_new_columns(shell: InteractiveShell) -> None:
    names = run(shell, SETUP, USER, USE)
    names = run(shell, USER + "    mail: Mapped[str | None]\n", USE)
    assert list(names["Base"].metadata.tables["users"].columns.keys()) == ["id", "name", "mail"]


@pytest.mark.parametrize("cells", [1, 2])
def test_two_classes_that_refer_to_each_other(shell: InteractiveShell, cells: int) -> None:
    team = """
        class Team(Base):
            __tablename__ = "teams"
            id: Mapped[int] = mapped_column(primary_key=True)
            players: Mapped[list["Player"]] = relationship(back_populates="team")
        """
    player = """
        class Player(Base):
            __tablename__ = "players"
            id: Mapped[int] = mapped_column(primary_key=True)
            team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"))
            team: Mapped["Team"] = relationship(back_populates="players")
        """
    use = """
        engine = create_engine("sqlite://")
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(Team(id=1, players=[Player(id=1), Player(id=2)]))
            session.commit()
            count = len(session.get(Team, 1).players)
        """
    run(shell, SETUP)
    for _ in range(3):
        assert run(shell, *([team, player] if cells == 2 else [team + player]), use)["count"] == 2


def test_subclasses_with_and_without_a_table_of_their_own(shell: InteractiveShell) -> None:
    parent = """
        class Animal(Base):
            __tablename__ = "animals"
            id: Mapped[int] = mapped_column(primary_key=True)
            kind: Mapped[str]
            __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        """
    single = """
        class Dog(Animal):
            __mapper_args__ = {"polymorphic_identity": "dog"}
        """
    joined = """
        class Cat(Animal):
            __tablename__ = "cats"
            id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
            __mapper_args__ = {"polymorphic_identity": "cat"}
        """
    names = run(shell, SETUP, parent, single, joined, "warnings.simplefilter('ignore')", single, joined)
    assert set(names["Base"].metadata.tables) == {"animals", "cats"}, "the parent's table went with the subclass"


def test_a_plain_table_is_replaced_too(shell: InteractiveShell) -> None:
    links = 'links = Table("links", Base.metadata, Column("id", Integer, primary_key=True))'
    names = run(shell, SETUP, links)
    first = names["links"]
    names = run(shell, links)
    assert names["links"] is not first
    assert names["Base"].metadata.tables["links"] is names["links"]


def test_a_cell_that_failed_half_way_can_be_run_again(shell: InteractiveShell) -> None:
    run(shell, SETUP, USER)
    broken = shell.run_cell("1 / 0\n" + USER)
    assert isinstance(broken.error_in_exec, ZeroDivisionError)
    assert run(shell, USER, USE)["fresh"]


def test_a_cell_that_is_not_python_reports_its_own_error(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    result = shell.run_cell("class User(")
    assert isinstance(result.error_before_exec or result.error_in_exec, SyntaxError)
    assert "Error in callback" not in capsys.readouterr().out


def test_imported_classes_are_never_touched(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader defines a class with the name of an imported one: a conflict, and SQLAlchemy is right to say so."""
    module = ModuleType("playbook.made_here")
    monkeypatch.setitem(sys.modules, "playbook.made_here", module)
    module.__dict__["__name__"] = "playbook.made_here"
    exec(textwrap.dedent(SETUP + USER), module.__dict__)
    exec('links = Table("links", Base.metadata, Column("id", Integer, primary_key=True))', module.__dict__)
    warnings.resetwarnings()
    run(shell, SETUP, "from playbook.made_here import Base, User, links")
    imported = shell.user_ns["User"]
    assert shell.run_cell(USER).error_in_exec is not None
    assert shell.run_cell('links = Table("links", Base.metadata)').success  # adds nothing, returns the one there is
    assert imported.__table__ is imported.metadata.tables["users"]
    assert imported.metadata.tables["links"] is module.__dict__["links"]
    assert inspect(imported).local_table is imported.__table__, "the imported class is not mapped any more"


def test_it_is_installed_once(shell: InteractiveShell) -> None:
    before = len(shell.events.callbacks["pre_run_cell"])
    rerun.install()
    assert len(shell.events.callbacks["pre_run_cell"]) == before


def test_outside_a_notebook_nothing_happens() -> None:
    """A script keeps SQLAlchemy's refusal, and does not pay for importing IPython."""
    program = textwrap.dedent(SETUP + USER + "import playbook, sys\nprint('IPython' in sys.modules)\n") + "try:"
    program += (
        textwrap.indent(USER, "    ")
        + "except Exception as error:\n    print('already contains a class' in str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_importing_the_package_in_a_notebook_installs_it() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell as S; s = S.instance(); "
        "s.run_cell('import playbook'); s.run_cell('import playbook'); "
        "print(len([f for f in s.events.callbacks['pre_run_cell'] if 'rerun' in f.__module__]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr
