# %% [markdown]
"""
# Decisions

Write a decision so that somebody who was not there can keep it, question it, or end it.

| | |
|---|---|
| **Use it when** | two people would choose differently, or the choice costs more than a day to undo |
| **You need** | nothing |
| **Time** | 15 minutes |
| **Topics** | architecture decision record, adr, decision log, trade-off, weighted scoring, decision matrix, sensitivity analysis, rationale, technical debt |
| **Standard** | ISO/IEC/IEEE 42010:2022, 5.7 (architecture rationale) |
"""

# %% [markdown]
"""
## The decision

| option | good | costs |
|---|---|---|
| the code says it all | nothing to write | code says what was chosen, never what was not, nor what would change the mind |
| a wiki page | easy to write, easy to find for a year | ages apart from the code; nobody dares to correct it |
| a numbered record per decision (M. Nygard's ADR) | dated, never edited, superseded by the next | a folder of its own; readers of the code do not come by |
| **the decision in the page that builds it, and a log gathered from all pages** | whoever opens the code meets the reason; the log cannot drift | each page must keep one form, so a test holds it |

We take the **last**: every playbook has a section "The decision" with its options, what each costs, the choice in
bold, and a sentence that says when to choose otherwise. Choose numbered records when decisions concern several
repositories, or when an auditor asks who decided, and when.
"""

# %% [markdown]
"""
## See it break

An audit lists indexes that no query uses. One of them is on invoices. It was never read in two years, it makes every
insert slower, and the commit that added it says "add index". Before you run the cell: what can go wrong if it is
dropped?
"""

# %%
import sqlalchemy as sa

from playbook.foundations.database import make_engine
from playbook.kit.lesson import checker, lesson_url, show, table

demo = sa.MetaData()
invoices = sa.Table(
    "invoices",
    demo,
    sa.Column("customer", sa.String),
    sa.Column("month", sa.String),
    sa.Column("cents", sa.Integer),
    sa.Index("ix_invoices_customer_month", "customer", "month", unique=True),
)
engine = make_engine(lesson_url())
demo.create_all(engine)


def bill_everybody():
    """The nightly job. It was killed last night after the first customer, so it runs again."""
    for customer in ("ada", "grace"):
        try:
            with engine.begin() as connection:
                connection.execute(invoices.insert().values(customer=customer, month="2026-11", cents=1900))
        except sa.exc.IntegrityError:
            pass  # billed already


def billed():
    total = sa.select(invoices.c.customer, sa.func.sum(invoices.c.cents)).group_by("customer").order_by("customer")
    with engine.connect() as connection:
        return {customer: cents / 100 for customer, cents in connection.execute(total)}


bill_everybody()
bill_everybody()
print("with the index:   ", billed())
with engine.begin() as connection:
    connection.execute(sa.text("DROP INDEX ix_invoices_customer_month"))
bill_everybody()
print("after the clean-up:", billed())

# %% [markdown]
"""
The index was not there to be read. It was the decision "a job that is run again must not bill again", and the only
trace of it was a name. Whoever removed it did everything right: they measured, they saw no use, no test failed.

## Build it

A record is data, so that it can be listed, searched and checked. It holds the two things code cannot: the options that
were **not** taken, and the condition under which the choice should be looked at again.
"""

