"""The exercise of the page "Representations": its checker, its two hints, and answers that are wrong."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

from playbook.api.representations import merge_patch
from playbook.kit.exercises import checker

HINTS = (
    "See 'Merge': three things can happen to a field of the patch. Your function goes the\n"
    "opposite way, so it has the same three cases, and a fourth: the field stayed.",
    "A field that is gone becomes null. A field that stayed is left out. If a field was an\n"
    "object and still is, its patch is made by the same function. Any other field is sent whole.",
)

# Plausible, and refused in words.
WRONG = (
    # Sends the whole document.
    "def make_patch(before, after):\n    return after",
    # Forgets what was removed.
    "def make_patch(before, after):\n"
    "    return {name: value for name, value in after.items() if before.get(name) != value}",
    # Sends inner objects whole.
    "def make_patch(before, after):\n"
    "    patch = {name: None for name in before if name not in after}\n"
    "    patch.update({name: value for name, value in after.items() if before.get(name) != value})\n"
    "    return patch",
    # Makes an empty patch for an inner object that stayed.
    "def make_patch(before, after):\n"
    "    patch = {name: None for name in before if name not in after}\n"
    "    for name, value in after.items():\n"
    "        if isinstance(before.get(name), dict) and isinstance(value, dict):\n"
    "            patch[name] = make_patch(before[name], value)\n"
    "        elif before.get(name) != value:\n"
    "            patch[name] = value\n"
    "    return patch",
    # Takes a new inner object, or one that was a text, for one that changed.
    "def make_patch(before, after):\n"
    "    patch = {name: None for name in before if name not in after}\n"
    "    for name, value in after.items():\n"
    "        if isinstance(value, dict):\n"
    "            inner = make_patch(before[name], value) if isinstance(before.get(name), dict) else value\n"
    "            if inner:\n"
    "                patch[name] = inner\n"
    "        elif before.get(name) != value:\n"
    "            patch[name] = value\n"
    "    return patch",
    # Changes the form's own document.
    "def make_patch(before, after):\n"
    "    patch = {}\n"
    "    for name in list(before):\n"
    "        if name not in after:\n"
    "            del before[name]\n"
    "            patch[name] = None\n"
    "    for name, value in after.items():\n"
    "        if isinstance(before.get(name), dict) and isinstance(value, dict) and before[name] != value:\n"
    "            patch[name] = make_patch(before[name], value)\n"
    "        elif before.get(name) != value:\n"
    "            patch[name] = value\n"
    "    return patch",
)

# RFC 7396, appendix A: target, patch, result.
RFC_7396: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

ADA = {"name": "Ada", "phone": "555-1", "address": {"city": "London", "zip": "NW1"}}
MOVED = {"name": "Ada", "phone": "555-1", "address": {"city": "London", "zip": "SE1"}}
VALUES: tuple[Any, ...] = (
    "x",
    7,
    [],
    ["x"],
    {},
    {"a": "x"},
    {"a": "y"},
    {"b": {"a": "x"}},
    {"b": {"c": 7}, "a": "x"},
    "",
)


@checker
def check(make_patch: Callable[[Any, Any], Any]) -> str:
    """Change a customer in every way, apply the patch, and look for what it names in vain."""
    cases = [
        (ADA, ADA | {"phone": "555-2"}),
        (ADA, {"name": "Ada", "address": ADA["address"]}),
        (ADA, MOVED),
        (ADA, ADA | {"address": {"city": "London"}}),
        (ADA, ADA),
    ]
    cases += [({"f": old}, {"f": new}) for old, new in itertools.product(VALUES, repeat=2)]
    cases += [({}, {"f": new}) for new in VALUES] + [({"f": old}, {}) for old in VALUES]
    for before, after in cases:
        given = copy.deepcopy((before, after))
        patch = make_patch(*given)
        if given != (before, after):
            return f"not yet: from {before} to {after}, your function changed the documents themselves"
        if not isinstance(patch, dict):
            return f"not yet: a patch of an object is an object, not {patch!r}"
        made = merge_patch(before, patch)
        if made != after:
            return f"not yet: from {before} to {after} your patch {patch} leads to {made}"
        if in_vain := _in_vain(before, patch):
            return f"not yet: from {before} to {after} your patch {patch} names {in_vain!r}, which it need not"
    return "right"


def _in_vain(before: Any, patch: dict[str, Any]) -> str:
    """The first field of `patch` that changes nothing, or sends what an inner patch would leave out."""
    for name, value in patch.items():
        old = before.get(name)
        if name in before and merge_patch({name: old}, {name: value}) == {name: old}:
            return name
        if name not in before and value is None:
            return name
        if isinstance(old, dict) and isinstance(value, dict) and (inner := _in_vain(old, value)):
            return f"{name}.{inner}"
    return ""
