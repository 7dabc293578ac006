"""What is shown is short, readable as plain text, and the same at every run."""

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from IPython.core.interactiveshell import InteractiveShell
from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from playbook.kit.display import (
    er_diagram,
    format_exchange,
    format_sql,
    mermaid,
    sequence_diagram,
    show,
    show_sql,
    table,
)
from playbook.kit.live import Exchange


def exchange(
    method: str = "GET",
    path: str = "/",
    status: int = 200,
    body: bytes = b"",
    sent: bytes = b"",
    headers: dict[str, str] | None = None,
    at: tuple[float, float] = (0.0, 1.0),
) -> Exchange:
    answered = httpx.Headers(headers or {})
    return Exchange(method, path, httpx.Headers({"host": "x"}), sent, status, answered, body, *at)


# --- tables ---


def test_a_table_of_mappings() -> None:
    shown = table([{"name": "numpy", "rows": 14985}, {"name": "a|b", "rows": 7}])
    assert repr(shown) == "name     rows\n-----  ------\nnumpy  14,985\na|b         7"
    assert shown.markdown == "| name | rows |\n| :-- | --: |\n| numpy | 14,985 |\n| a\\|b | 7 |"


def test_a_table_of_sequences_with_columns_named() -> None:
    shown = table([(1, "x"), (2, None)], columns=["n", "what"])
    assert repr(shown).splitlines() == ["n  what", "-  ----", "1  x", "2"]


def test_columns_choose_and_order() -> None:
    assert repr(table([{"a": 1, "b": 2}], columns=["b"])).splitlines() == ["b", "-", "2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (False, "no"), (0, "0"), (1234567, "1,234,567"), (0.5, "0.5"), ("", "")],
)
def test_values(value: Any, text: str) -> None:
    assert repr(table([{"v": value}])).split("\n")[2:] == [text]


def test_an_empty_table_shows_its_columns() -> None:
    assert repr(table([], columns=["a", "bb"])).splitlines() == ["a  bb", "-  --"]


def test_rows_without_column_names_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="name the columns"):
        table([(1, 2)])


def test_a_value_of_several_lines_stays_one_row() -> None:
    shown = table([{"text": "one\ntwo"}])
    assert repr(shown).splitlines() == ["text", "-------", "one two"]
    assert shown.markdown.splitlines()[-1] == "| one<br>two |"


def test_the_header_is_escaped_like_the_cells() -> None:
    assert table([{"a|b": 1}]).markdown.startswith("| a\\|b |\n")


# --- HTTP ---


def test_long_lists_are_cut_and_say_so() -> None:
    body = b"[" + b",".join(b'{"name": "package-%03d"}' % n for n in range(500)) + b"]"
    lines = format_exchange(exchange(body=body)).splitlines()
    assert lines[2:] == [
        "< [",
        '<   {"name": "package-000"},',
        '<   {"name": "package-001"},',
        '<   {"name": "package-002"},',
        "<   ... (497 more)",
        "< ]",
    ]


def test_long_objects_are_set_out() -> None:
    lines = format_exchange(exchange(body=b'{"a": "%s", "b": {"c": 1}}' % (b"x" * 100))).splitlines()
    assert lines[2] == "< {"
    assert lines[-1] == "< }"
    assert '<     "c": 1' in lines


def test_text_is_cut_and_bytes_are_counted() -> None:
    long = format_exchange(exchange(body=b"line\n" * 25)).splitlines()
    assert long[2:] == ["< line"] * 20 + ["< ... (5 more lines)"]
    assert format_exchange(exchange(body=bytes(range(256)) * 8)).splitlines()[2:] == ["< (2,048 bytes)"]
    assert format_exchange(exchange(body="grüße".encode())).splitlines()[2:] == ["< grüße"]
    assert format_exchange(exchange(status=204)).splitlines() == ["> GET /", "< 204 No Content"]


def test_headers_that_vary_are_left_out() -> None:
    noise = {"date": "Mon", "content-length": "5", "server": "uvicorn", "x-request-id": "1"}
    said = {"etag": '"1"', "set-cookie": "a=b; HttpOnly", "content-type": "application/json"}
    assert format_exchange(exchange(headers=noise | said)).splitlines()[2:] == [
        '< Etag: "1"',
        "< Set-Cookie: a=b; HttpOnly",
    ]


def test_an_unknown_status_is_shown_as_its_number() -> None:
    assert exchange(status=299).status_line == "299"
    assert exchange(status=418).status_line.startswith("418 ")


# --- SQL ---


def test_sql_is_folded_and_broken_at_its_clauses() -> None:
    statement = """SELECT users.id, users.name
        FROM users   LEFT OUTER JOIN teams ON teams.id = users.team_id JOIN x ON x.id = users.id
        WHERE users.name = ?   ORDER BY users.id
         LIMIT ?"""
    assert format_sql(statement).splitlines() == [
        "SELECT users.id, users.name",
        "  FROM users",
        "  LEFT OUTER JOIN teams ON teams.id = users.team_id",
        "  JOIN x ON x.id = users.id",
        "  WHERE users.name = ?",
        "  ORDER BY users.id",
        "  LIMIT ?",
    ]


