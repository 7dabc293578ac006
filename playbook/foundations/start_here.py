# %% [markdown]
"""
# Start here

Know for whom this course is, see a first failure, and learn the few helpers that every
page uses.

| | |
|---|---|
| **Use it when** | this is your first page, or you meet a helper that you do not know |
| **You need** | nothing |
| **Time** | read 16 min, exercise 10 min |
| **Topics** | introduction, prerequisites, helpers, DuckDB, SQLite, exercises |

### For whom

You have two years of Python. You have written web applications, with Flask or Django
for example. You have used SQLAlchemy a little, and FastAPI once. You know what SELECT
and UPDATE do, and that a transaction is committed as a whole or not at all.

You want to know what goes wrong when two requests arrive at once, when a process is
killed, or when a caller lies. On each page something goes wrong for real, and you build
what prevents it.

### The cast

- **Ada** uses the service as it was meant. She is often the first to suffer. **Bob**,
  a colleague, sends his request at the same moment.
- **Mallory** is an attacker, or simply the other request.
- **Pantry** is the running example: a package index that a company runs for itself.
  People publish packages there, and machines install them. The recipes of the pages do
  not depend on Pantry.

## See it break

Two people claim the package name `http` at the same moment. This is the code for one
request. It looks for an owner first; `pause` is the moment between looking and writing.
The name `sa` stands for SQLAlchemy on every page.
"""

# %%
import sqlalchemy as sa

packages = sa.Table(
    "packages",
    sa.MetaData(),
    sa.Column("name", sa.String),
    sa.Column("owner", sa.String),
)
owners = sa.select(packages.c.owner).where(packages.c.name == "http")


def claim(connection, owner, pause):
    found = connection.scalars(owners).all()
    pause()
    if not found:
        connection.execute(packages.insert().values(name="http", owner=owner))


# %% [markdown]
"""
A folded cell, like the next one, holds what a demonstration needs. Click on it to read
it. The text before it says what it gives you: here `two_requests(url)`, which runs
Mallory's whole request while Ada's request pauses. Each has a transaction of its own.
`two_requests` shows what happened and returns the owners. `lesson_url()` is the URL of
a new, empty database. `show` displays a table.
"""

# %% tags=["stage"]
from playbook.kit.lesson import lesson_url, show
from playbook.kit.stage import Timeline


def two_requests(url):
    engine = sa.create_engine(url, poolclass=sa.QueuePool)
    packages.create(engine)
    timeline = Timeline("Ada", "Mallory").watch(engine)

    def request(owner, pause):
        with timeline.lane(owner), engine.begin() as connection:
            claim(connection, owner, pause)

    request("Ada", pause=lambda: request("Mallory", pause=lambda: None))
    show(timeline.shown())
    with engine.connect() as connection:
        found = connection.scalars(owners.order_by(packages.c.owner)).all()
    engine.dispose()
    return found


# %% [markdown]
"""
Before a failure the page asks you to **predict**. Answer before you run the cell: a
wrong guess is what you will remember. Predict: how many owners does `http` have after
both requests?
"""

# %% tags=["predict"]
found = two_requests(lesson_url())
print(found)

# %% [markdown]
"""
A test that sends one request after the other never sees this. Here each request looked
before the other one had committed, so each found no owner. Both transactions succeeded,
and no error was raised. The exercise below mends it.

## The decision

On which database should such pages run?

| option | good | costs |
|---|---|---|
| SQLite, Django's default | comes with Python | loose types; one writer at a time |
| PostgreSQL in a container | as in production | Docker before the first page |
| **DuckDB, and PostgreSQL too** | in process, strict types | a second dialect to know |

We choose **DuckDB and PostgreSQL**. DuckDB runs inside the Python process, like SQLite.
Unlike SQLite, it refuses a text in a column of numbers, and several transactions can
write at once. If two of them change the same value, DuckDB refuses one. (The two
requests above changed no value: each inserted a row of its own.) The section *On
PostgreSQL* of a page shows what changes in production. Choose SQLite for an application
on one device. The recipes run on SQLite too, unless a page says why not.

## See it work

### A server

`serving` starts a real HTTP server on a free port and gives you a client. `show_http`
prints what the client sent (`>`) and got (`<`). It leaves out headers that are not the
subject, such as dates and lengths.
"""

# %%
from fastapi import FastAPI

from playbook.kit.lesson import serving, show_http

app = FastAPI()


@app.get("/packages/{name}")
def read_package(name: str):
    return {"name": name}


@app.get("/packages/newest")
def read_newest():
    return {"name": "http", "published": "2026-11-02"}


# %% [markdown]
"""
This service has a mistake that FastAPI does not report. Predict: what is the body of
the answer to `GET /packages/newest`?
"""

# %% tags=["predict"]
with serving(app) as client:
    client.get("/packages/newest")
    show_http(client)

