"""Pantry assembled: parts that keep two contracts become one process, which starts, works and stops as one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request
from packaging.utils import canonicalize_name
from sqlalchemy import orm
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.auth.mail import Sender, sender_of
from playbook.auth.mail_queue import Postbox
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.database import make_engine, somebody_was_first, transaction
from playbook.migrations.first_migration import prepare
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.cross_site import check_origin, trusted_origins
from playbook.pantry.auth.session_lookup import SessionLookup
from playbook.pantry.auth.sessions import SESSION, cookies_of, look_up
from playbook.pantry.auth.sign_in import AddressLimits, Throttle
from playbook.pantry.auth.wire import AnswerCookies, Auth, AuthError
from playbook.pantry.conditions import READERS, conditional_router
from playbook.pantry.docs import describe
from playbook.pantry.document import describe_service
from playbook.pantry.headers import secure
from playbook.pantry.http import Caller, FindCaller, May, create_app
from playbook.pantry.indexes import mend_indexes
from playbook.pantry.keys import install_idempotency, purge_keys
from playbook.pantry.limits import AccountLimits, RequestLimits, counts_for
from playbook.pantry.lists import paginated, replacing, sign_cursors
from playbook.pantry.mailboxes import PerMailbox, proven_in
from playbook.pantry.problems import install_problems
from playbook.pantry.resources import complete_methods, resources
from playbook.pantry.settings import Settings
from playbook.pantry.stop import Stop
from playbook.pantry.target import RequestTarget
from playbook.schema.catalog import Package, load_catalog
from playbook.schema.identity import ROLES, Member, Organization, UserSession, Verification

# Each layer did its duty. The one for problems replaced error bodies in which the client looks for `code`. The one
# for strict input refused a parameter it did not know. And the one that keeps answers for retries found a session's
# cookie in one and refused to store it, which is right, and left Ada with a 500. Each can be taught an exception. The
# next layer somebody writes will not have it.
#
# The resource API first, from its parts. Whose caller it asks and what they may do are given, so that lessons before
# the auth track can bring their own.


BASELINE = "0002_catalog"  # what `create_all` made, before there were migrations


def resource_api(
    engine: sa.Engine, settings: Settings, clock: Clock, ids: Identifiers, find_caller: FindCaller, may: May
) -> FastAPI:
    """Everything but /api/auth: organizations and packages with conditions, cursors, keys, and problems."""
    routers = [conditional_router(replacing(resources, paginated), READERS)]
    app = create_app(engine, routers, clock, ids, find_caller, may, settings.max_body_bytes)
    describe(app, public=settings.environment != "production")
    complete_methods(app)
    install_problems(app)
    install_idempotency(app)
    sign_cursors(app, settings.secret.get_secret_value())
    app.state.describers.append(partial(describe_service, app))  # last: it completes what the others say
    return app


# Who asks? The cookie of `/api/auth` opens the rest of the service, too. It travels with whatever any site's page
# sends, so here as well a request that changes something must come from a page of ours. And who works here is active:
# the session is prolonged, and `AnswerCookies` renews the cookie on whatever is answered, outside of what is kept for
# retries.


def session_caller(auth: Auth) -> FindCaller:
    """The `find_caller` of `create_app`: whose session cookie it is. HTTPException 403 for another site's request."""

    def find(request: Request) -> Caller | None:
        if cookies_of(auth).read(request.headers.get("cookie", ""), SESSION) is None:
            return None
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            try:
                check_origin(request.headers, trusted_origins(auth.settings))
            except AuthError as error:
                raise HTTPException(403, f"{error.message}: send this from a page of the service") from None
        found = look_up(request, auth)
        if found is None:
            return None
        auth.admit(found.user.id)
        return Caller(found.user.id, found.user.name)

    return find


# What may a caller do? The authorization track will make this a policy of its own. Until then the roles decide that
# the data has: each action needs a role in the organization that owns the thing. What is not in the table, nobody
# may. That the mirror of public packages has no members means that nobody may change it.


OPEN = {"organizations:read", "packages:read", "organizations:create"}  # to everybody who is signed in
NEEDS = {
    "organizations:write": "admin", "organizations:delete": "owner",
    "packages:create": "member", "packages:write": "admin", "packages:delete": "admin",
}  # fmt: skip


def by_membership(engine: sa.Engine) -> May:
    """Who may do what: by the caller's role in the organization that owns the thing. What is not listed, nobody may."""

    def may(caller: Caller, action: str, target: Mapping[str, Any]) -> bool:
        if action in OPEN:
            return True
        if action not in NEEDS:
            return False
        role = sa.select(Member.role).join(Organization, Organization.id == Member.organization_id)
        role = role.where(Member.user_id == caller.id)
        if "name" in target:
            owned = sa.select(Package.organization_id).where(
                Package.normalized_name == canonicalize_name(target["name"])
            )
            role = role.where(Organization.id.in_(owned))
        else:
            role = role.where(Organization.slug == (target.get("slug") or target.get("organization")))
        found = transaction(engine, lambda db: db.scalar(role))
        return found is not None and ROLES.index(found) >= ROLES.index(NEEDS[action])

    return may