def test_writing_statements() -> None:
    assert format_sql("INSERT INTO t (a) VALUES (?) ON CONFLICT DO NOTHING RETURNING t.id").splitlines() == [
        "INSERT INTO t (a)",
        "  VALUES (?)",
        "  ON CONFLICT DO NOTHING",
        "  RETURNING t.id",
    ]
    assert format_sql("UPDATE t SET a = 1 WHERE id = 2").splitlines() == ["UPDATE t", "  SET a = 1", "  WHERE id = 2"]
    assert format_sql("COMMIT") == "COMMIT"


def test_wide_lines_are_wrapped() -> None:
    wide = "SELECT " + ", ".join(f"column_number_{n}" for n in range(40)) + " FROM t"
    lines = format_sql(wide).splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(" ".join(lines).split()) == wide


def test_show_sql_takes_strings_and_captured_statements(capsys: pytest.CaptureFixture[str]) -> None:
    show_sql(["COMMIT", SimpleNamespace(sql="SELECT  1")])
    assert capsys.readouterr().out == "COMMIT\nSELECT 1\n"


# --- diagrams ---


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    mail: Mapped[str] = mapped_column(String(200), unique=True)
    name: Mapped[str]


class Profile(Base):
    __tablename__ = "profiles"
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)


class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    invited_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    code: Mapped[str]
    seat: Mapped[str]
    other_id: Mapped[int | None] = mapped_column(ForeignKey("elsewhere.id"))
    __table_args__ = (Index("code_once", "code", unique=True), UniqueConstraint("seat"))


class Elsewhere(Base):
    __tablename__ = "elsewhere"
    id: Mapped[int] = mapped_column(primary_key=True)


def test_er_diagram_is_read_from_the_tables() -> None:
    assert er_diagram(User, Profile, Member).text.splitlines() == [
        "erDiagram",
        "  users ||--o| profiles : user_id",
        "  users |o--o{ members : invited_by",
        "  users ||--o{ members : user_id",
        "  users {",
        "    integer id PK",
        "    string mail UK",
        "    string name",
        "  }",
        "  profiles {",
        "    integer user_id PK, FK",
        "  }",
        "  members {",
        "    integer id PK",
        "    integer user_id FK",
        "    integer invited_by FK",
        "    string code UK",
        "    string seat UK",
        "    integer other_id FK",
        "  }",
    ]


@dataclass
class Statement:
    sql: str
    at: float


def test_sequence_diagram_puts_statements_into_their_exchange() -> None:
    exchanges = [exchange("POST", "/users", 201, at=(1, 2)), exchange("GET", "/users?a=1;b#c", 404, at=(3, 4))]
    statements = [
        Statement("SELECT id\nFROM users WHERE id = 1", 3.5),
        Statement('INSERT INTO "users" (id) VALUES (1)', 1.5),
        Statement("commit", 1.6),
        Statement("DELETE FROM lost", 9),
        Statement("WITH x AS (SELECT 1) UPDATE y SET a = 1", 3.6),
        Statement("UPDATE users SET a = 1", 3.7),
    ]
    assert sequence_diagram(exchanges, statements).text.splitlines() == [
        "sequenceDiagram",
        "  participant C as Client",
        "  participant P as Pantry",
        "  participant D as Database",
        "  C->>P: POST /users",
        "  P->>D: INSERT users",
        "  P->>D: COMMIT",
        "  P-->>C: 201 Created",
        "  C->>P: GET /users?a=1#59;b#35;c",
        "  P->>D: SELECT users",
        "  P->>D: WITH",
        "  P->>D: UPDATE users",
        "  P-->>C: 404 Not Found",
    ]


def test_without_statements_there_is_no_database() -> None:
    assert "Database" not in sequence_diagram([exchange()]).text


def test_mermaid_in_a_notebook_is_a_fenced_block() -> None:
    assert mermaid("\ngraph LR\n  a-->b\n").markdown == "```mermaid\ngraph LR\n  a-->b\n```"


# --- where it is shown ---


def test_show_prints_in_a_script() -> None:
    program = "from playbook.kit.display import show, table\nshow(table([{'a': 1}]), 'text')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("a\n-\n1\ntext\n", "")


def test_show_renders_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[dict[str, str]] = []
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    try:
        assert shell.display_pub is not None
        monkeypatch.setattr(shell.display_pub, "publish", lambda data, *a, **k: published.append(data))
        show(table([{"a": 1}]))
    finally:
        InteractiveShell.clear_instance()
    assert published == [{"text/plain": "a\n-\n1", "text/markdown": "| a |\n| --: |\n| 1 |"}]
