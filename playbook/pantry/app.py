"""Pantry assembled: parts that keep two contracts become one process, which starts, works and stops as one.

Read from `pantry()` down. The package's docstring is the map; it walks one request from the socket to the row and back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from sqlalchemy import orm
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.api.resources import complete_methods
from playbook.auth.mail import Sender
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import somebody_was_first, transaction
from playbook.pantry import graph, organizations, packages, tokens
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.session_lookup import QuickSessions, SessionLookup
from playbook.pantry.auth.sign_in import MOST_COUNTS, AddressLimits
from playbook.pantry.auth.wire import AnswerCookies, Auth
from playbook.pantry.callers import any_caller, quick_caller
from playbook.pantry.catalog import Package
from playbook.pantry.catalog_file import load_catalog
from playbook.pantry.connections import do_without_pandas, look_before_asking, suit_look_ups
from playbook.pantry.docs import describe
from playbook.pantry.document import describe_service
from playbook.pantry.errors import complete_document, install_problems
from playbook.pantry.headers import secure
from playbook.pantry.history import prepare
from playbook.pantry.housekeeping import sweep_for_ever
from playbook.pantry.http import FindCaller, May, create_app, refuse_unscoped
from playbook.pantry.indexes import mend_indexes
from playbook.pantry.keys import install_idempotency
from playbook.pantry.limits import MOST_KEYS, AccountLimits, RequestLimits, counts_for
from playbook.pantry.lists import sign_cursors
from playbook.pantry.mail_senders import sender_of
from playbook.pantry.mailboxes import REMEMBERED, PerMailbox, proven_in
from playbook.pantry.memory import ALONE, Share
from playbook.pantry.policy import may
from playbook.pantry.postbox import Postbox
from playbook.pantry.quick_way import QuickWay
from playbook.pantry.reads import Reader, reader_of
from playbook.pantry.settings import Settings
from playbook.pantry.stop import Stop
from playbook.pantry.strict_input import install_strict_input
from playbook.pantry.target import RequestTarget
from playbook.schema.identity import Organization

BASELINE = "0002_catalog"  # what `create_all` made, before there were migrations
MIRROR = "mirror"  # the organization that owns the packages of the catalogue
MEMORIES = {"network": MOST_KEYS, "account": MOST_KEYS, "path": MOST_COUNTS, "mailbox": REMEMBERED}  # and their keys


def pantry(
    settings: Settings, catalog: Path | None = None, clock: Clock | None = None, sender: Sender | None = None,
    stop: Stop | None = None, step: Callable[[str], None] = lambda name: None, share: Share = ALONE,
) -> FastAPI:  # fmt: skip
    """The service over the database of `settings`. An empty database is brought to head and filled from `catalog`.

    `stop` is the budget of an orderly stop, which the mails share with the requests. `step` is told how far the filling
    is, as `load_catalog` says. With a `share` this is one of several processes, and the database is prepared already.
    Raises ValueErrors that say what to do: WrongSchema for a database that is behind, DamagedDatabase.
    """
    clock = clock or SystemClock()
    engine, ids = engine_for(settings, share), Identifiers(clock)
    if share.alone:
        prepare_database(engine, catalog, clock, ids, step)
    sender = sender or sender_for(settings, clock)
    if settings.rate_limits:
        sender = PerMailbox(sender, clock, proven_in(engine), share.shared.get("mailbox"))
    postbox = Postbox(sender, threads=share.part(4, least=2))  # one of them takes nothing but resets
    counts = counts_for("account", settings.account_rate, settings.rate_limits, share.shared.get("account"))
    accounts = AccountLimits(counts)
    auth = Auth(settings, engine, clock, ids, postbox, admit=accounts.take)
    read = reader_of(engine)
    app = resource_api(engine, settings, clock, ids, any_caller(auth), may, read)
    app.state.spend = accounts.take
    add_auth(app, auth, stop or Stop(settings.stop_seconds), share)
    secure(app, settings)
    return app


def engine_for(settings: Settings, share: Share = ALONE) -> sa.Engine:
    """The engine of one process. Several divide the connections of its pool, of which each needs some."""
    pool = {} if share.alone else {"pool_size": share.part(10, least=3), "max_overflow": share.part(10, least=2)}
    engine = suit_look_ups(look_before_asking(make_engine(settings.database_url, **pool)))
    if engine.dialect.name == "duckdb":
        do_without_pandas()
    return engine


def prepare_alone(settings: Settings, catalog: Path, step: Callable[[str], None]) -> None:
    """`prepare_database` for the processes that will serve. Leaves nothing open."""
    engine, clock = engine_for(settings), SystemClock()
    try:
        prepare_database(engine, catalog, clock, Identifiers(clock), step)
    finally:
        engine.dispose()


def prepare_database(
    engine: sa.Engine, catalog: Path | None, clock: Clock, ids: Identifiers, step: Callable[[str], None]
) -> None:
    """What is done once, before one process or several serve: migrate, mend, fill."""
    prepare(engine, baseline=BASELINE)
    mend_indexes(engine)
    if catalog is not None:
        mirror, filled = transaction(engine, lambda session: mirror_of(session, clock, ids), retry=somebody_was_first)
        if not filled:
            load_catalog(engine, catalog, mirror, clock.now(), step)


def resource_api(
    engine: sa.Engine, settings: Settings, clock: Clock, ids: Identifiers, find_caller: FindCaller, may: May,
    read: Reader | None = None,
) -> FastAPI:  # fmt: skip
    """Everything but /api/auth. Who asks and what they may do are given: a test brings its own."""
    routers = [organizations.router, packages.router, tokens.router, graph.router]
    app = create_app(engine, routers, clock, ids, find_caller, may, settings.max_body_bytes, read)
    refuse_unscoped(app)
    app.state.introspection = settings.environment != "production"
    app.state.known_queries = listed_queries(settings)
    describe(app, public=settings.environment != "production")
    complete_methods(app)
    install_problems(app)
    install_strict_input(app)
    install_idempotency(app, exempt=("/tokens",))  # a kept answer would keep the token
    sign_cursors(app, settings.secret.get_secret_value())
    complete_document(app, partial(describe_service, app))  # last: it completes what the others say
    return app


def listed_queries(settings: Settings) -> dict[str, str] | None:
    """The only queries of GraphQL that are answered. None: any. Raises ValueError, with the name of the setting."""
    if settings.known_queries is None:
        return None
    from playbook.pantry.known_queries import NoQueries, known_queries  # with Strawberry, as `graph` says

    try:
        return known_queries(settings.known_queries)
    except NoQueries as error:
        raise ValueError(f"PANTRY_KNOWN_QUERIES: {error}") from None


def add_auth(app: FastAPI, auth: Auth, stop: Stop, share: Share = ALONE) -> None:
    """Put /api/auth before everything else, and the limits before that; let it start and stop with the service.

    The order of the stop matters. No new requests; then the mails that are still queued, because a client was told that
    a mail is on its way; then the engine. All of them share one budget of eight seconds, since Docker kills after ten.
    The session look-up has a connection of its own and closes it itself. Of several processes the first sweeps.
    """
    limits = AddressLimits(auth, share.shared.get("path"))
    auth_part = better_auth(auth, limits)
    quick = QuickSessions(auth, app.state.read)
    app.state.quick_caller = quick_caller(auth, quick, app.state.read)
    rate, on = auth.settings.network_rate, auth.settings.rate_limits
    networks = counts_for("network", rate, on, share.shared.get("network"))
    build_stack, inner_lifespan = app.build_middleware_stack, app.router.lifespan_context

    def stack() -> ASGIApp:
        resources = AnswerCookies(build_stack())
        service: ASGIApp = Handover(resources, "/api/auth", auth_part)
        service = SessionLookup(QuickWay(service, app, limits, auth.settings.max_body_bytes), quick, limits)
        return RequestTarget(RequestLimits(service, networks, auth.ids.new))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner_lifespan(app) as state:
            app.openapi()  # takes a while, and the first query would wait for it, with everybody else
            sweeping = asyncio.create_task(sweep_for_ever(auth.engine, auth.clock)) if share.first else None
            try:
                yield state
            finally:
                if sweeping is not None:
                    sweeping.cancel()
                # A thread of its own: those of the requests may all be waiting for a database.
                await to_thread.run_sync(auth.postbox.close, stop.for_mails(), limiter=CapacityLimiter(1))

    app.build_middleware_stack = stack  # type: ignore[method-assign]
    app.router.lifespan_context = lifespan
    app.state.auth, app.state.auth_part = auth, auth_part


class Handover:
    """ASGI: what lies under `prefix` goes to `part`, all else to `rest`; neither's middleware sees the other's."""

    def __init__(self, rest: ASGIApp, prefix: str, part: ASGIApp) -> None:
        self.rest, self.prefix, self.part = rest, prefix, part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        mine = scope["type"] == "http" and (path == self.prefix or path.startswith(self.prefix + "/"))
        await (self.part if mine else self.rest)(scope, receive, send)


def mirror_of(session: orm.Session, clock: Clock, ids: Identifiers) -> tuple[UUID, bool]:
    """The organization "mirror", made when it is missing; whether there are packages already. Nobody is its member."""
    mirror = session.scalar(sa.select(Organization.id).where(Organization.slug == MIRROR))
    if mirror is None:
        now, mirror = clock.now(), ids.new()
        session.add(Organization(id=mirror, slug=MIRROR, name="Mirror", created_at=now, updated_at=now))
    return mirror, session.scalar(sa.select(Package.id).limit(1)) is not None


def sender_for(settings: Settings, clock: Clock) -> Sender:
    """The sender of the settings. In production mail leaves the machine encrypted, or not at all."""
    loopback = urlsplit(settings.mail_url).hostname in ("localhost", "127.0.0.1", "::1")
    encrypted = settings.environment == "production" and not loopback
    return sender_of(settings.mail_url, settings.mail_from, clock, require_tls=encrypted)
