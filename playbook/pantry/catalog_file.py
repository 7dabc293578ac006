"""Load a catalogue file, `rank,name,version,last_release`, into the packages and releases of one organization.

The recipe `bulk_load` reads, checks and moves. Here is what it cannot know: which values Pantry takes, that nobody
loads into somebody else's package, and that a package must not be deleted while it gets a release.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from packaging.version import Version
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.engines import Base, Timestamp
from playbook.foundations.transactions import somebody_was_first, transaction
from playbook.foundations.write_skew import hold
from playbook.pantry.catalog import Package, Release
from playbook.schema.bulk_load import Condition, Plan, Row, drop_staging, move, repeated, stage, staging
from playbook.schema.identity import Organization
from playbook.schema.natural_keys import name_key, version_key

HEADER = ("rank", "name", "version", "last_release")
MORE = ("package_id", "release_id", "normalized_name", "version_key", "is_prerelease", "released_at")
raw = staging(HEADER, MORE)
TABLES = Base.metadata.tables
MAX_RANK = 2**31 - 1
# Blanks of all widths around a value are no part of it (Unicode's category Zs), but no other white space is.
BLANKS = " \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
RANK = re.compile("[1-9][0-9]{0,9}")
VERSION = re.compile("[!-~]+")
MONTH = re.compile("(19|20)[0-9]{2}-(0[1-9]|1[0-2])")


class CatalogFileError(ValueError):
    """The file as a whole cannot be read: it is missing, cut short, not UTF-8, or has other columns."""


@dataclass(frozen=True)
class RejectedRow:
    """A row that was not loaded. `line` is the one on which it begins, counted from 1 as an editor does."""

    line: int
    name: str
    reason: str


@dataclass(frozen=True)
class LoadReport:
    """What a load did, in rows. `read` = loaded or unchanged + rejected."""

    read: int
    packages_added: int
    packages_changed: int
    releases_added: int
    rejected: tuple[RejectedRow, ...]


@lru_cache(maxsize=2**16)
def version_columns(text: str) -> dict[str, str]:
    """The columns that follow from a version. Raises ValueError for what is none."""
    if not VERSION.fullmatch(text):
        raise ValueError("not a version (PEP 440)")
    return {"version_key": version_key(text), "is_prerelease": str(Version(text).is_prerelease)}


def check_name(name: str) -> str:
    """The key of a name. Raises ValueError with a reason."""
    if not name:
        raise ValueError("no name")
    key = name_key(name)
    if len(name) > 100:
        raise ValueError("a name of more than 100 letters")
    return key


def check_version(version: str) -> dict[str, str]:
    """The columns that follow from a version. Raises ValueError with a reason."""
    if not version:
        raise ValueError("no version")
    if len(version) > 200:
        raise ValueError("a version of more than 200 letters")
    return version_columns(version)


def ids_after(first: UUID) -> Iterator[str]:
    """Texts of UUIDv7 after `first`, of its time, each greater by a random step, as `Identifiers` makes them.

    `Identifiers.new` asks the clock and takes a lock for each: for 30,000 that is a fifth of the load.
    """
    time, tail = first.int >> 80, (first.int >> 64) % 2**12 << 62 | first.int % 2**62
    while True:
        tail += 1 + secrets.randbits(32)
        high, low = divmod(tail, 2**62)
        yield f"{time:012x}7{high:03x}{2**63 | low:016x}"


def preparing(ids: Iterator[str]) -> Callable[[Row], None]:
    """What `stage` calls for each row: it strips, checks and completes the values."""

    def prepare(row: Row) -> None:
        for name in HEADER:
            row[name] = row[name].strip(BLANKS)
        row["normalized_name"] = check_name(row["name"])
        row.update(check_version(row["version"]))
        if not MONTH.fullmatch(row["last_release"]):
            raise ValueError("last_release is not a month such as 2026-10")
        row["released_at"] = f"{row['last_release']}-01 00:00:00+00"
        if not RANK.fullmatch(row["rank"]) or int(row["rank"]) > MAX_RANK:
            raise ValueError("rank is not a positive whole number")
        row["package_id"], row["release_id"] = next(ids), next(ids)

    return prepare


def plan_of_packages(organization_id: UUID, now: datetime) -> Plan:
    """The packages that are new, and the ranks that have changed.

    A row whose package belongs to another organization is refused: otherwise whoever can import a file could publish
    under anybody's name.
    """
    same_name = Package.normalized_name == raw.c.normalized_name
    checks: list[tuple[str, Condition]] = [
        ("same package as on an earlier line", repeated(raw, raw.c.normalized_name)),
        (
            "the package belongs to another organization",
            sa.exists().where(same_name, Package.organization_id != organization_id),
        ),
    ]
    at = sa.literal(now, Timestamp())
    rows = sa.select(
        sa.cast(raw.c.package_id, sa.Uuid()).label("id"),
        sa.literal(organization_id, sa.Uuid()).label("organization_id"),
        raw.c.name,
        raw.c.normalized_name,
        sa.cast(raw.c.rank, sa.Integer).label("popularity_rank"),
        sa.literal(1).label("version"),
        at.label("created_at"),
        at.label("updated_at"),
    )
    return Plan(
        raw,
        checks,
        TABLES["packages"],
        rows,
        key=["normalized_name"],
        changes=["popularity_rank"],
        also={"version": Package.version + 1, "updated_at": now},
        prepare=preparing(ids_after(Identifiers(FixedClock(now)).new())),
    )


def plan_of_releases(organization_id: UUID, now: datetime) -> Plan:
    """The releases that are new. What is there and equal is left alone."""
    same = sa.and_(Package.normalized_name == raw.c.normalized_name, Package.organization_id == organization_id)
    rows = sa.select(
        sa.cast(raw.c.release_id, sa.Uuid()).label("id"),
        Package.id.label("package_id"),
        raw.c.version,
        raw.c.version_key,
        sa.cast(raw.c.is_prerelease, sa.Boolean).label("is_prerelease"),
        sa.cast(raw.c.released_at, Timestamp()).label("released_at"),
        sa.literal(now, Timestamp()).label("created_at"),
    ).join_from(raw, Package, same)
    return Plan(raw, [], TABLES["releases"], rows, key=["package_id", "version_key"])


def hold_packages(db: sa.Connection, organization_id: UUID) -> None:
    """Keep the packages that will get a release until the commit. New ones, which come later, nobody can delete."""
    there = sa.exists().where(Release.package_id == Package.id, Release.version_key == raw.c.version_key)
    mine = [Package.normalized_name == raw.c.normalized_name, Package.organization_id == organization_id]
    held = sa.update(Package).where(*mine, raw.c.reason == "", ~there).values(version=Package.version)
    db.execute(held.returning(Package.id))


def load_catalog(
    engine: sa.Engine, path: Path, organization_id: UUID, now: datetime, step: Callable[[str], None] = lambda name: None
) -> LoadReport:
    """Load the packages and latest releases of a catalogue file into one organization, all in one transaction.

    `step` is called with "read", "packages", "releases" and "done", in this order. Raises CatalogFileError for a file
    that cannot be read, ValueError without the organization; then, and at any other error, nothing is loaded. When two
    people load at once, one of them meets a name that was not there a moment ago, and the next attempt sees it.
    """

    def work(session: orm.Session) -> LoadReport:
        db = session.connection()
        if not hold(session, Organization.id, organization_id):
            raise ValueError(f"there is no organization {organization_id}: give the id of one that exists")
        step("read")
        packages = plan_of_packages(organization_id, now)
        try:
            read, refused = stage(db, path, packages)
        except (ValueError, OSError) as error:
            to_do = "nothing was loaded; mend the file, or export it again as CSV in UTF-8"
            raise CatalogFileError(f"{path.name} cannot be read as {','.join(HEADER)}: {error}; {to_do}") from None
        step("packages")
        hold_packages(db, organization_id)
        added, changed = move(db, packages)
        step("releases")
        releases, _ = move(db, plan_of_releases(organization_id, now))
        drop_staging(db)
        rejected = tuple(RejectedRow(row["line"], row["name"], row["reason"]) for row in refused)
        return LoadReport(read, added, changed, releases, rejected)

    report = transaction(engine, work, retry=somebody_was_first)
    step("done")
    return report