# %% [markdown]
"""
Each route is right alone; their order is the mistake. FastAPI takes the first route
that fits a path, and `newest` fits `{name}`.

### The other helpers

`together` runs functions at once, each in a thread. It returns what each returned, or
the exception. `table` makes a table of rows, and `show` displays it.
"""

# %%
from playbook.kit.lesson import table
from playbook.kit.stage import together

results = together(Ada=lambda: 6 * 7, Mallory=lambda: 1 / 0)
show(table(results.items(), ["who", "result"]))

# %% [markdown]
"""
These helpers are part of the course. A recipe never uses them.

| helper | what it does |
|---|---|
| `lesson_url` | gives the URL of a new, empty database, at each call another one |
| `on_postgres` | calls a function with the URL of a new PostgreSQL database |
| `serving` | serves an application over HTTP while the block runs |
| `show_http` | prints the requests and answers since the last call |
| `show` | displays a table or a diagram |
| `table` | makes a table of rows |
| `together` | runs functions at once, each in a thread |
| `Timeline` | records what each transaction did, one column for each |
| `checker` | turns a function into the checker of an exercise |

### Read a page, break it, and take it with you

The table at the top of a page is its **card**. In *You need*, *background* is a page
that you should have read, and *code* is a page whose code this one imports.

`playbook lab NAME` opens your own copy of a page in JupyterLab. Run its cells from top
to bottom, and change what you like. `playbook progress` shows what is done and what
comes next.

The section *Check it* of a page asserts what the page has promised. **Break it** lists
three changes; make one, run all cells again, and see the assertion fail.

Some cells have the tag *export* (in JupyterLab, see the *Property Inspector*). They are
the **recipe** of the page. `playbook lift NAME INTO` copies it into your own project,
with tests. What your project hands to it, such as an engine or a clock, are its
**seams**. To find a page, ask with your own words: `playbook find "lost update"`.
`playbook run NAME` runs a page as a script. A term that may be new to you leads to one
sentence in the [glossary](../glossary.md).

## On PostgreSQL

`on_postgres` uses a server that the variable `DATABASE_URL` names, or starts one for a
moment. If no server can start, it says so and returns None. Predict: does PostgreSQL
refuse one of the two requests?
"""

# %% tags=["predict"]
from playbook.kit.lesson import on_postgres

found_there = on_postgres(two_requests)
print(found_there)

# %% [markdown]
"""
## Check it

The folded cell reads the text of this very page. `helpers` are the names in the table
above, and `commands` are the words after `playbook`. `known_helpers` and
`known_commands` are what the course really has.
"""

# %% tags=["stage"]
import re

from typer.main import get_command

from playbook.kit import cli, lesson, stage
from playbook.kit.course import Course

text = Course().get("start_here").prose
helpers = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
commands = re.findall(r"`playbook\s(\w+)", text)
known_commands = get_command(cli.app).commands
known_helpers = {**vars(lesson), **vars(stage)}

# %%
for name in helpers:
    assert callable(known_helpers.get(name)), f"there is no helper {name}"
for name in commands:
    assert name in known_commands, f"there is no command {name}"
assert found == ["Ada", "Mallory"], "the failure of this page has not happened"
if found_there is not None:
    assert found_there == found, "PostgreSQL has done something else"
print(len(helpers), "helpers and", len(commands), "commands exist")

# %% [markdown]
"""
## Your turn

Every page ends with an exercise: a cell that you complete, and a checker that says in
words what is still wrong. Run the checker as often as you like. When it says `right`,
the page is done. Two hints are folded below it. In a terminal, `playbook hint NAME`
prints the next hint, and `playbook solution NAME` a solution. Your own copy leaves the
solution out; the original and the book fold it.

Here no code can help that looks before it writes. The database has to refuse the second
owner. Complete the table, so that each package has one owner. An owner may have many
packages.
"""


# %% tags=["exercise"]
def make_table(metadata):
    return sa.Table(
        "packages",
        metadata,
        sa.Column("name", sa.String),
        sa.Column("owner", sa.String),
    )


# %%
from playbook.exercises.foundations.start_here import HINTS, check

check(make_table)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def make_table(metadata):
    return sa.Table(
        "packages",
        metadata,
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
    )


assert check(make_table)

# %% [markdown]
"""
## In short

A program that looks before it writes can be right alone and wrong together with
another request. Only the database sees both, so a rule about all rows belongs there.
Each page shows such a failure, and you can name the helper that showed it.

## Sources

SQLite documentation, "Quirks, Caveats, and Gotchas In SQLite" (flexible typing), and
"Appropriate Uses For SQLite". DuckDB documentation, "Concurrency". FastAPI
documentation, "Path Parameters" (order matters).
"""

# %% [markdown] tags=["nav"]
"""
[course map](../index.ipynb) · Next: [Settings](settings.ipynb)
"""
