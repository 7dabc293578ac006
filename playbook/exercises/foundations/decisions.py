"""The exercise of the page "Decisions": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable, Iterable
from typing import Any

from playbook.kit.exercises import checker

HINTS = (
    "A record holds today if no pair has it on the right, whoever stands on the left.\n"
    "The standard library finds circles: look at the module `graphlib`.",
    "Check the names first. Then give each pair to a `TopologicalSorter`; `prepare` raises a\n"
    "CycleError, whose second argument is the circle. At last take away all old names.",
)

WRONG = (
    # no circles, no unknown names
    "def in_force(names, supersedes):\n    return sorted(set(names) - {old for _, old in supersedes})",
    # only a record that is in force itself supersedes another one
    """
def in_force(names, supersedes):
    dead = {old for new, old in supersedes if new not in {o for _, o in supersedes}}
    return sorted(set(names) - dead)
""",
    # finds circles of two only
    """
def in_force(names, supersedes):
    for new, old in supersedes:
        if new not in names or old not in names:
            raise ValueError(f"no record is called {new} or {old}")
        if (old, new) in supersedes:
            raise ValueError(f"{new} and {old} supersede each other")
    return sorted(set(names) - {old for _, old in supersedes})
""",
    # takes a circle for one as soon as nothing at all is left
    """
def in_force(names, supersedes):
    for name in [name for pair in supersedes for name in pair]:
        if name not in names:
            raise ValueError(f"no record is called {name}")
    left = set(names) - {old for _, old in supersedes}
    if not left:
        raise ValueError(f"these supersede each other: {sorted(names)}")
    return sorted(left)
""",
    # takes two records with one successor, or two successors of one record, for a mistake
    """
from graphlib import TopologicalSorter
def in_force(names, supersedes):
    if len({old for _, old in supersedes}) < len(supersedes):
        raise ValueError("a record is superseded twice")
    list(TopologicalSorter({new: [old] for new, old in supersedes}).static_order())
    return sorted(set(names) - {old for _, old in supersedes})
""",
)

NAMES = ("cookies", "jwt", "opaque tokens", "serial", "uuid")
RIGHT: tuple[tuple[list[tuple[str, str]], list[str], str], ...] = (
    ([], sorted(NAMES), "nothing is superseded"),
    ([("uuid", "serial")], ["cookies", "jwt", "opaque tokens", "uuid"], "uuid supersedes serial"),
    (
        [("opaque tokens", "jwt"), ("jwt", "cookies")],
        ["opaque tokens", "serial", "uuid"],
        "jwt supersedes cookies, and opaque tokens supersede jwt",
    ),
    (
        [("opaque tokens", "jwt"), ("opaque tokens", "cookies")],
        ["opaque tokens", "serial", "uuid"],
        "opaque tokens supersede jwt and cookies",
    ),
    ([("jwt", "cookies"), ("uuid", "cookies")], ["jwt", "opaque tokens", "serial", "uuid"], "two supersede cookies"),
)
CIRCLES = (
    [("jwt", "cookies"), ("cookies", "jwt")],
    [("uuid", "serial"), ("jwt", "cookies"), ("cookies", "opaque tokens"), ("opaque tokens", "jwt")],
    [("uuid", "uuid")],
)
IN_CIRCLE = ({"jwt", "cookies"}, {"jwt", "cookies", "opaque tokens"}, {"uuid"})
Answer = Callable[[Any, Any], Iterable[str]]


@checker
def check(in_force: Answer) -> str:
    """Ask for logs with chains, with circles, and with a name that is no record."""
    for pairs, wanted, words in RIGHT:
        try:
            found = list(in_force(set(NAMES), list(pairs)))
        except ValueError as error:
            return f"not yet: {words}, which is no mistake, and ValueError is raised: {error}"
        if found != wanted:
            return f"not yet: {words}; in force should be {', '.join(wanted)}, not {', '.join(found)}"
    for pairs, circle in zip(CIRCLES, IN_CIRCLE, strict=True):
        said = refusal(in_force, pairs)
        if said is None:
            return f"not yet: with the pairs {pairs} some records supersede each other, and no ValueError is raised"
        if not all(name in said for name in circle):
            return f"not yet: the error should name each record of the circle {sorted(circle)}, not say {said!r}"
    for pair in (("uuid", "guid"), ("guid", "uuid")):
        said = refusal(in_force, [pair])
        if said is None:
            return f"not yet: no record is called guid, and the pair {pair} is accepted"
        if "guid" not in said:
            return f"not yet: the error should name the record that does not exist, not say {said!r}"
    return "right"


def refusal(in_force: Answer, pairs: list[tuple[str, str]]) -> str | None:
    """What the ValueError says; None when there is none."""
    try:
        in_force(set(NAMES), list(pairs))
    except ValueError as error:
        return str(error)
    return None
