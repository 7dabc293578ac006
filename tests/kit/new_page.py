"""A small course with one page that uses every role of a cell: text, exercise, executed notebook.

The package's kit is copied beside it, so that the page and its exercise are imported from the course itself.
"""

from pathlib import Path

import pytest
import small_course

from playbook.kit import maps, pairing
from playbook.kit.course import Course, Playbook

KEY = "api/clamp"
PAGE = '''\
# %% [markdown]
"""
# Clamp

Keep a number between its bounds. Whatever comes in, the result can be used.

| | |
|---|---|
| **Use it when** | a number comes from outside, such as `?limit=1000000` |
| **You need** | nothing |
| **Time** | read 8 min, exercise 10 min |
| **Topics** | bounds, clamp, limit |

```python
from playbook.api.clamp import Bounds, clamp

limit = clamp(wanted, Bounds(1, 100))
```

*Lift: 12 lines in 1 file; needs nothing.*

## See it break

The folded cell defines `rows_for(limit)`, which says how many rows a service reads.
A client asks for a million rows. Predict: how many does the service read?
"""

# %% tags=["stage"]
from collections import Counter


def rows_for(limit):
    return Counter(rows=limit)["rows"]


# %% tags=["predict"]
print(rows_for(1_000_000))

# %% [markdown]
"""
The service does what it is asked.

## The decision

| option | good | costs |
|---|---|---|
| in every caller | nothing to write | one caller forgets |
| **one function** | cannot be forgotten | a call |

We choose **one function**, because a rule belongs in one place.

## Build it

A pair of bounds refuses what makes no sense.
"""

# %% tags=["export"]
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """The lowest and the highest number allowed. Raises ValueError if they cross."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"{self.low} is above {self.high}")


# %%
refused = "accepted"
try:
    Bounds(9, 1)
except ValueError as error:
    refused = str(error)
print(refused)

# %% [markdown]
"""
The nearer bound replaces a number outside.
"""


# %% tags=["export"]
def clamp(number: int, bounds: Bounds) -> int:
    """`number`, or the nearer bound."""
    at_least_low = max(bounds.low, number)
    return min(bounds.high, at_least_low)


# %%
bounds = Bounds(1, 100)
print([clamp(number, bounds) for number in (-5, 7, 1_000_000)])

# %% [markdown]
"""
## See it work

The same client asks again.
"""

# %%
limit = clamp(1_000_000, bounds)
print(rows_for(limit))

# %% [markdown]
"""
## Check it
"""

# %%
assert refused == "9 is above 1", "crossed bounds were accepted"
for number in range(-5, 200):
    result = clamp(number, bounds)
    assert result >= 1, "a number is below its bound"
    assert result <= 100, f"{number} stays above its bound"
print("always between the bounds")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `self.low > self.high` | `self.low > self.high + 15` | crossed bounds were accepted |
| `max(bounds.low, number)` | `number` | a number is below its bound |
| `min(bounds.high, at_least_low)` | `at_least_low` | 101 stays above its bound |

## Your turn

Write `outside`: how far a number is from the nearer bound, and 0 within them.
"""


# %% tags=["exercise"]
def outside(number, bounds):
    """The distance of `number` from `bounds`."""
    raise NotImplementedError


# %%
from playbook.exercises.api.clamp import HINTS, check

check(outside)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def outside(number, bounds):
    return abs(number - clamp(number, bounds))


assert check(outside)

# %% [markdown]
"""
## Take it with you

`playbook lift clamp INTO` copies the recipe. It asks nothing of your project.

- **Reviewer**: one place knows the bounds.
- **Front end**: the answer says which limit was used.
- **Tests**: every result is between the bounds.

## In short

A number from outside is not used as it is. One function knows the bounds.

## Sources

None.
"""

# %% [markdown] tags=["nav"]
"""
(made by maps.py)
"""
'''
EXERCISE = '''\
"""The exercise of the page "Clamp"."""

from types import SimpleNamespace
from typing import Any

from playbook.kit.exercises import checker

HINTS = ("See 'Build it': `clamp` finds the nearer bound.", "The distance is the difference of two numbers.")
WRONG = (
    "def outside(number, bounds):\\n    return 0",
    "def outside(number, bounds):\\n    return max(0, number - bounds.high)",
    "def outside(number, bounds):\\n    return number - clamp(number, bounds)",
)


@checker
def check(outside: Any) -> str:
    """Ask for numbers below, within and above."""
    bounds = SimpleNamespace(low=1, high=10)
    for number, wanted in ((12, 2), (5, 0), (-3, 4)):
        found = outside(number, bounds)
        if found != wanted:
            return f"not yet: {number} is {wanted} outside of 1 to 10, and your answer is {found}"
    return "right"
'''


def make(root: Path, page: str = PAGE) -> Playbook:
    """The course at `root` with the page; its notebook is not executed yet."""
    small_course.start(root)
    toml = root / "playbook" / "course.toml"
    toml.write_text(
        toml.read_text(encoding="utf-8").replace("playbooks = []", 'playbooks = ["clamp"]'), encoding="utf-8"
    )
    small_course.with_kit(root)
    for name, text in ((f"{KEY}.py", page), (f"exercises/{KEY}.py", EXERCISE)):
        path = root / "playbook" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for package in ("api", "exercises", "exercises/api"):
        (root / "playbook" / package / "__init__.py").write_text('"""A package."""\n')
    maps.update(Course(root))
    return Course(root).get(KEY)


def store(playbook: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute the page and store its notebook; the kernel imports the package of the course at its root."""
    monkeypatch.setenv("PYTHONPATH", str(playbook.root))
    pairing.refresh(playbook)
