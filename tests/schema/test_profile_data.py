"""The page "Profile the data" on the real files, and the code that it shows, run as it is printed there."""

import re
from typing import Any

import duckdb
import pytest
from duckdb import DuckDBPyConnection

from playbook.exercises.schema import profile_data as stage
from playbook.kit.course import Course
from playbook.kit.lesson import data_path
from playbook.schema.profile_data import candidate_keys, dependency, profile, repair


@pytest.fixture
def con() -> DuckDBPyConnection:
    return stage.connect()


def test_the_export_has_the_numbers_that_were_planted(con: DuckDBPyConnection) -> None:
    text, repaired = repair(data_path("legacy_uploads.csv").read_bytes())
    stage.load_text(con, "legacy", text)
    assert (len(repaired), stage.count(con, "SELECT count(*) FROM legacy")) == (8, 20_000)
    con.execute("CREATE TABLE uploads AS SELECT DISTINCT * FROM legacy")
    stage.normalize(con, "lower(uploader_email)")
    counted = con.execute("SELECT count(*), count(DISTINCT project), count(moment) FROM clean").fetchone()
    assert counted == (19_960, 420, 19_924)
    spelled = "SELECT project FROM clean GROUP BY project HAVING count(DISTINCT package) > 1"
    assert len(con.execute(spelled).fetchall()) == 150
    assert dependency(con, "clean", ["package", "version"], "sha256").broken == 60
    assert dependency(con, "clean", ["project", "release"], "sha256").broken == 75
    assert dependency(con, "clean", ["uploader_name"], "team").tested > 100


def test_the_real_packages_have_empty_versions_and_look_alikes(con: DuckDBPyConnection) -> None:
    stage.load(con, "packages", data_path("packages.csv"))
    assert [row[1] for row in profile(con, "packages")] == [0, 0, 14, 14]
    alike = "SELECT 1 FROM packages GROUP BY replace(name, '-', '') HAVING count(*) > 1"
    assert len(con.execute(alike).fetchall()) == 23


@pytest.mark.parametrize(
    ("rows", "passes"),
    [
        ([("1", "ada", "IT"), ("2", "ada", "IT")], True),
        ([("1", "ada", "IT"), ("1", "ada", "IT")], False),
        ([("1", "ada", "IT"), ("2", "ada", "DE")], False),
    ],
)
def test_the_check_that_the_page_shows_finds_a_key_and_a_dependency(
    con: DuckDBPyConnection, rows: list[Any], passes: bool
) -> None:
    block = re.search(
        r"```python\n(.*?)```", Course().get("profile_data").source.split("## Take it with you")[1], re.DOTALL
    )
    assert block is not None
    names: dict[str, Any] = {"candidate_keys": candidate_keys, "dependency": dependency}
    names["DuckDBPyConnection"] = duckdb.DuckDBPyConnection
    exec(block[1], names)
    con.execute("CREATE TABLE orders (number VARCHAR, customer VARCHAR, country VARCHAR)")
    con.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
    if passes:
        names["check_orders"](con)
        return
    with pytest.raises(AssertionError):
        names["check_orders"](con)
