"""The exercise of the page "Test migrations": its checker, hints, wrong answers, and the histories of its stage."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from playbook.foundations.engines import make_engine
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_folder, lesson_url
from playbook.migrations.test_migrations import steps

HINTS = (
    "See `check_step`: how does it reach the place below the revision? What the old tables refused\n"
    "before is no fault of this revision, so each statement is tried there, too.",
    "Try a statement in a transaction of its own and roll it back, whatever comes of it: then it can\n"
    "be tried again. A missing column raises another error than a broken rule.",
)

# Plausible, and refused in words.
WRONG = (
    # tries after the upgrade only
    """def refused(engine, step, statements, location):
    upgrade(engine, step.after, location)
    found = []
    for statement in statements:
        try:
            with engine.connect() as db:
                db.execute(sa.text(statement))
        except sa.exc.DBAPIError:
            found.append(statement)
    return found
""",
    # leaves the rows of the first try
    """def refused(engine, step, statements, location):
    def taken():
        found = []
        for statement in statements:
            try:
                with engine.begin() as db:
                    db.execute(sa.text(statement))
                found.append(statement)
            except sa.exc.DBAPIError:
                pass
        return found

    for revision in step.before:
        upgrade(engine, revision, location)
    before = taken()
    upgrade(engine, step.after, location)
    after = taken()
    return [statement for statement in before if statement not in after]
""",
    # knows broken rules, and no missing columns
    """def refused(engine, step, statements, location):
    def takes(statement):
        try:
            with engine.connect() as db:
                db.execute(sa.text(statement))
            return True
        except sa.exc.IntegrityError:
            return False
        except sa.exc.DBAPIError:
            return True

    for revision in step.before:
        upgrade(engine, revision, location)
    before = [statement for statement in statements if takes(statement)]
    upgrade(engine, step.after, location)
    return [statement for statement in before if not takes(statement)]
""",
    # one transaction for all: after the first error nothing is taken
    """def refused(engine, step, statements, location):
    def taken():
        found = []
        with engine.connect() as db:
            for statement in statements:
                try:
                    db.execute(sa.text(statement))
                    found.append(statement)
                except sa.exc.DBAPIError:
                    pass
        return found

    for revision in step.before:
        upgrade(engine, revision, location)
    before = taken()
    upgrade(engine, step.after, location)
    after = taken()
    return [statement for statement in before if statement not in after]
""",
)

# ---------------------------------------------------------------- histories

ENV = """from playbook.migrations.first_migration import run_environment

run_environment(None, None)
"""
REVISION = """import sqlalchemy as sa
from alembic import op

revision, down_revision, loses = {!r}, {!r}, {!r}


def upgrade():
{}


def downgrade():
{}
"""
Revision = tuple[str, str, str]


def history(*revisions: Revision, loses: Mapping[str, Mapping[str, str]] | None = None) -> Path:
    """A folder with an environment and `revisions`: each a name, what upgrade does, and what downgrade does."""
    folder, below = lesson_folder(), None
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(ENV, encoding="utf-8")
    for name, *code in revisions:
        bodies = [textwrap.indent(part.strip(), "    ") for part in code]
        text = REVISION.format(name, below, (loses or {}).get(name, {}), *bodies)
        (folder / "versions" / f"{name}.py").write_text(text, encoding="utf-8")
        below = name
    return folder


MADE_OF = """
version = sa.Column("version", sa.String(), primary_key=True)
op.create_table("releases", version, sa.Column("yanked", sa.Boolean(), nullable=False))
"""
RELEASES = ("0001_releases", MADE_OF, 'op.drop_table("releases")')
REASON = """
op.add_column("releases", sa.Column("reason", sa.String()))
op.execute("UPDATE releases SET reason = 'none given' WHERE yanked")
with op.batch_alter_table("releases") as batch:
    batch.drop_column("yanked")
"""
DOWN = """
with op.batch_alter_table("releases") as batch:
    batch.add_column(sa.Column("yanked", sa.Boolean(), nullable=False{}))
    batch.drop_column("reason")
"""
FLAG, DEFAULT = DOWN.format(""), DOWN.format(", server_default=sa.false()")
COMPUTED = """
op.add_column("releases", sa.Column("yanked", sa.Boolean()))
op.execute("UPDATE releases SET yanked = reason IS NOT NULL")
with op.batch_alter_table("releases") as batch:
    batch.alter_column("yanked", existing_type=sa.Boolean(), nullable=False)
    batch.drop_column("reason")
"""
ENUM = (
    "0001_files",
    'op.create_table("files", sa.Column("kind", sa.Enum("sdist", "wheel", name="file_kind")))',
    'op.drop_table("files")',
)


def with_downgrade(down: str, loses: Mapping[str, str] | None = None) -> Path:
    """The history of the page, with this downgrade of step 2, and what it declares."""
    begins = {"releases": "the table begins here"}
    declared = {"0001_releases": begins, "0002_reason": loses or {}}
    return history(RELEASES, ("0002_reason", REASON, down), loses=declared)


def with_fault(up: str, down: str, loses: Mapping[str, str]) -> Path:
    """A history whose second revision does this."""
    return history(RELEASES, ("0002_fault", up, down), loses={"0002_fault": loses})


# One fault each, on top of RELEASES, and the words that must be said: upgrade, downgrade, what is declared.
FAULTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "changes or loses releases.version": ("op.execute(\"UPDATE releases SET version = version || '.0'\")", "pass", {}),
    "changes or loses releases": ('op.execute("DELETE FROM releases WHERE yanked")', "pass", {}),
    "the downgrade lacks releases: columns": ("op.alter_column('releases', 'yanked', nullable=True)", "pass", {}),
    "declares releases.yanked, and keeps it": ("pass", "pass", {"releases.yanked": "a guess"}),
}

# ---------------------------------------------------------------- the checker

OLD = [
    "INSERT INTO releases (version, yanked) VALUES ('1.0', false)",
    "INSERT INTO releases (version) VALUES ('1.1')",  # the old table refuses it, too
    "INSERT INTO releases (version, yanked) VALUES ('1.2', true)",
    "INSERT INTO releases (version, yanked) VALUES ('1.0', true)",
]
NOTE = 'op.add_column("releases", sa.Column("note", sa.String(){}))'
REQUIRED = """
with op.batch_alter_table("releases") as batch:
    batch.add_column(sa.Column("note", sa.String(), nullable=False))
"""
CHANGES: dict[str, tuple[str, list[int]]] = {
    "nothing has changed": ("pass", []),
    "a new column may be NULL": (NOTE.format(""), []),
    "a new column is required": (REQUIRED, [0, 2, 3]),
    "a column is renamed": ('op.alter_column("releases", "yanked", new_column_name="hidden")', [0, 2, 3]),
    "the table is gone": ('op.drop_table("releases")', [0, 2, 3]),
}


@checker
def check(refused: Callable[..., Any]) -> str:
    """An empty database for each change, and four statements of the old program."""
    for what, (up, numbers) in CHANGES.items():
        folder = history(RELEASES, ("0002_change", up, "pass"))
        engine = make_engine(lesson_url())
        found = refused(engine, steps(folder)[1], list(OLD), folder)
        engine.dispose()
        wanted = [OLD[number] for number in numbers]
        if found != wanted:
            wrong = next((one for one in OLD if (one in wanted) is not (one in (found or []))), "the order")
            return f"not yet: {what}: wrong about {wrong}"
    return "right"
