"""The exercise of the page "Conditional requests": its checker, its two hints, and answers that are wrong."""

import json
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response

from playbook.api.conditional_requests import check_write, etag
from playbook.kit.exercises import checker
from playbook.kit.live import NO_TLS, serving

HINTS = (
    "See 'See it break' and 'Reading and writing': a 412 brings the current tag, but not the\n"
    "content that it stands for. What did the user see, what is stored now, what is wanted?",
    "Keep the first content. After a 412 read again. A field is in conflict if its value now is\n"
    "neither the first one nor yours. Without conflicts, send again with the tag you have read.",
)

# Plausible, and refused in words.
WRONG = (
    # sends the tag of the 412, which stands for what the user has not read
    """def save(client, url, read, mine):
    tag = read.headers["etag"]
    for _ in range(5):
        answer = client.patch(url, json=mine, headers={"if-match": tag})
        if answer.status_code != 412:
            answer.raise_for_status()
            return {}
        tag = answer.headers["etag"]
    raise TimeoutError
""",
    # every 412 is a conflict
    """def save(client, url, read, mine):
    answer = client.patch(url, json=mine, headers={"if-match": read.headers["etag"]})
    if answer.status_code == 412:
        now = client.get(url).json()
        return {field: now[field] for field in mine}
    answer.raise_for_status()
    return {}
""",
    # asks although both want the same
    """def save(client, url, read, mine):
    base = read.json()
    for _ in range(5):
        answer = client.patch(url, json=mine, headers={"if-match": read.headers["etag"]})
        if answer.status_code != 412:
            answer.raise_for_status()
            return {}
        read = client.get(url)
        read.raise_for_status()
        now = read.json()
        theirs = {field: now[field] for field in mine if now[field] != base[field]}
        if theirs:
            return theirs
    raise TimeoutError
""",
    # returns a conflict only if every field is in one
    """def save(client, url, read, mine):
    base = read.json()
    for _ in range(5):
        answer = client.patch(url, json=mine, headers={"if-match": read.headers["etag"]})
        if answer.status_code != 412:
            answer.raise_for_status()
            return {}
        read = client.get(url)
        read.raise_for_status()
        now = read.json()
        theirs = {f: now[f] for f, v in mine.items() if now[f] not in (base[f], v)}
        base = now
        if theirs and len(theirs) == len(mine):
            return theirs
    raise TimeoutError
""",
    # tries too often
    """def save(client, url, read, mine):
    base = read.json()
    for _ in range(1000):
        answer = client.patch(url, json=mine, headers={"if-match": read.headers["etag"]})
        if answer.status_code != 412:
            answer.raise_for_status()
            return {}
        read = client.get(url)
        read.raise_for_status()
        now = read.json()
        theirs = {f: now[f] for f, v in mine.items() if now[f] not in (base[f], v)}
        if theirs:
            return theirs
    raise TimeoutError
""",
)
FIRST = {"title": "Old", "text": "old"}


def service(documents: dict[int, dict[str, str | None]]) -> FastAPI:
    """Documents with a title and a text. One event loop changes them, so nothing comes in between."""
    app = FastAPI()

    def body_of(number: int) -> bytes:
        return json.dumps(documents[number]).encode()

    @app.get("/documents/{number}")
    async def read(number: int) -> Response:
        if number not in documents:
            return Response(status_code=404)
        return Response(body_of(number), headers={"ETag": etag(body_of(number))})

    @app.patch("/documents/{number}")
    async def change(number: int, request: Request) -> Response:
        changes = await request.json()
        if number not in documents:
            return Response(status_code=404)
        check_write(request, etag(body_of(number)))
        documents[number] |= changes
        return Response(status_code=204)

    return app


@checker
def check(save: Any) -> str:
    """One document for each case; other users change it between the reading and the writing."""
    documents: dict[int, dict[str, str | None]] = {}

    def run(mine: dict[str, Any], *theirs: dict[str, Any] | None) -> tuple[Any, Any]:
        """What `save` returned or raised, and what is stored; `theirs` come before one PATCH each; None deletes."""
        number = len(numbers)
        numbers.append(number)
        documents[number] = dict(FIRST)
        left = list(theirs)

        def meddle(request: httpx.Request) -> None:
            if request.method != "PATCH" or not left:
                return
            change = left.pop(0)
            if change is None:
                del documents[number]
            else:
                documents[number] |= change

        hooks = {"request": [meddle]}
        with httpx.Client(base_url=url, event_hooks=hooks, trust_env=False, verify=NO_TLS, timeout=30) as client:
            path = f"/documents/{number}"
            try:
                result = save(client, path, client.get(path), mine)
            except (httpx.HTTPStatusError, TimeoutError) as error:
                result = type(error)
        return result, documents.get(number)

    numbers: list[int] = []
    new = {"title": "New"}
    with serving(service(documents)) as server:
        url = str(server.base_url)
        if run(new) != ({}, FIRST | new):
            return "not yet: without other users the title is stored, and the result is {}"
        if run(new, {"text": "theirs"}) != ({}, {"title": "New", "text": "theirs"}):
            return "not yet: they changed another field; both changes must be there in the end"
        if run(new, {"title": "Theirs"}) != ({"title": "Theirs"}, FIRST | {"title": "Theirs"}):
            return "not yet: they changed the same field; store nothing, return their value"
        if run(new, {"title": "New", "text": "theirs"}) != ({}, {"title": "New", "text": "theirs"}):
            return "not yet: both changed the title to the same; no person needs to be asked"
        both = {"title": "New", "text": "new"}
        if run(both, {"title": "Theirs"}) != ({"title": "Theirs"}, FIRST | {"title": "Theirs"}):
            return "not yet: one of two fields is in conflict; store nothing, return only that field"
        if run(new, {"text": "1"}, {"title": "Theirs"}) != ({"title": "Theirs"}, {"title": "Theirs", "text": "1"}):
            return "not yet: the second attempt can meet another change too"
        if run({"text": "new"}, {"text": None}) != ({"text": None}, FIRST | {"text": None}):
            return "not yet: they removed the value you changed; that is a conflict, and their value is None"
        if run(new, None)[0] is not httpx.HTTPStatusError:
            return "not yet: it was deleted meanwhile; raise the error of the 404"
        result, stored = run(new, *({"text": str(number)} for number in range(9)))
        if result is not TimeoutError or stored is None or stored["text"] != "4":
            return "not yet: after five attempts, raise TimeoutError"
    return "right"
