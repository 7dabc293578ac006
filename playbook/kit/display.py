"""Show what happened: HTTP exchanges, SQL, tables and diagrams.

In a notebook tables and diagrams are rendered; in a script the same calls print plain text. Nothing that differs
from run to run (ports, times, dates) is shown.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from playbook.kit.live import Exchange, LiveClient

WIDTH = 100
# What a lesson is about; everything else (dates, lengths, user agents) is noise in a diff.
HEADERS = (
    "accept", "allow", "authorization", "cache-control", "content-type", "cookie", "deprecation", "etag",
    "idempotency-key", "idempotency-replayed", "if-match", "if-none-match", "link", "location", "origin",
    "ratelimit", "ratelimit-policy", "retry-after", "set-cookie", "sunset", "vary", "www-authenticate",
)  # fmt: skip
SILENT = {"accept": "*/*", "content-type": "application/json"}  # values that say nothing


class Shown:
    """Something to show: markdown for a notebook, text for a script."""

    def __init__(self, text: str, markdown: str) -> None:
        self.text, self.markdown = text, markdown

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self.text, "text/markdown": self.markdown}


def show(*things: object) -> None:
    """Display `things` in a notebook, print them in a script."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    for thing in things:
        if shell is not None and isinstance(thing, Shown):
            from IPython.display import display

            display(thing)
        else:
            print(thing)


def table(rows: Iterable[Mapping[str, Any] | Sequence[Any]], columns: Sequence[str] | None = None) -> Shown:
    """`rows` as a table. Rows are mappings, or sequences with `columns` given. Numbers are set flush right."""
    listed = list(rows)
    if columns is None:
        if listed and not isinstance(listed[0], Mapping):
            raise ValueError("rows that are not mappings need their columns named: name the columns")
        columns = list(listed[0]) if listed else []
    cells = [[row[c] for c in columns] if isinstance(row, Mapping) else list(row) for row in listed]
    numeric = [bool(cells) and all(isinstance(r[i], (int, float)) for r in cells) for i in range(len(columns))]
    text = [[_cell(value) for value in row] for row in cells]
    names = [str(column) for column in columns]
    widths = [max([len(name), *(len(row[i]) for row in text)]) for i, name in enumerate(names)]
    rule = ["-" * width for width in widths]

    def line(values: Sequence[str]) -> str:
        pairs = zip(values, widths, numeric, strict=True)
        return "  ".join(v.rjust(w) if n else v.ljust(w) for v, w, n in pairs).rstrip()

    plain = "\n".join(line([part.replace("\n", " ") for part in row]) for row in [names, rule, *text])
    head, *body = [[part.replace("|", "\\|").replace("\n", "<br>") for part in row] for row in [names, *text]]
    markdown = "\n".join(f"| {' | '.join(row)} |" for row in [head, ["--:" if n else ":--" for n in numeric], *body])
    return Shown(plain, markdown)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def mermaid(source: str) -> Shown:
    """A Mermaid diagram: rendered by JupyterLab, its source as text elsewhere."""
    source = source.strip("\n")
    return Shown(source, f"```mermaid\n{source}\n```")


def _body(content: bytes) -> list[str]:
    if not content:
        return []
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return [f"({len(content):,} bytes)"]
    try:
        value = json.loads(text)
    except ValueError:
        lines = text.splitlines()
        return lines[:20] + ([f"... ({len(lines) - 20:,} more lines)"] if len(lines) > 20 else [])
    compact = json.dumps(value, ensure_ascii=False)
    if len(compact) <= WIDTH:
        return [compact]
    if isinstance(value, list) and len(value) > 4:
        shown = [json.dumps(item, ensure_ascii=False) for item in value[:3]]
        return ["[", *(f"  {item}," for item in shown), f"  ... ({len(value) - 3:,} more)", "]"]
    return json.dumps(value, ensure_ascii=False, indent=2).splitlines()


def _headers(headers: Any) -> list[str]:
    lines = []
    for name, value in headers.multi_items():
        if name in HEADERS and SILENT.get(name) != value:
            shown = value.split(" ")[0] + " ..." if name == "authorization" else value
            lines.append(f"{name.title()}: {shown}")
    return lines


def format_exchange(exchange: Exchange) -> str:
    """`> ` what was asked, `< ` what was answered: first line, headers that matter, body."""
    asked = [f"{exchange.method} {exchange.path}", *_headers(exchange.request_headers)]
    asked += _body(exchange.request_body)
    said = [exchange.status_line, *_headers(exchange.response_headers)]
    said += _body(exchange.response_body)
    return "\n".join([*(f"> {line}" for line in asked), *(f"< {line}" for line in said)])


