"""What a cell binds, and what it needs from the cells before it."""

import pytest

from playbook.kit import scopes


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b\nimport c as d\nfrom e import f, g as h", {"a", "d", "f", "h"}),
        ("def f(x):\n    y = x\nclass C:\n    z = 1", {"f", "C"}),
        ("a, (b, *c) = x\nd: int = 1\ne += 1", {"a", "b", "c", "d", "e"}),
        ("for i in x:\n    j = i\nwith x as k:\n    pass", {"i", "j", "k"}),
        ("[n for n in x]\nlambda m: m", set()),
        ("if (w := f()):\n    pass", {"w"}),
    ],
)
def test_binds(source: str, names: set[str]) -> None:
    assert scopes.binds(source) == names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("print(a)", {"print", "a"}),
        ("import a\na.b(c)", {"c"}),
        ("a = 1\na + b", {"b"}),
        ("a = a + 1", {"a"}),
        ("a += 1", {"a"}),
        ("print(a)\na = 1", {"a", "print"}),
        ("for a in b:\n    a", {"b"}),
        ("for a in a:\n    pass", {"a"}),
        ("with b as a:\n    a", {"b"}),
        ("def f(x, y=d):\n    z = x\n    return z + g + y", {"d", "g"}),
        ("def f():\n    return later()\ndef later(): pass", set()),
        ("@mark\nclass C(Base):\n    x: Type = 1\n    y = x", {"mark", "Base", "Type"}),
        ("[n + m for n in x]", {"m", "x"}),
        ("f'{a!r:{b}}'", {"a", "b"}),
    ],
)
def test_needs(source: str, names: set[str]) -> None:
    assert set(scopes.needs(source)) == names


def test_the_line_is_that_of_the_first_use() -> None:
    assert scopes.needs("x = 1\nprint(a)\nprint(a)")["a"] == 2
