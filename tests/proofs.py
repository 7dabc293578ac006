"""Which test proves which requirement: `python tests/proofs.py` writes tests/PROOFS.md from the marks in the tests.

A test is marked `@pytest.mark.proves("ASVS 7.2.4", "NIST 800-63B-4 3.1.1.2")`. A requirement that no test of this
course can prove stands in ELSEWHERE with the reason.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS / "PROOFS.md"

# What the auth flows must hold at least: OWASP ASVS 5.0.
REQUIRED = (
    [f"ASVS 3.3.{n}" for n in range(1, 5)]
    + [f"ASVS 6.2.{n}" for n in range(1, 13)]
    + [f"ASVS {n}" for n in ("6.3.1", "6.3.2", "6.3.7", "6.3.8", "6.4.2", "7.2.3", "7.2.4", "7.3.1", "7.3.2")]
    + [f"ASVS 7.4.{n}" for n in range(1, 5)]
    + [f"ASVS {n}" for n in ("8.2.1", "8.2.2", "8.2.3", "8.3.1", "8.3.2", "8.4.1")]
    + [f"ASVS 6.5.{n}" for n in range(1, 6)]
    + ["ASVS 6.6.3", "ASVS 7.5.1", "ASVS 7.5.2", "ASVS 7.5.3"]
)
ELSEWHERE = {
    "ASVS 6.2.6": "a password field is `type=password`: the front end's; this service sends no form",
    "ASVS 6.2.7": "pasting and password managers: the front end's; this service sends no form",
}


def order(requirement: str) -> tuple[object, ...]:
    """ASVS 6.2.2 before ASVS 6.2.10."""
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"\d+|[^\d.]+", requirement))


def marks(decorator: ast.expr) -> list[str]:
    """The requirements of one decorator; empty for any other."""
    if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("mark.proves"):
        return []
    return [ast.literal_eval(argument) for argument in decorator.args]


def proofs(folder: Path = TESTS) -> dict[str, list[str]]:
    """The tests that prove each requirement: `auth/test_sessions.py::test_asvs_7_2_4_...`, in order."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for requirement in (mark for decorator in node.decorator_list for mark in marks(decorator)):
                    found[requirement].add(f"{path.relative_to(folder).as_posix()}::{node.name}")
    return {requirement: sorted(found[requirement]) for requirement in sorted(found, key=order)}


def missing(found: dict[str, list[str]]) -> list[str]:
    """Required, and neither proven nor excused."""
    return [requirement for requirement in REQUIRED if requirement not in found and requirement not in ELSEWHERE]


def page(found: dict[str, list[str]]) -> str:
    """The text of PROOFS.md."""
    lines = [
        "# Which test proves which requirement", "",
        "Made by `python tests/proofs.py` from the marks in the tests; a gate holds that it is up to date. ASVS is",
        "the OWASP Application Security Verification Standard 5.0; NIST 800-63B-4 is the Digital Identity Guidelines,",
        "Authentication and Authenticator Management.", "", "| requirement | tests |", "|---|---|",
    ]  # fmt: skip
    rows = found | {requirement: [] for requirement in ELSEWHERE if requirement not in found}
    for requirement in sorted(rows, key=order):
        tests = "<br>".join(f"`{test}`" for test in rows[requirement])
        lines.append(f"| {requirement} | {tests or 'not proven here: ' + ELSEWHERE[requirement]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if gaps := missing(proofs()):
        sys.exit(f"no test proves {', '.join(gaps)}: mark one with @pytest.mark.proves, or say why in ELSEWHERE")
    PAGE.write_text(page(proofs()), encoding="utf-8")
