# %% [markdown]
"""
# Decisions

Write a decision so that a colleague can keep it, question it or end it two years later,
and compute how little would change it.

| | |
|---|---|
| **Use it when** | two people would choose differently, or a choice is hard to undo |
| **You need** | [start here](start_here.ipynb) (*background*) |
| **Time** | read 31 min, exercise 15 min |
| **Topics** | decision record, ADR, decision log, trade-off, sensitivity analysis |
| **Standard** | ISO/IEC/IEEE 42010:2022, 5.7 (architecture rationale) |

```python
from playbook.foundations.decisions import decisions_in, faults, flip, weigh

for decision in decisions_in(path.read_text(), path.stem):
    print(decision.page, decision.choice, decision.otherwise, faults(decision))

order = weigh(weights, points)  # options with their sums, best first
change = flip(weights, points)  # the smallest change of a weight that ends the lead
```

*Lift: 83 lines in 1 file; needs nothing.*

## See it break

A shop sends invoices. Each night a job calls `bill` for every customer:
"""

# %%
import sqlalchemy as sa

invoices = sa.Table(
    "invoices",
    sa.MetaData(),
    sa.Column("customer", sa.String),
    sa.Column("month", sa.String),
    sa.Column("euros", sa.Integer),
)
by_customer = (invoices.c.customer, invoices.c.month)
index = sa.Index("ix_invoices_1", *by_customer, unique=True)


def bill(engine, customer):
    row = {"customer": customer, "month": "2026-11", "euros": 19}
    try:
        with engine.begin() as connection:
            connection.execute(invoices.insert().values(row))
    except sa.exc.IntegrityError:
        pass


# %% [markdown]
"""
Two years later Ada looks for indexes that no query reads. This one was never read, and
it makes each insert slower. The commit that added it says "add index". All tests pass
without it, so she removes it. In the next night the machine stops the job after the
first customer, Grace, and starts it again.

The folded cell defines `night(with_index)`, which plays this night in a new database
and returns what each customer has to pay. `show` and `table` display it. Predict: who
pays how much without the index?
"""

# %% tags=["stage"]
from playbook.kit.lesson import lesson_folder, lesson_url, show, table


def night(with_index):
    engine = sa.create_engine(lesson_url(), poolclass=sa.QueuePool)
    invoices.create(engine)
    if not with_index:
        index.drop(engine)
    bill(engine, "Grace")  # stopped here, and started again
    for customer in ("Grace", "Linus"):
        bill(engine, customer)
    total = sa.select(invoices.c.customer, sa.func.sum(invoices.c.euros))
    with engine.connect() as connection:
        found = connection.execute(total.group_by(invoices.c.customer)).all()
    engine.dispose()
    return {customer: int(euros) for customer, euros in found}


# %% tags=["predict"]
nights = {"with the index": night(True), "without it": night(False)}
rows = [(name, paid["Grace"], paid["Linus"]) for name, paid in nights.items()]
show(table(rows, ["", "Grace pays", "Linus pays"]))

# %% [markdown]
"""
The index was not there to be read. It was a decision: a job that runs twice must not
bill twice. Ada measured, and she did nothing wrong. Code says what was chosen. It does
not say why, what was not chosen, or when to choose again.

## The decision

Where should a team write down why?

| option | good | costs |
|---|---|---|
| commit message, pull request | beside the change | nobody finds it two years later |
| a page in a wiki | easy to write | grows old apart from the code |
| numbered records (`adr-tools`) | dated, never edited | a folder that few people open |
| **beside the code, and a log** | readers of the code see it | a test for the form |

We choose a table **beside the code**, in the README or page of the part that it is
about. The log is gathered from these texts, so it cannot differ from them. Choose
numbered records when a decision concerns several repositories, or when an auditor asks
who decided and when.

## Build it

### The idea

A **decision record** holds what code cannot say: the options that were **not** chosen,
what each costs, and the condition for choosing again. As data it can be checked:
"""