# %% tags=["export"]
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One way to do it. `chosen`: the row is set in bold."""

    name: str
    good: str
    costs: str
    chosen: bool


# %% tags=["export"]
@dataclass(frozen=True)
class Decision:
    """One choice among two or more options, as a page states it. `otherwise`: when to choose differently."""

    page: str
    options: tuple[Option, ...]
    otherwise: str

    @property
    def choice(self) -> str:
        """The chosen option; several are joined by a comma."""
        return ", ".join(option.name for option in self.options if option.chosen)

    def faults(self) -> list[str]:
        """What the record lacks, one line each; empty for a complete one."""
        found = []
        if not 2 <= len(self.options) <= 5:
            found.append(f"{self.page}: {len(self.options)} options; without two there was no choice")
        if not self.choice:
            found.append(f"{self.page}: no option is set in bold, so nobody knows what was chosen")
        if any(not option.costs for option in self.options):
            found.append(f"{self.page}: an option without costs has not been thought about")
        if not self.otherwise:
            found.append(f"{self.page}: no sentence 'Choose ... when ...' says when to choose otherwise")
        return found


# %% [markdown]
"""
The log is gathered, never written: a second copy of a reason is the one that is wrong. `decisions_in` reads the form
that every page of this course has, a table `option | good | costs` with the choice in bold, in any Markdown text or
percent script. Several tables in a section are several decisions.
"""

# %% tags=["export"]
ROW = re.compile(r"^\|(.+)\|(.+)\|(.+)\|$")


def _options(lines: list[str]) -> tuple[Option, ...]:
    cells = [[part.strip() for part in match.groups()] for line in lines if (match := ROW.match(line))]
    return tuple(
        Option(name.strip("*"), good, costs, name.startswith("**"))
        for name, good, costs in cells
        if name != "option" and not set(name) <= {"-", ":"}
    )


def decisions_in(text: str, page: str) -> list[Decision]:
    """The decisions of one page: its section "## The decision", a Decision for each table of options.

    `text` is Markdown or a percent script. Returns an empty list for a page without the section.
    """
    section = re.search(r"^## The decision\n(.*?)(?=^## |^# %%.*\n\"\"\"\n## |\Z)", text, re.M | re.S)
    if section is None:
        return []
    tables = re.findall(r"(?:^\|.*\n)+", section[1], re.M)
    prose = " ".join(re.sub(r"^\|.*\n", "", section[1], flags=re.M).split())
    otherwise = re.findall(r"(?:Choose|Add|Keep|Take) [^.]*\b(?:when|where|for|below|as soon as)\b[^.]*\.", prose)
    return [Decision(page, _options(rows.splitlines()), " ".join(otherwise)) for rows in tables]


# %% [markdown]
"""
Some choices are close. Then people write a table of criteria, weights and points, and the winner is announced. What
the table rarely shows is how *little* would change the winner. `flip` computes it: the smallest change of one weight
that makes another option win. A choice that flips when "speed" weighs 5 points more was no choice but a mood.

The winner's lead over a rival is the sum, over all criteria, of the weight times the difference in points. Change one
weight, and the lead changes by that change times the difference there. So it is gone at minus the lead, divided by the
difference.
"""

# %% tags=["export"]
from collections.abc import Mapping

Points = Mapping[str, Mapping[str, float]]  # option -> criterion -> points, more is better


@dataclass(frozen=True)
class Flip:
    """The smallest change of one criterion's weight that lets `rival` draw level with the winner."""

    criterion: str
    change: float
    rival: str


def weigh(weights: Mapping[str, float], points: Points) -> list[tuple[str, float]]:
    """Options with their weighted sums, best first. Raises ValueError when an option lacks points for a criterion."""
    for option, given in points.items():
        if missing := set(weights) - set(given):
            raise ValueError(f"{option} has no points for {', '.join(sorted(missing))}")
    sums = {option: sum(weight * given[c] for c, weight in weights.items()) for option, given in points.items()}
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))


def flip(weights: Mapping[str, float], points: Points) -> Flip | None:
    """The smallest change of one weight (not below 0) that ends the winner's lead; None when none does."""
    (winner, best), *others = weigh(weights, points)
    flips = []
    for rival, total in others:
        for criterion, weight in weights.items():
            difference = points[winner][criterion] - points[rival][criterion]
            change = -(best - total) / difference if difference else None
            if change is not None and weight + change >= 0:
                flips.append(Flip(criterion, change, rival))
    return min(flips, key=lambda f: (abs(f.change), f.criterion), default=None)


# %% [markdown]
"""
## See it work

The choice of [database](database.ipynb), weighed. Points from 1 to 5, weights add up to 100.
"""

# %%
WEIGHTS = {"starts without set-up": 40, "same engine as production": 35, "one code path": 25}
POINTS = {
    "PostgreSQL in a container": {"starts without set-up": 1, "same engine as production": 5, "one code path": 5},
    "embedded for development only": {"starts without set-up": 5, "same engine as production": 1, "one code path": 1},
    "one set of models, two engines": {"starts without set-up": 5, "same engine as production": 3, "one code path": 4},
}
show(table([(name, int(total)) for name, total in weigh(WEIGHTS, POINTS)], columns=["option", "weighted points"]))
nearest = flip(WEIGHTS, POINTS)
print(
    f"{nearest.rival} draws level when {nearest.criterion!r} weighs {WEIGHTS[nearest.criterion] + nearest.change:.0f}"
)

# %% [markdown]
"""
That sentence belongs into the record. When starting without set-up weighs 24 instead of 40, because everybody has Docker
anyway, the decision should be made again. And here is the log of this course, gathered from its pages.
"""

# %%
from playbook.kit.course import Course

log = [decision for playbook in Course().playbooks for decision in decisions_in(playbook.source, playbook.name)]
show(table([(d.page, d.choice, len(d.options)) for d in log], columns=["page", "chosen", "options"]))

# %% [markdown]
"""
## Check it

Every page of the course decides something, and every record is complete. A page that lacks its reasons turns this red.
"""

