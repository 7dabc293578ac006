"""Exercises outside of their pages: `playbook/exercises/TRACK/NAME.py` has the checker, two hints and wrong answers.

The module is plain Python: `check(work)`, made with `playbook.kit.exercises.checker`; `HINTS`, two texts (where to
look; the idea); `WRONG`, at least three plausible wrong answers as source text, which `check` refuses in words.
"""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from playbook.kit import hook
from playbook.kit.course import Playbook
from playbook.kit.data import ROOT
from playbook.kit.errors import InputError
from playbook.kit.exercises import Verdict
from playbook.kit.reading import cells

HINTS, WRONG = 2, 3  # how many: exactly, at least


@dataclass(frozen=True)
class Exercise:
    """What the module of a page's exercise holds."""

    check: Callable[..., Verdict]
    hints: tuple[str, ...]
    wrong: tuple[str, ...]
    module: ModuleType


def place(playbook: Playbook) -> Path:
    """Where the module of the page's exercise is."""
    return playbook.root / "playbook" / "exercises" / f"{playbook.key}.py"


def faults(playbook: Playbook) -> list[tuple[int, str, str]]:
    """What is wrong with the form of the module: (line, what, what to do). The module is read, not run."""
    path = place(playbook)
    if not path.is_file():
        return [(1, "does not exist", "put the checker, the hints and three wrong answers of the exercise there")]
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return [(error.lineno or 1, f"not Python: {error.msg}", "correct it")]
    lines = path.read_text(encoding="utf-8").split("\n")
    found = [
        (number, f"unfinished: {line.strip()[:60]}", "write it")
        for number, line in enumerate(lines, 1)
        if re.search(r"\bTODO\b", line)
    ]
    if not any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
        found.append((1, "has no function `check`", "write `@checker` and `def check(work) -> str`"))
    for name, least, most in (("HINTS", HINTS, HINTS), ("WRONG", WRONG, 99)):
        texts, line = _texts(tree, name)
        if texts is None:
            found.append((line, f"has no tuple of texts {name}", f"write `{name} = (...)`, with texts as they are"))
        elif not least <= len(set(texts)) <= most or len(texts) != len(set(texts)):
            many = f"{least}" if least == most else f"at least {least}"
            found.append((line, f"{len(set(texts))} different texts in {name}", f"write {many}"))
    return found


def _texts(tree: ast.Module, name: str) -> tuple[list[str] | None, int]:
    """The texts assigned to `name` at the top level, and the line; None when there is no such tuple or list."""
    for node in tree.body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            try:
                value = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                return None, node.lineno
            if isinstance(value, (tuple, list)) and all(isinstance(text, str) and text.strip() for text in value):
                return list(value), node.lineno
            return None, node.lineno
    return None, 1


def hints(playbook: Playbook) -> tuple[str, ...]:
    """The hints of the page's exercise. The module is read, not run. Raises InputError when there are none."""
    path = place(playbook)
    if not path.is_file():
        raise InputError(f"{playbook.key} has no exercise, so there are no hints and no solution")
    try:
        texts, _ = _texts(ast.parse(path.read_text(encoding="utf-8")), "HINTS")
    except SyntaxError:
        texts = None
    if texts is None:
        raise InputError(f"playbook/exercises/{playbook.key}.py has no hints that can be read: see `playbook check`")
    return tuple(texts)


def solution(playbook: Playbook) -> str:
    """The code that solves the page's exercise. Raises InputError when the page has no exercise."""
    found = [cell.content.strip() for cell in cells(playbook) if "solution" in cell.tags]
    if not found:
        raise InputError(f"{playbook.key} has no exercise, so there are no hints and no solution")
    return "\n\n\n".join(found)


def load(playbook: Playbook) -> Exercise:
    """The exercise of a page. Raises InputError when its module is missing or has not the form."""
    where = f"playbook/exercises/{playbook.key}.py"
    for line, what, to_do in faults(playbook):
        raise InputError(f"{where}:{line}: {what}; {to_do}")
    if playbook.root == ROOT:
        module = importlib.import_module(f"playbook.exercises.{playbook.key.replace('/', '.')}")
    else:
        spec = importlib.util.spec_from_file_location(f"exercise_{playbook.name}", place(playbook))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return Exercise(module.check, tuple(module.HINTS), tuple(module.WRONG), module)


def call(playbook: Playbook) -> str:
    """How the page calls its checker: the expression that the solution asserts, like `check(comes_after)`.

    Raises InputError when the solution does not end with it.
    """
    for cell in cells(playbook):
        if "solution" in cell.tags:
            last = ast.parse(cell.content).body[-1]
            if isinstance(last, ast.Assert):
                return ast.unparse(last.test)
    raise InputError(f"playbook/{playbook.key}.py: no solution that ends with `assert check(...)`; write it so")


def recipe(playbook: Playbook) -> dict[str, Any]:
    """The names that the page exports, as an import gives them."""
    if playbook.root == ROOT:
        return dict(vars(importlib.import_module(playbook.module)))
    module = ModuleType(f"exported_{playbook.name}")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(hook.exported(playbook.source), str(playbook.text), "exec"), vars(module))
    return dict(vars(module))


def verdict(playbook: Playbook, answer: str) -> Verdict:
    """What the checker says to an answer, a source text. It may use the page's exports and the exercise's module.

    Raises InputError for a page or a module that has not the form.
    """
    exercise = load(playbook)
    names = recipe(playbook) | vars(exercise.module)
    exec(compile(answer, f"<wrong answer of {playbook.name}>", "exec"), names)
    found = eval(call(playbook), names)
    if not isinstance(found, Verdict):
        raise InputError(f"playbook/exercises/{playbook.key}.py: `check` is no checker; put `@checker` above it")
    return found
