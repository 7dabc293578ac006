"""The exercise of the page "Errors": its checker, its two hints, and answers that are wrong."""

import json
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from playbook.api.errors import PROBLEM_JSON, Problems, install_problems
from playbook.kit.exercises import checker
from playbook.kit.live import serving

HINTS = (
    "See 'Errors of fields': `pointer` escapes twice, first for JSON Pointer, then for a URI.\n"
    "Undo both, in the opposite order. 'See it break' shows formats of others.",
    "Decide first whether the answer is a problem: only its media type says so, and that may have\n"
    "parameters. Then split the pointer at `/`, and unescape each part: `~1` first, `~0` after it.",
)

# Plausible, and refused in words.
WRONG = (
    # trusts any JSON
    "def read_problem(response):\n"
    "    problem = response.json()\n"
    "    text = problem.get('detail') or problem.get('title')\n"
    "    return text, {}\n",
    # no unescaping at all
    "def read_problem(response):\n"
    "    if not response.headers['content-type'].startswith('application/problem+json'):\n"
    "        return f'HTTP {response.status_code}', {}\n"
    "    problem = response.json()\n"
    "    fields = {}\n"
    "    for error in problem.get('errors', []):\n"
    "        if 'pointer' in error:\n"
    "            fields[tuple(error['pointer'].split('/')[1:])] = error['detail']\n"
    "    return problem.get('detail') or problem['title'], fields\n",
    # the two escapes of JSON Pointer in the wrong order
    "from urllib.parse import unquote\n"
    "def read_problem(response):\n"
    "    if not response.headers['content-type'].startswith('application/problem+json'):\n"
    "        return f'HTTP {response.status_code}', {}\n"
    "    problem = response.json()\n"
    "    fields = {}\n"
    "    for error in problem.get('errors', []):\n"
    "        if 'pointer' in error:\n"
    "            parts = unquote(error['pointer']).split('/')[1:]\n"
    "            steps = tuple(p.replace('~0', '~').replace('~1', '/') for p in parts)\n"
    "            fields[steps] = error['detail']\n"
    "    return problem.get('detail') or problem['title'], fields\n",
    # the media type compared as a whole
    "def read_problem(response):\n"
    "    if response.headers['content-type'] != 'application/problem+json':\n"
    "        return f'HTTP {response.status_code}', {}\n"
    "    problem = response.json()\n"
    "    return problem.get('detail') or problem['title'], {}\n",
    # believes that every error has a pointer
    "from urllib.parse import unquote\n"
    "def read_problem(response):\n"
    "    if not response.headers['content-type'].startswith('application/problem+json'):\n"
    "        return f'HTTP {response.status_code}', {}\n"
    "    problem = response.json()\n"
    "    fields = {}\n"
    "    for error in problem.get('errors', []):\n"
    "        parts = unquote(error['pointer']).split('/')[1:]\n"
    "        steps = tuple(p.replace('~1', '/').replace('~0', '~') for p in parts)\n"
    "        fields[steps] = error['detail']\n"
    "    return problem.get('detail') or problem['title'], fields\n",
)


class Line(BaseModel):
    pieces: int


class Cart(BaseModel, extra="forbid"):
    lines: list[Line]


def from_a_service() -> httpx.Response:
    """What the recipe really answers to a cart with two mistakes and a query with one."""
    app = FastAPI()

    @app.post("/carts")
    def add(cart: Cart, coupon: int) -> None: ...

    install_problems(app, Problems())
    cart = {"lines": [{"pieces": "two"}], "a/b": 1}
    with serving(app) as client:
        return client.post("/carts?coupon=x", json=cart)


def answer(status: int, media_type: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(body)
    return httpx.Response(status, headers={"content-type": media_type}, content=content)


def problem(media_type: str = PROBLEM_JSON, **members: Any) -> httpx.Response:
    return answer(422, media_type, {"type": "about:blank", "title": "The title", "status": 422} | members)


def at(pointer: str) -> httpx.Response:
    return problem(errors=[{"in": "body", "pointer": pointer, "detail": "bad"}])


@checker
def check(read_problem: Any) -> str:
    """Answers of the recipe, of a proxy and of another service."""
    result = read_problem(problem(detail="The detail"))
    if not isinstance(result, tuple) or len(result) != 2:
        return f"not yet: return a text and a dictionary of fields, not {result!r}"
    if result != ("The detail", {}):
        return f"not yet: a problem with a detail and no errors gave {result!r}"
    if read_problem(problem())[0] != "The title":
        return "not yet: a problem without a detail has a title"
    for body, media_type in (("<h1>Bad Gateway</h1>", "text/html"), ({"detail": "no"}, "application/json")):
        said = read_problem(answer(502, media_type, body))
        if said != ("HTTP 502", {}):
            return f"not yet: {body!r} as {media_type} is no problem, and gave {said!r}"
    for media_type in (f"{PROBLEM_JSON}; charset=utf-8", "Application/Problem+JSON"):
        if read_problem(problem(media_type, detail="no"))[0] != "no":
            return f"not yet: {media_type!r} says the same as {PROBLEM_JSON}"
    fields = read_problem(from_a_service())[1]
    if any("query" in str(steps) or "coupon" in str(steps) for steps in fields):
        return "not yet: the coupon is a parameter of the query, and no field of the form"
    if set(fields) != {("lines", "0", "pieces"), ("a/b",)}:
        return f"not yet: two fields are wrong, and you found {sorted(map(str, fields))}"
    for pointer, steps in (("#/a~01", ("a~1",)), ("#/%C3%A9%20b", ("é b",)), ("#/%7E1", ("/",)), ("#", ())):
        found = list(read_problem(at(pointer))[1])
        if found != [steps]:
            return f"not yet: the pointer {pointer} leads to another field than {found}"
    return "right"