# The handover. It stands outside of every middleware, so a request under `/api/auth` is never seen by one that was
# written for the other contract.


class Handover:
    """ASGI, outermost:

    What lies under `prefix` goes to `part`, all else to `rest`; neither's middleware sees the other's.
    """

    def __init__(self, rest: ASGIApp, prefix: str, part: ASGIApp) -> None:
        self.rest, self.prefix, self.part = rest, prefix, part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        mine = scope["type"] == "http" and (path == self.prefix or path.startswith(self.prefix + "/"))
        await (self.part if mine else self.rest)(scope, receive, send)


# Things expire: sessions, links, allowances, keys. Every reader checks the time, so an expired row does no harm, and
# deleting it is housekeeping: now and then, in the background, and never a reason for the service to stop.


EVERY = 600.0  # seconds between two sweeps
log = logging.getLogger("pantry")


def sweep(engine: sa.Engine, now: datetime) -> None:
    """Delete what has expired: sessions, links, used-up allowances that are whole again, idempotency keys."""

    def work(db: orm.Session) -> None:
        db.execute(sa.delete(UserSession).where(UserSession.expires_at <= now))
        db.execute(sa.delete(Verification).where(Verification.expires_at <= now))
        db.execute(sa.delete(Throttle).where(Throttle.whole_at <= now))
        purge_keys(db, now)

    transaction(engine, work)


async def sweep_for_ever(engine: sa.Engine, clock: Clock) -> None:
    """`sweep` every EVERY seconds. A failure is logged and tried again: housekeeping must not stop the service."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            await run_in_threadpool(sweep, engine, clock.now())
        except sa.exc.SQLAlchemyError as error:
            log.warning("sweep: %s", type(error).__name__)


# Starting. The database is brought to head or refused. There is no first user, no password that everybody knows:
# whoever needs an account signs up.


MIRROR = "mirror"


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


def pantry(
    settings: Settings, catalog: Path | None = None, clock: Clock | None = None, sender: Sender | None = None,
    stop: Stop | None = None,
) -> FastAPI:  # fmt: skip
    """The service over the database of `settings`. An empty database is brought to head and filled from `catalog`.

    `stop` is the budget of an orderly stop, which the mails share with the requests. Raises ValueErrors that say what
    to do: WrongSchema for a database that is not at head, DamagedDatabase.
    """
    engine, clock = make_engine(settings.database_url), clock or SystemClock()
    ids = Identifiers(clock)
    prepare(engine, baseline=BASELINE)
    mend_indexes(engine)
    if catalog is not None:
        mirror, filled = transaction(engine, lambda session: mirror_of(session, clock, ids), retry=somebody_was_first)
        if not filled:
            load_catalog(engine, catalog, mirror, clock.now())
    sender = sender or sender_for(settings, clock)
    if settings.rate_limits:
        sender = PerMailbox(sender, clock, proven_in(engine))
    postbox = Postbox(sender)
    accounts = AccountLimits(counts_for("account", settings.account_rate, settings.rate_limits))
    auth = Auth(settings, engine, clock, ids, postbox, admit=accounts.take)
    app = resource_api(engine, settings, clock, ids, session_caller(auth), by_membership(engine))
    add_auth(app, auth, stop or Stop(settings.stop_seconds))
    secure(app, settings)
    return app


# Stopping is the same in reverse, and the order matters. No new requests; then the mails that are still queued,
# because somebody was told that a mail is on its way; then the engine. All of them share one budget of eight seconds,
# since Docker kills after ten. The session look-up has a connection of its own and closes it itself.


def add_auth(app: FastAPI, auth: Auth, stop: Stop) -> None:
    """Put /api/auth before everything else, and the limits before that; let it start and stop with the service."""
    limits = AddressLimits(auth)
    auth_part = better_auth(auth, limits)
    networks = counts_for("network", auth.settings.network_rate, auth.settings.rate_limits)
    build_stack, inner_lifespan = app.build_middleware_stack, app.router.lifespan_context

    def stack() -> ASGIApp:
        resources = AnswerCookies(build_stack())
        service = SessionLookup(Handover(resources, "/api/auth", auth_part), auth, limits)
        return RequestTarget(RequestLimits(service, networks, auth.ids.new))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner_lifespan(app) as state:
            app.openapi()  # takes a while, and the first query would wait for it, with everybody else
            sweeping = asyncio.create_task(sweep_for_ever(auth.engine, auth.clock))
            try:
                yield state
            finally:
                sweeping.cancel()
                # A thread of its own: those of the requests may all be waiting for a database.
                await to_thread.run_sync(auth.postbox.close, stop.for_mails(), limiter=CapacityLimiter(1))

    app.build_middleware_stack = stack  # type: ignore[method-assign]
    app.router.lifespan_context = lifespan
    app.state.auth, app.state.auth_part = auth, auth_part
