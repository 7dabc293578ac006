"""The auth part as one ASGI app: its routers, and the guards that run before every route."""

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool

from playbook.foundations.deny_by_default import anyone, needs_caller, refuse_undeclared
from playbook.pantry.auth.account_changes import account_routes
from playbook.pantry.auth.cross_site import check_cross_site, check_source
from playbook.pantry.auth.invitations import invitation_routes
from playbook.pantry.auth.links import link_routes
from playbook.pantry.auth.members import member_routes
from playbook.pantry.auth.organizations import organization_routes
from playbook.pantry.auth.password_reset import reset_routes
from playbook.pantry.auth.sessions import current_caller, session_routes
from playbook.pantry.auth.sign_in import AddressLimits, count_address, sign_in_routes
from playbook.pantry.auth.sign_up import sign_up_routes
from playbook.pantry.auth.two_factor import two_factor_routes
from playbook.pantry.auth.wire import Auth, Service, auth_app

liveness = APIRouter(prefix="/api/auth")


@liveness.get("/ok", dependencies=[Depends(anyone)])
async def ok() -> dict[str, bool]:
    """What Better Auth's own monitoring asks."""
    return {"ok": True}


SHORT_BODY = 4096  # octets


async def session_first(request: Request, auth: Service) -> None:
    """A guard of `auth_app`: of a long body nothing is read before its sender is known to have the session it needs.

    Better Auth names the faults of a body before it asks who sends it; so does this service for a short one.
    AuthError 403 or 401.
    """
    length = request.headers.get("content-length", "0" if "transfer-encoding" not in request.headers else "")
    long = not length.isdecimal() or len(length) > 9 or int(length) > SHORT_BODY
    if long and needs_caller(request.app.routes, request.scope["endpoint"], current_caller):
        await check_source(request, auth)
        await run_in_threadpool(current_caller, request, auth)


def better_auth(auth: Auth, limits: AddressLimits | None = None) -> FastAPI:
    """Everything under /api/auth, as `better-auth/client` 1.7 expects it.

    Raises ValueError for a route that says neither `CurrentSession` nor `anyone`.
    """
    routers = [liveness, session_routes, sign_up_routes, sign_in_routes, link_routes, reset_routes, account_routes]
    routers += (organization_routes, member_routes, invitation_routes, two_factor_routes)
    app = auth_app(auth, routers, guards=(count_address, session_first, check_cross_site))
    app.state.limits = limits or AddressLimits(auth)
    refuse_undeclared(app, current_caller)
    return app