# %% tags=["export"]
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One way to do it. `chosen`: its name is set in bold."""

    name: str
    good: str
    costs: str
    chosen: bool


@dataclass(frozen=True)
class Decision:
    """One choice, as a text states it. `otherwise`: when to choose differently."""

    page: str
    options: tuple[Option, ...]
    otherwise: str

    @property
    def choice(self) -> str:
        """The names of the chosen options."""
        return ", ".join(option.name for option in self.options if option.chosen)


# %%
container = Option("PostgreSQL", "as in production", "Docker", chosen=False)
duckdb = Option("DuckDB", "starts in process", "", chosen=True)
draft = Decision("database", (container, duckdb), otherwise="")
print(draft.choice)

# %% [markdown]
"""
This draft is not complete. `faults` says what a record lacks:
"""


# %% tags=["export"]
def faults(decision: Decision) -> list[str]:
    """What the record lacks, one line each. Empty for a complete one."""
    found = []
    if len(decision.options) < 2:
        found.append("fewer than two options: there was no choice")
    if not decision.choice:
        found.append("no option is set in bold")
    for option in decision.options:
        if not option.costs:
            found.append(f"{option.name} has no costs")
    if not decision.otherwise:
        found.append("no sentence 'Choose ... when ...'")
    return [f"{decision.page}: {fault}" for fault in found]


# %%
print(*faults(draft), sep="\n")

# %% [markdown]
"""
### Read it from a text

`decisions_in` reads Markdown, also the Markdown of a page of this course. It looks for
the heading `The decision`. Each table of options below this heading is one decision,
and its chosen option is set in bold. A sentence that begins with "Choose" or such a
verb, and has "when", "for" or "if", is the condition for choosing again.
"""

# %% tags=["export"]
import re

VERBS = "Choose|Use|Add|Keep|Take|Prefer"
CONDITION = "when|where|for|if|once|until|between|below|as soon as"
OTHERWISE = re.compile(rf"\b(?:{VERBS}) [^.]*\b(?:{CONDITION})\b[^.]*\.")


def options_in(rows: str) -> tuple[Option, ...]:
    """The options of a Markdown table with the columns option, good and costs."""
    options = []
    for row in rows.splitlines()[2:]:
        name, good, costs = (cell.strip() for cell in row.strip("|").split("|"))
        options.append(Option(name.strip("*"), good, costs, name.startswith("**")))
    return tuple(options)


def decisions_in(text: str, page: str) -> list[Decision]:
    """The decisions below the heading "## The decision", one per table of options."""
    section = re.search(
        r"^## The decision\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    if section is None:
        return []
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", section[1])  # links without targets
    tables = re.findall(r"^\| *option\b.*\n(?:\|.*\n)+", words, re.MULTILINE)
    prose = " ".join(re.sub(r"^\|.*\n", "", words, flags=re.MULTILINE).split())
    otherwise = " ".join(OTHERWISE.findall(prose))
    return [Decision(page, options_in(rows), otherwise) for rows in tables]


# %%
from playbook.kit.course import Course

[decision] = decisions_in(Course().get("decisions").source, "decisions")
print(decision.choice, decision.otherwise, faults(decision), sep="\n")

# %% [markdown]
"""
That was the decision of this page, from its own text.

### How close was it?