def show_http(client: LiveClient) -> None:
    """Print the exchanges since the last call, as they happened."""
    new = client.exchanges[client.shown :]
    client.shown = len(client.exchanges)
    if new:
        print("\n\n".join(format_exchange(exchange) for exchange in new))


def format_sql(statement: str) -> str:
    """One statement, its white space folded and wrapped at its clauses."""
    folded = " ".join(statement.split())
    broken = re.sub(
        r"(?<!OUTER) (?=(?:FROM|WHERE|GROUP BY|ORDER BY|HAVING|LIMIT|VALUES|SET|RETURNING|ON CONFLICT"
        r"|(?:LEFT|FULL) OUTER JOIN|JOIN)\b)",
        "\n  ",
        folded,
    )
    lines = [
        wrapped
        for line in broken.split("\n")
        for wrapped in textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False) or [""]
    ]
    return "\n".join(line if line.strip() else "" for line in lines)


def show_sql(statements: Iterable[Any]) -> None:
    """Print captured statements, oldest first: strings, or objects with the attribute `sql`."""
    print("\n".join(format_sql(getattr(statement, "sql", statement)) for statement in statements))


def er_diagram(*models: Any) -> Shown:
    """The entity-relationship diagram of mapped classes, read from their tables: columns, keys, references."""
    from sqlalchemy import UniqueConstraint

    tables = [model.__table__ for model in models]
    shown = {t.name for t in tables}
    lines = ["erDiagram"]
    for t in tables:
        for key in sorted(t.foreign_keys, key=lambda k: (k.parent.name, k.target_fullname)):
            target = key.target_fullname.split(".")[0]
            if target in shown:
                many = "|o" if key.parent.nullable else "||"
                one = "o|" if key.parent.unique or (key.parent.primary_key and len(t.primary_key) == 1) else "o{"
                lines.append(f"  {target} {many}--{one} {t.name} : {key.parent.name}")
    for t in tables:
        unique = {c.name for c in t.columns if c.unique}
        rules = [i for i in t.indexes if i.unique] + [c for c in t.constraints if isinstance(c, UniqueConstraint)]
        unique |= {next(iter(rule.columns)).name for rule in rules if len(rule.columns) == 1}
        lines.append(f"  {t.name} {{")
        for c in t.columns:
            keys = [k for k, on in (("PK", c.primary_key), ("FK", c.foreign_keys), ("UK", c.name in unique)) if on]
            kind = re.sub(r"\W", "_", type(c.type).__name__.lower())
            lines.append(f"    {kind} {c.name}" + (f" {', '.join(keys)}" if keys else ""))
        lines.append("  }")
    return mermaid("\n".join(lines))


def sequence_diagram(exchanges: Iterable[Exchange], statements: Iterable[Any] = ()) -> Shown:
    """The sequence diagram of what happened: requests and answers, with the SQL statements between them.

    `statements` are captured ones: objects with `sql` and `at` (`time.perf_counter()` seconds). They are put into the
    exchange during which they ran.
    """
    ran = sorted(statements, key=lambda s: s.at)
    lines = ["sequenceDiagram", "  participant C as Client", "  participant P as Pantry"]
    if ran:
        lines.append("  participant D as Database")
    for exchange in exchanges:
        lines.append(f"  C->>P: {exchange.method} {_label(exchange.path)}")
        for statement in (s for s in ran if exchange.started <= s.at <= exchange.ended):
            lines.append(f"  P->>D: {_label(_verb(statement.sql))}")
        lines.append(f"  P-->>C: {exchange.status_line}")
    return mermaid("\n".join(lines))


def _label(text: str) -> str:
    """`text` without what Mermaid would read as the end of a statement or the start of an entity."""
    return re.sub("[;#]", lambda match: f"#{ord(match[0])};", text)


def _verb(sql: str) -> str:
    """`INSERT users` for `INSERT INTO users (...) ...`; the first word of a statement of another kind."""
    folded = " ".join(sql.split())
    verb = folded.split(" ")[0].upper()
    before = {"SELECT": "FROM", "DELETE": "FROM", "INSERT": "INTO", "UPDATE": "UPDATE"}.get(verb)
    name = re.search(rf'\b{before} "?(\w+)', folded, re.I) if before else None
    return f"{verb} {name[1]}" if name else verb