# %%
missing = {playbook.name for playbook in Course().playbooks} - {decision.page for decision in log}
assert not missing, f"no decision in {sorted(missing)}"
faults = [fault for decision in log for fault in decision.faults()]
assert not faults, "\n".join(faults)

winner = weigh(WEIGHTS, POINTS)[0][0]
for step in (0.99, 1.01):
    changed = WEIGHTS | {nearest.criterion: WEIGHTS[nearest.criterion] + nearest.change * step}
    assert (weigh(changed, POINTS)[0][0] == winner) == (step < 1), "flip is not where the winner changes"
for criterion, weight in WEIGHTS.items():
    for percent in range(-99, 100):
        change = abs(nearest.change) * 0.99 * percent / 100
        assert weigh(WEIGHTS | {criterion: weight + change}, POINTS)[0][0] == winner, "a smaller change flips it"
assert decisions_in("# A page without reasons\n", "page") == []
print(
    "every page has its decision, every decision its options, costs and end; flip is the smallest change that matters"
)

# %% [markdown]
"""
## Your turn

A record is never edited when a decision changes. A new one *supersedes* it, so that the log tells the story. Given
pairs (new, old), write `in_force(names, supersedes)`: the decisions that hold today, sorted. Mind three mistakes people
make in real logs: a decision superseded by one that was itself superseded is still dead; two records that supersede
each other leave nothing in force and must be reported, by ValueError naming both; and so must a name nobody wrote.
"""


# %% tags=["exercise"]
def in_force(names: set[str], supersedes: list[tuple[str, str]]) -> list[str]:
    return sorted(names - {old for _, old in supersedes})


# %%
@checker
def check_in_force(in_force) -> str:
    names = {"cookies", "jwt", "opaque tokens", "uuid", "serial"}
    chain = [("jwt", "cookies"), ("opaque tokens", "jwt"), ("uuid", "serial")]
    if in_force(names, []) != sorted(names):
        return "not yet: when nothing was superseded, everything holds"
    if in_force(names, chain) != ["opaque tokens", "uuid"]:
        return "not yet: cookies, then jwt, then opaque tokens; serial, then uuid: two decisions hold"
    circles = [[("jwt", "cookies"), ("cookies", "jwt")], [("jwt", "cookies"), ("cookies", "uuid"), ("uuid", "jwt")]]
    for circle in [*circles, [("uuid", "uuid")]]:
        try:
            in_force(names, circle)
            return f"not yet: {' and '.join(sorted({a for a, _ in circle}))} supersede each other, so somebody erred"
        except ValueError as error:
            if not all(a in str(error) for a, _ in circle):
                return f"not yet: the error must name every record of the circle, and says {str(error)!r}"
    try:
        in_force(names, [("uuid", "guid")])
    except ValueError as error:
        return "right" if "guid" in str(error) else "not yet: the error must name the record that does not exist"
    return "not yet: nobody wrote a record called guid"


check_in_force(in_force)

# %% tags=["solution"]
from graphlib import CycleError, TopologicalSorter


def in_force(names: set[str], supersedes: list[tuple[str, str]]) -> list[str]:
    if unknown := {name for pair in supersedes for name in pair} - names:
        raise ValueError(f"no record is called {', '.join(sorted(unknown))}")
    graph = TopologicalSorter()
    for new, old in supersedes:
        graph.add(new, old)
    try:
        graph.prepare()
    except CycleError as error:
        raise ValueError(f"these supersede each other: {', '.join(error.args[1])}") from None
    return sorted(names - {old for _, old in supersedes})


assert check_in_force(in_force)

# %% [markdown]
"""
## Hand it over

- **Reviewer**: a change that is expensive to undo comes with options and costs, or goes back. "We always do it so" is not a cost.
- **Whoever inherits this**: look for "Choose ... when": if its condition holds today, the decision is open again.
- **Test engineer**: a rule that only an index, a limit or a header enforces gets a test with its reason as name.
- **Operator**: before you remove something unused, search the log for its name.

## Sources

M. Nygard, "Documenting Architecture Decisions" (2011). ISO/IEC/IEEE 42010:2022, 5.7. J. Tyree and A. Akerman, "Architecture
Decisions: Demystifying Architecture" (IEEE Software, 2005). E. Triantaphyllou and A. Sánchez, "A Sensitivity Analysis
Approach for Some Deterministic Multi-Criteria Decision-Making Methods" (Decision Sciences, 1997).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [HTTP service](http_service.ipynb) · [course map](../index.ipynb) · Next: [Profile the data](../schema/profile_data.ipynb)
"""