For a close choice, people give points to each option and weights to each criterion. The
sum decides. Here are the points for the decision of the page *Start here*:
"""

# %% tags=["export"]
from collections.abc import Mapping

Weights = Mapping[str, float]  # by criterion
Points = Mapping[str, Mapping[str, float]]  # by option and criterion, more is better


def weigh(weights: Weights, points: Points) -> list[tuple[str, float]]:
    """Options with their weighted sums, best first. Raises ValueError."""
    sums = []
    for option, given in points.items():
        missing = sorted(set(weights) - set(given))
        if missing:
            raise ValueError(f"{option} has no points for {', '.join(missing)}")
        total = sum(weight * given[name] for name, weight in weights.items())
        sums.append((option, total))
    return sorted(sums, key=lambda item: (-item[1], item[0]))


# %%
weights = {"easy start": 40, "like production": 35, "one dialect": 25}
container = {"easy start": 1, "like production": 5, "one dialect": 5}
sqlite = {"easy start": 5, "like production": 1, "one dialect": 5}
both = {"easy start": 5, "like production": 4, "one dialect": 2}
points = {"container": container, "SQLite": sqlite, "both": both}
show(table(weigh(weights, points), ["option", "sum"]))

# %% [markdown]
"""
Such a table looks like a proof. But the weights are opinions, so we ask how much one of
them may change before another option wins: a **sensitivity analysis**. The lead over a
rival is a sum: each weight times the difference in points. If one weight changes by
`change`, the lead changes by `change` times the difference there. So the lead is gone
at `-lead / difference`.
"""


# %% tags=["export"]
@dataclass(frozen=True)
class Flip:
    """The smallest change of one weight that lets `rival` draw level."""

    criterion: str
    change: float
    rival: str


def flip(weights: Weights, points: Points) -> Flip | None:
    """The nearest flip. No weight falls below 0; None if no change of one is enough."""
    (winner, best), *rivals = weigh(weights, points)
    flips = []
    for rival, total in rivals:
        for criterion, weight in weights.items():
            difference = points[winner][criterion] - points[rival][criterion]
            if difference == 0:
                continue
            change = -(best - total) / difference
            if weight + change >= 0:
                flips.append(Flip(criterion, change, rival))
    return min(flips, key=lambda one: (abs(one.change), one.criterion), default=None)


# %%
nearest = flip(weights, points)
print(nearest)

# %% [markdown]
"""
## See it work

The next cell does not use `flip`. It tries weights from 0 to 100 and prints the first
letter of the winner.
"""

# %%
print(f"{'':16} 0 {'':45} 100")
for criterion in weights:
    winners = ""
    for weight in range(0, 101, 2):
        tried = weights | {criterion: weight}
        winners += weigh(tried, points)[0][0][0]
    print(f"{criterion:16} {winners}")

# %% [markdown]
"""
For "one dialect" the winner changes far from today's weight 25. For "like production"
it changes near 25, and today's weight is 35. So this sentence belongs in the record: if
"like production" weighs only 25, SQLite is enough.

And this is the log of the foundations, gathered from their pages:
"""

# %%
log = []
for playbook in Course().playbooks:
    log += decisions_in(playbook.source, playbook.key)
foundations = [one for one in log if one.page.startswith("foundations/")]
show(table([(one.page, one.choice) for one in foundations], ["page", "chosen"]))

# %% [markdown]
"""
## Check it

The folded cell defines `winner(criterion, weight)`, the option that wins with this
weight, and `smaller_changes()`, the winners for changes of each weight that are smaller
than the flip. `decided` holds the pages of the course that have the section.
"""


# %% tags=["stage"]
def winner(criterion, weight):
    return weigh(weights | {criterion: weight}, points)[0][0]


def smaller_changes():
    found = set()
    for criterion, weight in weights.items():
        for percent in range(-99, 100, 3):
            change = abs(nearest.change) * percent / 100
            found.add(winner(criterion, weight + change))
    return found


decided = {one.key for one in Course().playbooks if "The decision" in one.sections}

# %%
incomplete = [fault for one in log for fault in faults(one)]
level = weights[nearest.criterion] + nearest.change
beyond = winner(nearest.criterion, level + 0.01 * nearest.change)

assert decided == {one.page for one in log}, "a decision is not in the log"
assert not incomplete, "a decision is not complete"
assert len(faults(draft)) == 2, "an incomplete record is accepted"
assert beyond == nearest.rival, "the lead does not end at the flip"
assert smaller_changes() == {"both"}, "a smaller change is enough"
print("each decision has its options, costs and end; the flip is where the lead ends")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `name.startswith("**")` | `False` | a decision is not complete |
| `if not option.costs:` | `if False:` | an incomplete record is accepted |
| `-(best - total)` | `(best - total)` | the lead does not end at the flip |

## Your turn

A record is never edited when a decision changes. A new record *supersedes* it: it takes
its place. So the log also tells what was tried before. Write `in_force`, which gives
the names of the records that hold today, sorted. `supersedes` holds pairs (new, old).

- A record does not come back when its successor is superseded too.
- If records supersede each other in a circle, raise ValueError with all their names.
- If a pair has a name that is no record, raise ValueError with this name.
"""


