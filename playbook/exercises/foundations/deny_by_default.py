"""The exercise of the page "Deny by default": its checker, its two hints, and answers that are wrong."""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from playbook.foundations.deny_by_default import anyone, caller_of, permission_of
from playbook.kit.exercises import checker

HINTS = (
    "See 'The walk': `routes_of` gives each route a `name` that begins with its methods, and\n"
    "`calls`, the functions that run for it. How does `permission_of` name its functions?",
    "Three questions for each route: is one of its methods a writing one? Is `caller` in\n"
    "`calls`? Has none of `calls` a name that begins with 'permission '?",
)

# Plausible, and refused in words. They may use what the page exports and what this module defines.
WRONG = (
    # Only the routes of the app itself, not those of mounted apps.
    "def written_by_all(app, caller):\n"
    "    names = []\n"
    "    for route in app.routes:\n"
    "        if hasattr(route, 'dependant') and route.methods & {'POST', 'PUT', 'PATCH', 'DELETE'}:\n"
    "            calls = calls_of(route.dependant)\n"
    "            if caller in calls and not any(c.__name__.startswith('permission ') for c in calls):\n"
    "                names.append(f'{\"/\".join(sorted(route.methods))} {route.path}')\n"
    "    return names",
    # Reading counts too.
    "def written_by_all(app, caller):\n"
    "    return [r.name for r in routes_of(app.routes) if caller in r.calls\n"
    "            and not any(c.__name__.startswith('permission ') for c in r.calls)]",
    # Forgets that a route may be open to everybody: that is another list.
    "def written_by_all(app, caller):\n"
    "    return [r.name for r in routes_of(app.routes) if r.calls\n"
    "            and r.name.split(' ')[0] in ('POST', 'PUT', 'PATCH', 'DELETE')\n"
    "            and not any(c.__name__.startswith('permission ') for c in r.calls)]",
    # A route can have several methods.
    "def written_by_all(app, caller):\n"
    "    return [r.name for r in routes_of(app.routes) if caller in r.calls\n"
    "            and r.name.split(' ')[0] in ('POST', 'PUT', 'PATCH', 'DELETE')\n"
    "            and not any(c.__name__.startswith('permission ') for c in r.calls)]",
    # Every route that needs the caller, permission or not.
    "def written_by_all(app, caller):\n"
    "    return [r.name for r in routes_of(app.routes) if caller in r.calls\n"
    "            and set(r.name.split(' ')[0].split('/')) & {'POST', 'PUT', 'PATCH', 'DELETE'}]",
    # Does not ask which methods, but what the path looks like.
    "def written_by_all(app, caller):\n"
    "    return [r.name for r in routes_of(app.routes) if 'DELETE' in r.name and caller in r.calls\n"
    "            and not any(c.__name__.startswith('permission ') for c in r.calls)]",
)


def a_service() -> tuple[FastAPI, Any, list[str]]:
    """An app, its caller, and the names that are to be found."""
    caller = caller_of(lambda connection: None, challenge="Bearer")
    other = caller_of(lambda connection: None, challenge="Bearer")
    permission = permission_of(caller, lambda *asked: False)
    signed_in, may = Depends(caller), permission("notes:write")
    app, admin = FastAPI(), FastAPI(openapi_url=None)
    inside = APIRouter(prefix="/drafts", dependencies=[signed_in])

    def nothing() -> None: ...

    def permission_slip() -> None: ...

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        app.add_api_route(f"/signed-in/{method.lower()}", nothing, methods=[method], dependencies=[signed_in])
        app.add_api_route(f"/permitted/{method.lower()}", nothing, methods=[method], dependencies=[may])
    app.add_api_route("/open", nothing, methods=["POST"], dependencies=[Depends(anyone)])
    app.add_api_route("/silent", nothing, methods=["POST"])
    app.add_api_route("/stranger", nothing, methods=["POST"], dependencies=[Depends(other)])
    app.add_api_route("/both", nothing, methods=["GET", "POST"], dependencies=[signed_in])
    app.add_api_route("/slip", nothing, methods=["POST"], dependencies=[signed_in, Depends(permission_slip)])
    app.add_api_route("/DELETE", nothing, methods=["GET"], dependencies=[signed_in])
    inside.add_api_route("/{number}", nothing, methods=["DELETE"])
    app.include_router(inside, prefix="/notes")
    admin.add_api_route("/users/{number}", nothing, methods=["DELETE"], dependencies=[signed_in])
    app.mount("/admin", admin)
    wanted = [f"{method} /signed-in/{method.lower()}" for method in ("POST", "PUT", "PATCH", "DELETE")]
    wanted += ["GET/POST /both", "POST /slip", "DELETE /notes/drafts/{number}", "DELETE /admin/users/{number}"]
    return app, caller, wanted


@checker
def check(written_by_all: Any) -> str:
    """Ask for the list of a service that has a route of each kind."""
    app, caller, wanted = a_service()
    found = written_by_all(app, caller)
    if not isinstance(found, list):
        return f"not yet: return a list of names, not {found!r}"
    too_many = [name for name in found if name not in wanted]
    for name in too_many:
        return f"not yet: {name!r} is in the list, but {reason(name)}"
    for name in wanted:
        if name not in found:
            return f"not yet: {name!r} is missing: it writes, needs the caller, and asks for no permission"
    if found != wanted:
        return "not yet: the right names, but not once each in the order of the routes"
    return "right"


def reason(name: Any) -> str:
    """Why a name does not belong into the list."""
    text = str(name)
    if "/permitted/" in text:
        return "it asks for a permission"
    if "/open" in text or "/silent" in text or "/stranger" in text:
        return "it does not need this caller; whom it lets in is another list"
    return "it does not write, or no route has this name"
