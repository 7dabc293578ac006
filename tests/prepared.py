"""What each start of Pantry would find again, found once in a process: its schema's statements, its routes, and more.

Some thousand tests begin with the service on a database of its own. Alembic imports ten revisions, renders their
statements and notes each in its table: more than half of a start. That it makes what the models say is proven in
`tests/migrations`, which does not come here.
"""

import inspect
import json
import marshal
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache
from types import FunctionType
from typing import Any

import duckdb
import sqlalchemy as sa
from fastapi import applications, routing
from fastapi.dependencies import utils as dependencies

from playbook.pantry import history

FIND_OUT, WRITE = routing._EffectiveRouteContext.from_api_route, applications.get_openapi  # FastAPI's own
CHANGES = ("ALTER", "CREATE", "DROP", "INSERT", "UPDATE", "DELETE")


def is_empty(engine: sa.Engine) -> bool:
    names = {
        "duckdb": "SELECT count(*) FROM duckdb_tables()",
        "postgresql": "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    }
    with engine.connect() as connection:
        return connection.exec_driver_sql(names[engine.dialect.name]).scalar_one() == 0


class Remembered:
    """`prepare`, remembered for each engine. A database in a file, with tables or of another history gets the real."""

    def __init__(self, real: Callable[..., None]) -> None:
        self.real, self.texts, self.heads = real, dict[str, str](), cache(history.heads)

    def __call__(self, engine: sa.Engine, location: Any = history.PANTRY, baseline: str = "head") -> None:
        kind = engine.dialect.name
        in_a_file = kind == "duckdb" and not (engine.url.database or "").startswith(":memory:")
        if location != history.PANTRY or in_a_file:
            self.real(engine, location, baseline)
        elif not is_empty(engine):
            if history.current(engine) != self.heads():
                self.real(engine, location, baseline)
        elif kind not in self.texts:
            self.texts[kind] = self.heard(engine, baseline)
        else:
            connection = engine.raw_connection()
            try:
                connection.cursor().execute(self.texts[kind])
                connection.commit()
            finally:
                connection.close()

    def heard(self, engine: sa.Engine, baseline: str) -> str:
        """The statements by which the real one changed the database."""
        sent = list[str]()

        def hear(connection: Any, cursor: Any, sql: str, values: Any, *rest: Any) -> None:
            if sql.lstrip().upper().startswith(CHANGES):
                assert not values, f"it cannot be sent as text: {sql}"
                sent.append(sql.replace(" CONCURRENTLY", ""))

        sa.event.listen(engine, "before_cursor_execute", hear)
        try:
            self.real(engine, history.PANTRY, baseline)
        finally:
            sa.event.remove(engine, "before_cursor_execute", hear)
        return ";\n".join(sent)


def of_a_module(call: Any) -> bool:
    """Whether it lives as long as the process. What is made for an app would keep that app, if it were remembered."""
    return isinstance(call, FunctionType) and call.__closure__ is None and "<locals>" not in call.__qualname__


def remember_signatures() -> None:
    """FastAPI reads that of every function of every route, and of all that it depends on, for each app that is made."""
    read, known = dependencies.get_typed_signature, dict[Any, inspect.Signature]()

    def remembered(call: Callable[..., Any]) -> inspect.Signature:
        if not of_a_module(call):
            return read(call)
        if call not in known:
            known[call] = read(call)
        return known[call]

    dependencies.get_typed_signature = remembered


def one_thread_for_duckdb() -> None:
    """As Pantry has it (`connections.py`), for the engines that tests make without it: a second thread, woken for each
    statement, is a tenth to a fifth of what a request takes.

    DuckDB's threads share the work on more than 122,880 rows, and no test here has as many. Those of tests and of the
    service are others: each of their statements runs in the one that sends it.
    """
    connect = duckdb.connect

    def with_one(database: Any = ":memory:", read_only: bool = False, config: dict[str, Any] | None = None) -> Any:
        return connect(database, read_only=read_only, config={"threads": 1} | (config or {}))

    duckdb.connect = with_one


def remember_routes() -> None:
    """What FastAPI finds out of a route of a router, each time that the router is included in the same way.

    It takes the dependencies apart, and has Pydantic make a validator of each parameter and answer. The handler is made
    for each app, since it knows the app's `dependency_overrides`.
    """

    def remembered(original_route: Any, include_context: Any) -> Any:
        how = replace(include_context, dependency_overrides_provider=None)
        if not all(of_a_module(depends.dependency) for depends in how.dependencies):
            return FIND_OUT(original_route=original_route, include_context=include_context)
        known = vars(original_route).setdefault("remembered", [])  # and forgotten with it
        found = next((route for asked, route in known if asked == how), None)
        if found is None:
            found = FIND_OUT(original_route=original_route, include_context=how)
            known.append((how, found))
        route = copy(found)
        vars(route).update(
            (name, copy(value)) for name, value in vars(found).items() if type(value) in (dict, list, set)
        )
        vars(route)["remembered_as"] = found
        route.dependency_overrides_provider = include_context.dependency_overrides_provider
        token = routing._effective_route_context_var.set(route)
        try:
            handler = routing.request_response(original_route.get_route_handler())
        finally:
            routing._effective_route_context_var.reset(token)
        route.app = routing.wrap_app_with_body_limit(handler, route.max_body_size)
        return route

    routing._EffectiveRouteContext.from_api_route = staticmethod(remembered)  # type: ignore[assignment,method-assign]


def remember_documents() -> None:
    """FastAPI's part of the OpenAPI document, for the same routes in the same order. What Pantry adds is added anew."""
    known = dict[Any, tuple[Any, bytes]]()

    def remembered(routes: Any, webhooks: Any, **about: Any) -> Any:
        contexts = [route for route in routing.iter_route_contexts(routes) if hasattr(route, "dependant")]
        made_of = [getattr(route, "remembered_as", None) for route in contexts]
        if webhooks or None in made_of:
            return WRITE(routes=routes, webhooks=webhooks, **about)
        key = json.dumps(about, sort_keys=True), *map(id, made_of)
        if key not in known:
            known[key] = made_of, marshal.dumps(WRITE(routes=routes, webhooks=webhooks, **about))
        return marshal.loads(known[key][1])  # its own, since it is written into

    applications.get_openapi = remembered  # type: ignore[attr-defined]