# %% tags=["exercise"]
def in_force(names, supersedes):
    return sorted(names)


# %%
from playbook.exercises.foundations.decisions import HINTS, check

check(in_force)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
from graphlib import CycleError, TopologicalSorter


def in_force(names, supersedes):
    graph = TopologicalSorter()
    for new, old in supersedes:
        for name in (new, old):
            if name not in names:
                raise ValueError(f"no record is called {name}")
        graph.add(new, old)
    try:
        graph.prepare()
    except CycleError as error:
        circle = ", ".join(error.args[1])
        raise ValueError(f"these supersede each other: {circle}") from None
    return sorted(set(names) - {old for _, old in supersedes})


assert check(in_force)

# %% [markdown]
"""
## Take it with you

`playbook lift decisions INTO` copies the recipe and its tests. It asks two things of
your project:

| seam | what you write |
|---|---|
| texts | Markdown as in *The decision* above: heading, table, "Choose ... when" |
| a test | the loop of the next cell, with `assert not faults(one)` |

The folded cell puts two records into a `folder`, as a repository keeps them in
`docs/decisions`.
"""

# %% tags=["stage"]
folder = lesson_folder()
TABLE = "| option | good | costs |\n|---|---|---|\n"
for name, rows in {
    "queue": "| Redis | fast | one more server |\n| **a table** | there | polling |\n",
    "search": "| **LIKE** | there | slow with many rows |\n",
}.items():
    text = (
        f"# {name}\n\n## The decision\n\n{TABLE}{rows}\nChoose Redis for two readers.\n"
    )
    (folder / f"{name}.md").write_text(text, encoding="utf-8")

# %%
for path in sorted(folder.glob("*.md")):
    for decision in decisions_in(path.read_text(encoding="utf-8"), path.stem):
        print(decision.page, "|", decision.choice, "|", faults(decision))

# %% [markdown]
"""
Two traps:

- Weights that were chosen after the points prove nothing. Agree on the weights first.
- `flip` changes one weight at a time. Two small changes together can be enough as well.

Hand it over:

- **Reviewer**: a change that is expensive to undo comes with options and their costs.
- **New colleagues**: look for "Choose ... when". If the condition holds today, the
  decision is open again.
- **Tests**: if only an index, a limit or a header keeps a rule, write a test for it and
  name the test after the reason.
- **Operations**: before you remove what looks unused, search the log.

## In short

Code shows what was chosen, so a record must hold the rest: the other options, their
costs, and when to choose again. A log that is gathered from the texts cannot differ
from them. The smallest change of a weight that ends the lead tells how close a choice
was.

## Sources

M. Nygard, "Documenting Architecture Decisions" (2011). J. Tyree and A. Akerman,
"Architecture Decisions: Demystifying Architecture", IEEE Software (2005). E.
Triantaphyllou and A. Sánchez, "A Sensitivity Analysis Approach for Some Deterministic
Multi-Criteria Decision-Making Methods", Decision Sciences (1997).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Start and stop](start_and_stop.ipynb) · [course map](../index.ipynb) · Next: [Profile the data](../schema/profile_data.ipynb)
"""
