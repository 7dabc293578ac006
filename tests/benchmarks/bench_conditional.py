"""Conditional requests (`playbook.pantry.conditions`): 304 against 200, and what the guard adds to a write.

One client, one connection, loopback; the service runs in the same process. On a real network a 304 saves more: the
bytes are in the remarks. The floor is the same route without conditions.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from measure import Row, Sample, fresh, main, parser, show, take_all

PACKAGES = ["fastapi", "pydantic", "duckdb", "httpx"]
LISTS = {"one package": "/packages/httpx", "a page of 100": "/packages?limit=100"}


def pantry_of(guarded: bool) -> Any:
    """The service over the whole catalogue, with or without conditions."""
    from datetime import UTC, datetime

    from before_sign_in import RESOURCES, finished
    from fastapi import Response

    from playbook.foundations.clock_and_identifiers import Identifiers, SystemClock
    from playbook.foundations.engines import Base, make_engine
    from playbook.foundations.transactions import transaction
    from playbook.kit.data import data_path
    from playbook.pantry.catalog_file import load_catalog
    from playbook.pantry.conditions import Conditions, representation
    from playbook.pantry.http import Caller, create_app
    from playbook.schema.identity import Organization, add_user

    engine, clock, now = make_engine("duckdb:///:memory:bench"), SystemClock(), datetime.now(UTC)
    ids = Identifiers(clock)
    Base.metadata.create_all(engine)
    mirror = Organization(id=ids.new(), slug="mirror", name="Mirror", created_at=now, updated_at=now)
    mirror_id = mirror.id
    transaction(engine, lambda session: session.add(mirror))
    user = transaction(engine, lambda session: add_user(session, clock, ids, "a@example.com", "A"))
    load_catalog(engine, Path(data_path("packages.csv")), mirror_id, now)
    if not guarded:  # the floor: the same routes, whose conditions do nothing
        Conditions.check = lambda self, current: None  # type: ignore[method-assign]
        Conditions.tagged = lambda self, changed: changed  # type: ignore[method-assign]
        Conditions.answer = lambda self, result: Response(representation(result), media_type="application/json")  # type: ignore[method-assign]
    return finished(
        create_app(engine, RESOURCES, clock, ids, lambda request: Caller(user.id, "A"), lambda *asked: True)
    )


# ---------------------------------------------------------------- measured, each in a process of its own


def reads(guarded: bool, known: bool, path: str, count: int) -> Sample:
    """Seconds for one GET; with `known` the client has the tag and gets 304. `bytes` of a body."""
    import httpx

    from playbook.kit.live import serving

    with serving(pantry_of(guarded)) as live, httpx.Client(base_url=live.base_url, trust_env=False) as client:
        first = client.get(path).raise_for_status()
        headers = {"if-none-match": first.headers["etag"]} if known else {}
        for _ in range(30):  # the connection, and whatever either side makes at first
            answer = client.get(path, headers=headers)
        if answer.status_code != (304 if known else 200):
            raise RuntimeError(f"{path} answered {answer.status_code}")
        started = time.perf_counter()
        for _ in range(count):
            client.get(path, headers=headers)
        return {"seconds": (time.perf_counter() - started) / count, "bytes": len(answer.content)}


def writes(guarded: bool, count: int) -> Sample:
    """Seconds for one PATCH that changes something; guarded, with the tag of the answer before."""
    import httpx

    from playbook.kit.live import serving

    with serving(pantry_of(guarded)) as live, httpx.Client(base_url=live.base_url, trust_env=False) as client:
        tag = client.get("/packages/httpx").headers.get("etag", "*")
        sent = {"content-type": "application/merge-patch+json"}
        for number in range(-20, count):
            if number == 0:
                started = time.perf_counter()
            body = f'{{"summary": "number {number}"}}'
            answer = client.patch("/packages/httpx", content=body, headers=sent | {"if-match": tag}).raise_for_status()
            tag = answer.headers.get("etag", "*")
        return {"seconds": (time.perf_counter() - started) / count}


# ---------------------------------------------------------------- the table


def work() -> None:
    chosen = parser(__doc__).parse_args()
    runs, count = (3, 100) if chosen.quick else (7, 500)
    rows: list[Row] = []
    for group, path in LISTS.items():

        def ask(
            name: str, guarded: bool, known: bool, against: Row | None, group: str = group, path: str = path
        ) -> Row:
            take = partial(fresh, reads, guarded=guarded, known=known, path=path, count=count)
            return Row(name, take, against, group=f"GET {group}")

        plain = ask("floor: without conditions", False, False, None)
        full = ask("200 with its tag", True, False, plain)
        rows += [plain, full, ask("304", True, True, full)]
    floor = Row("floor: last write wins", partial(fresh, writes, guarded=False, count=count), group="PATCH one package")
    guarded = partial(fresh, writes, guarded=True, count=count)
    rows += [floor, Row("with If-Match", guarded, floor, group="PATCH one package")]
    take_all(rows, runs)
    for row in rows:
        if "bytes" in row.samples[0]:
            row.note = f"{row.samples[0]['bytes']:,.0f} bytes of body"
    remarks = ["A 304 makes the body to know its tag: it saves sending and parsing, not the query.",
               "PATCH with If-Match reads the representation twice more: before the work and after it."]  # fmt: skip
    show("Conditional requests", rows, PACKAGES, remarks)


if __name__ == "__main__":
    main(work)
