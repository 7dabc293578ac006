"""The pages on natural keys and on bulk loads: what they show is run, and what they say of real data is so."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from packaging.version import Version
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, validates

from playbook.foundations.engines import make_engine
from playbook.kit.course import Course
from playbook.kit.data import data_path
from playbook.schema import bulk_load, natural_keys
from playbook.schema.natural_keys import version_key


def shown(name: str) -> str:
    """The code that the page shows for a project of one's own."""
    prose = Course().get(name).source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    return str(block)


def test_the_table_of_keys_is_what_the_recipe_makes_and_ascends() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `([a-z0-9 ]+)` \|", Course().get("natural_keys").source, re.MULTILINE)
    assert len(rows) == 8
    for version, key in rows:
        assert version_key(version) == key.replace(" ", "")
        assert natural_keys.key_parts(Version(version)) == key.replace("a0 a1b100 ", "a0 a1b100 ").split(" ")
    assert [Version(version) for version, _ in rows] == sorted(Version(version) for version, _ in rows)


def real_versions(file: str) -> list[str]:
    """The versions of a file, but for texts that are none."""
    found = set()
    with data_path(file).open(encoding="utf-8", errors="replace", newline="") as lines:
        for row in csv.DictReader(lines):
            try:
                found.add(Version(row["version"]).public and row["version"])
            except ValueError:
                with pytest.raises(ValueError, match="PEP 440"):
                    version_key(row["version"])
    return sorted(found)


@pytest.mark.parametrize(("file", "count"), [("packages.csv", 3518), ("legacy_uploads.csv", 1)])
def test_the_keys_of_all_versions_in_data_sort_as_packaging_does(
    url: str, file: str, count: int, tmp_path: Path
) -> None:
    """In both databases."""
    versions = real_versions(file)
    assert len(versions) >= count
    path = tmp_path / "versions.csv"
    with path.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([["version", "key"], *([one, version_key(one)] for one in versions)])
    raw = bulk_load.staging(["version", "key"])
    table = sa.Table("versions", sa.MetaData(), sa.Column("version", sa.String), sa.Column("key", sa.String))
    engine = make_engine(url)
    table.create(engine)
    plan = bulk_load.Plan(raw, [], table, sa.select(raw.c.version, raw.c.key), ["version"])
    with engine.begin() as db:
        assert bulk_load.bulk_load(db, path, plan).added == len(versions)
        rows = db.execute(sa.select(table).order_by(table.c.key)).all()
    engine.dispose()
    in_order = [Version(version) for version, _ in rows]
    assert in_order == sorted(in_order)
    assert len({key for _, key in rows}) == len(set(in_order))


def test_the_model_that_the_page_shows_makes_its_keys() -> None:
    class Base(DeclarativeBase):
        pass

    names: dict[str, Any] = {**vars(natural_keys), "Base": Base, "sa": sa, "Mapped": Mapped, "__name__": __name__}
    exec(shown("natural_keys"), names | {"mapped_column": mapped_column, "validates": validates}, names)
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    plugin = names["Plugin"]
    with Session(engine) as session:
        session.add(plugin(id=1, name="Dark_Mode", version="1.10"))
        session.commit()
        found = session.scalars(sa.select(plugin)).one()
        assert (found.name, found.name_key, found.version_key) == ("Dark_Mode", "dark-mode", version_key("1.10"))
        session.add(plugin(id=2, name="dark.mode", version="1.10.0"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
    with pytest.raises(ValueError, match="PEP 440"):
        plugin(version="new")


def test_the_prices_that_the_page_shows_are_loaded(url: str, tmp_path: Path) -> None:
    key = sa.Column("sku", sa.String, primary_key=True)
    items = sa.Table("items", sa.MetaData(), key, sa.Column("cents", sa.Integer, nullable=False))
    engine = make_engine(url)
    items.create(engine)
    path = tmp_path / "prices.csv"
    path.write_text("sku,price\n ab1 ,9.90\nAB1,1.00\nc,free\nd,10.00\n", encoding="utf-8")
    names: dict[str, Any] = {**vars(bulk_load), "re": re, "items": items, "engine": engine, "path": path}
    exec(shown("bulk_load"), names)
    assert [(row["line"], row["reason"]) for row in names["report"].rejected] == [
        (3, "a SKU twice"),
        (4, "not a price, such as 9.90"),
    ]
    with engine.connect() as db:
        found = db.execute(sa.select(items).order_by(items.c.sku)).all()
    assert [tuple(row) for row in found] == [("AB1", 990), ("D", 1000)]
    engine.dispose()


def test_the_three_statements_of_the_idea_do_what_the_page_says() -> None:
    """`read_csv` guesses types unless it is told not to, and an empty field is NULL."""
    prose = Course().get("bulk_load").source.split("### The idea")[1]
    [block] = re.findall(r"```sql\n(.*?)```", prose, re.DOTALL)
    engine = make_engine("duckdb://")
    with engine.begin() as db:
        table = "CREATE TABLE packages (name TEXT, version TEXT NOT NULL, last_release TEXT NOT NULL)"
        db.exec_driver_sql(table)
        for statement in block.replace("packages.csv", data_path("packages.csv").as_posix()).split(";")[:3]:
            db.exec_driver_sql(statement)
        assert db.exec_driver_sql("SELECT count(*) FROM packages").scalar() == 14_971
        bad = "SELECT reason, count(*) FROM staging WHERE reason != '' GROUP BY reason"
        assert [tuple(row) for row in db.exec_driver_sql(bad)] == [("no version", 14)]
    engine.dispose()
