"""The first page of the packages by name, and one package, on DuckDB by look-ups: what most people ask for.

DuckDB reads no index in order: for twenty packages it sorts all of them. But an index it asks for what is `<=` a name.
So the name at the end of the page, as it was last time, is a hint: when enough packages come before it, the page is
among them, whatever has changed since. Otherwise the long way answers, and what it finds is the next hint.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from playbook.auth.authorization import Clause
from playbook.pantry.catalog import Package
from playbook.pantry.plans import Plans, condition_of, literal, one_of

TABLE = Package.metadata.tables["packages"]
# As text and as numbers: DuckDB gives these to Python in a fifth of the time of UUIDs and of times with a zone.
SHOWN = (
    "SELECT normalized_name, organization_id::VARCHAR, summary, private, popularity_rank, id::VARCHAR,"
    " epoch_us(created_at), epoch_us(updated_at) FROM packages"
)
PACKAGES = SHOWN + " WHERE normalized_name <= {} AND ({})"
PACKAGE = SHOWN + " WHERE normalized_name = {} AND ({})"
OWNERS = "SELECT id::VARCHAR, slug FROM organizations WHERE id IN "
# Its condition is on one column, or the index would not be asked: the yanked ones are left out here.
RELEASES = (
    "SELECT package_id::VARCHAR, is_prerelease, version_key, version, yanked_at IS NULL"
    " FROM releases WHERE package_id IN "
)
NEXT = "SELECT min(normalized_name) FROM packages WHERE normalized_name > {} AND ({})"
LAST = "\U0010ffff"  # after every name
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def newest_of(plans: Plans, ids: Sequence[str]) -> dict[str, str]:
    """The newest version of each package, by the rule of `packages.NEWEST`."""
    found = plans.rows(RELEASES + one_of(ids))
    found.sort(key=lambda row: (not row[1], row[2]))
    return {package: version for package, _, _, version, stands in found if stands}


def first_page(plans: Plans, visible: Clause, limit: int) -> list[tuple[Any, ...]] | None:
    """Rows like those of `packages.PACKAGES`, each with its name once more, and one more than `limit` if there is one.

    None when the hint is too low, or there is none.
    """
    if (end := plans.hints.get((first_page, limit))) is None:
        return None
    with plans.snapshot():
        condition = condition_of(visible, TABLE).text(plans)
        if condition is None:
            return None
        found = plans.rows(PACKAGES.format(literal(end), condition))
        if len(found) <= limit and end != LAST:
            return None
        found.sort()
        if len(found) > 4 * (limit + 1):
            plans.hints[first_page, limit] = found[2 * limit][0]
        found = found[: limit + 1]
        return completed(plans, found)


def one_package(plans: Plans, visible: Clause, name: str) -> list[tuple[Any, ...]] | None:
    """The package with the normalized `name`, as `first_page` gives its rows; none when it does not exist."""
    with plans.snapshot():
        condition = condition_of(visible, TABLE).text(plans)
        if condition is None:
            return None
        return completed(plans, plans.rows(PACKAGE.format(literal(name), condition)))


def completed(plans: Plans, found: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]] | None:
    """Rows of SHOWN with their owners and newest versions. None when an owner is not there."""
    if not found:
        return []
    owners: dict[str, str] = dict(plans.rows(OWNERS + one_of(sorted({row[1] for row in found}))))
    newest = newest_of(plans, [row[5] for row in found])
    if any(row[1] not in owners for row in found):
        return None
    return [
        (name, owners[owner], summary, private, rank, newest.get(id), time_of(created), time_of(updated), name)
        for name, owner, summary, private, rank, id, created, updated in found
    ]


def time_of(microseconds: int) -> datetime:
    return BEGINNING + timedelta(microseconds=microseconds)


def note_end(plans: Plans, visible: Clause, limit: int, last: str | None) -> None:
    """Note where a first page ends: with the package after `last`, or nowhere, when that is None."""
    condition = condition_of(visible, TABLE).text(plans)
    if condition is not None:
        after = last and plans.rows(NEXT.format(literal(last), condition))[0][0]
        plans.hints[first_page, limit] = after or LAST
