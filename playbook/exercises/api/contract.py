"""The exercise of the page "Contract": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable
from typing import Any

from playbook.api.contract import Exchange
from playbook.kit.exercises import checker

HINTS = (
    "See 'From a status to its schema': find_answer knows already which answer a status\n"
    "counts for. It returns the very object that stands in the document.",
    "Collect what find_answer gives for each exchange. Then walk through all paths, methods\n"
    "and statuses, and keep those whose answer `is` none of the collected ones.",
)

# Plausible, and refused in words.
WRONG = (
    # Compares the path of the request with the template.
    "def unseen(document, exchanges):\n"
    "    shown = {(one.method, one.path, str(one.status)) for one in exchanges}\n"
    "    return sorted(f'{method.upper()} {path} {status}' for path, methods in document['paths'].items()\n"
    "                  for method, operation in methods.items() for status in operation['responses']\n"
    "                  if (method.upper(), path, status) not in shown)",
    # A status counts for its class, too, where it stands itself; and `default` is never seen.
    "def unseen(document, exchanges):\n"
    "    found = []\n"
    "    for path, methods in document['paths'].items():\n"
    "        for method, operation in methods.items():\n"
    "            mine = [one for one in exchanges if find_operation(document, one.method, one.path) is operation]\n"
    "            for status in operation['responses']:\n"
    "                names = {name for one in mine for name in (str(one.status), f'{one.status // 100}XX')}\n"
    "                if status not in names:\n"
    "                    found.append(f'{method.upper()} {path} {status}')\n"
    "    return sorted(found)",
    # Answers that are equal are taken for one.
    "def unseen(document, exchanges):\n"
    "    shown = []\n"
    "    for one in exchanges:\n"
    "        operation = find_operation(document, one.method, one.path)\n"
    "        if operation is not None:\n"
    "            shown.append(find_answer(document, operation, one.status))\n"
    "    return sorted(f'{method.upper()} {path} {status}' for path, methods in document['paths'].items()\n"
    "                  for method, operation in methods.items()\n"
    "                  for status, answer in operation['responses'].items() if answer not in shown)",
    # Fails at a request that nobody has described.
    "def unseen(document, exchanges):\n"
    "    shown = [find_answer(document, find_operation(document, one.method, one.path), one.status)\n"
    "             for one in exchanges]\n"
    "    return sorted(f'{method.upper()} {path} {status}' for path, methods in document['paths'].items()\n"
    "                  for method, operation in methods.items()\n"
    "                  for status, answer in operation['responses'].items()\n"
    "                  if not any(answer is one for one in shown))",
)


def _answers(*statuses: str) -> dict[str, Any]:
    return {"responses": {status: {"description": "said"} for status in statuses}}


def _document() -> dict[str, Any]:
    """Two paths that fit one request, a class of statuses, a default, and answers that are equal."""
    paths = {
        "/orders": {"get": _answers("200"), "post": _answers("201", "409", "4XX")},
        "/orders/{number}": {"get": _answers("200", "404", "default"), "delete": _answers("204")},
        "/orders/newest": {"get": _answers("200")},
    }
    return {"openapi": "3.1.0", "info": {"title": "A shop", "version": "1"}, "paths": paths}


ALL = [
    "DELETE /orders/{number} 204",
    "GET /orders 200",
    "GET /orders/newest 200",
    "GET /orders/{number} 200",
    "GET /orders/{number} 404",
    "GET /orders/{number} default",
    "POST /orders 201",
    "POST /orders 409",
    "POST /orders 4XX",
]
# A request with its status, and what it shows; None: nothing.
STORY = [
    ("GET", "/orders", 200, "GET /orders 200"),
    ("GET", "/orders/7", 200, "GET /orders/{number} 200"),
    ("GET", "/orders/newest", 200, "GET /orders/newest 200"),
    ("POST", "/orders", 409, "POST /orders 409"),
    ("POST", "/orders", 422, "POST /orders 4XX"),
    ("GET", "/orders/7", 503, "GET /orders/{number} default"),
    ("GET", "/customers", 200, None),
    ("POST", "/orders", 500, None),
]


@checker
def check(unseen: Callable[..., Any]) -> str:
    """No exchange, then each of a story alone, then the whole story."""
    found = unseen(_document(), [])
    if not isinstance(found, list):
        return f"not yet: a list is expected, not {type(found).__name__}"
    if sorted(found) != ALL:
        wrong = sorted(set(ALL) ^ set(found)) or sorted(found)
        return f"not yet: without any exchange, all {len(ALL)} answers are unseen; look at {wrong[0]!r}"
    if found != ALL:
        return "not yet: the texts are not sorted"
    for method, path, status, shows in STORY:
        found = unseen(_document(), [Exchange(method, path, status, "", b"")])
        expected = [one for one in ALL if one != shows]
        if list(found) != expected:
            wrong = sorted(set(expected) ^ set(found))
            return f"not yet: after {method} {path} with {status}, {wrong[0]!r} is {_named(wrong[0] in found)}"
    story = [Exchange(method, path, status, "", b"") for method, path, status, _ in STORY]
    if list(unseen(_document(), story)) != [
        "DELETE /orders/{number} 204",
        "GET /orders/{number} 404",
        "POST /orders 201",
    ]:
        return "not yet: each exchange alone is right, and the whole story is not"
    return "right"


def _named(listed: bool) -> str:
    return "in the list, and has been shown" if listed else "not in the list, and has not been shown"
