"""What the OpenAPI document says beyond single routes: who may call, what every answer carries, what can be refused.

The facts come from the routes themselves where they can be read there (their dependencies, their bodies), so that a new
route is described on the day it is written. Only the words are a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from playbook.api.errors import MAX_ERRORS
from playbook.api.representations import JSON, MERGE_PATCH, gives_json
from playbook.foundations.deny_by_default import routes_of
from playbook.pantry.auth.sessions import SESSION, cookies_of
from playbook.pantry.conditions import read_conditions, write_conditions
from playbook.pantry.errors import CHANGED, GENERAL, HEAD_TOO_LARGE, PROBLEM_CONTENT, PROBLEM_TYPES, TOO_MANY
from playbook.pantry.fields import PACKAGE_NAME, SLUG
from playbook.pantry.http import CHALLENGE, PERMISSION, SIGHT, current_caller
from playbook.pantry.limits import MAX_FIELD

Json = dict[str, Any]

ABOUT = """Organizations and the packages that they publish.

**Signing in.** `POST /api/auth/sign-in/email` with `email` and `password` sets the session cookie; all of `/api/auth`
speaks the contract of Better Auth and has clients of its own. With the cookie, a request that changes something needs
an `Origin` of the service; browsers send it by themselves, other clients set it.

**Machines** send an API token as `Authorization: Bearer pantry_...`, or, where a tool knows only Basic, as the password
of the user `__token__`. `POST /tokens` makes one, for a session that has just begun. A token does what its scopes name,
as far as its owner may do it; without the scope 403, and `WWW-Authenticate` names it.

**Errors** are problem details (RFC 9457); compare `type`, show `detail`, report `request_id`.

**Changing**: send the `ETag` of what you read as `If-Match`. Without it 428, and 412 when it is not the current one.
A patch is a JSON Merge Patch (RFC 7396), also when it is sent as `application/json`: what is left out stays, null
removes.

**Choosing fields**: `POST /graphql` reads the same things in one request, with the fields that it names.

**Repeating**: a POST with an `Idempotency-Key` acts once; repeated within a day, it gets the first answer. Not
`POST /tokens`, whose answer nobody keeps.
"""
TAGS = {
    "organizations": "Who publishes. Whoever makes one is its owner.",
    "packages": "What is published, found by any spelling of its name (PEP 503).",
    "graphql": "The same for clients that choose their fields. Reading only.",
    "tokens": "How machines sign in; for their owner, in a session.",
    "operations": "For the platform that runs the service.",
    "problems": "What each type of problem means.",
}
WORDS = {  # summary and description of the routes that have no words of their own
    ("get", "/organizations"): ("List organizations", "A page of them; `next` and `prev` lead to its neighbours."),
    ("post", "/organizations"): ("Create an organization", "The caller becomes its owner. 409: the slug is taken."),
    ("get", "/organizations/{slug}"): ("Read an organization", "With the `ETag` that a change of it has to name."),
    ("patch", "/organizations/{slug}"): ("Change an organization", "What is left out stays; null removes."),
    ("delete", "/organizations/{slug}"): ("Delete an organization", "409 as long as it owns packages."),
    ("get", "/packages"): ("List packages", "A page of them, of one organization if it is named."),
    ("post", "/packages"): ("Publish a package", "409: the name, in any spelling, is taken, or nobody has that slug."),
    ("get", "/packages/{name}"): ("Read a package", "With its newest version and the `ETag` for changing it."),
    ("patch", "/packages/{name}"): ("Change a package", "What is left out stays; null removes."),
    ("delete", "/packages/{name}"): ("Delete a package", "With its releases and files, at once and for good."),
    ("get", "/tokens"): ("List API tokens", ""),
    ("post", "/tokens"): ("Make an API token", ""),
    ("get", "/tokens/{token_id}"): ("Read an API token", ""),
    ("delete", "/tokens/{token_id}"): ("Revoke an API token", ""),
    ("get", "/health"): ("Alive?", ""),
    ("get", "/ready"): ("Ready?", ""),
    ("get", "/problems/{slug}"): ("Explain a type of problem", ""),
}
PARAMETERS = {
    "slug": "The name in the URL, in lower case.",
    "name": "The package's name, in any of its spellings.",
    "token_id": "The `id` of the token, which opens nothing.",
    "organization": "Only what this organization owns, by its slug.",
    "sort": "The order; `-` turns it round.",
    "If-Match": "The `ETag` of what you read, or `*` for whatever is there now.",
    "If-None-Match": "The `ETag` of what you have: 304 if it is still that.",
    "Idempotency-Key": "16 to 128 visible characters in double quotes, new for each new request.",
}
FIELD = {"maxLength": MAX_FIELD, "pattern": r"^[\t -~\u0080-\u00ff]*$"}  # of a head (RFC 9110, 5.5)
LIMITS: dict[str, Json] = {  # what the routes themselves do not say of a parameter
    "slug": {"pattern": SLUG, "minLength": 2, "maxLength": 40},
    "name": {"pattern": PACKAGE_NAME, "maxLength": 100},
    "token_id": {"maxLength": 45},  # `urn:uuid:` before it is taken
    "organization": {"pattern": r"^[^\u0000]*$"},
    "cursor": {"pattern": r"^[A-Za-z0-9_.-]*$"},
    "If-Match": {"maxLength": MAX_FIELD},
    "If-None-Match": FIELD,
    "Idempotency-Key": {"maxLength": 130},
}
TYPES_OF_PROBLEMS = {"enum": sorted(PROBLEM_TYPES)}
ORIGIN = {
    "name": "Origin", "in": "header", "required": False,
    "schema": {"type": "string", "maxLength": 300, "pattern": "^[a-z][a-z0-9+.-]*://[!-~]+$"},
    "description": "An origin of the service. Needed with the cookie; browsers send it by themselves.",
}  # fmt: skip
HEADERS = {  # what answers carry, and whether always
    "X-Request-Id": (True, "Names this request in the log. A client may choose it: 8 to 64 letters, digits, _ or -."),
    "ETag": (True, "The entity tag of the representation as it is now."),
    "Cache-Control": (True, "`private, no-cache`: keep it, but ask before using it."),
    "Vary": (True, "The request headers that the answer depends on."),
    "Location": (True, "The path of what was created."),
    "Link": (True, "The neighbouring pages (RFC 8288): `next`, `prev`; empty if there are none."),
    "WWW-Authenticate": (True, f"`{CHALLENGE}`, and what is wrong with a token that was sent (RFC 6750, 3)."),
    "Accept": (True, "The media types that are taken here (RFC 9110, 12.5.1)."),
    "Accept-Patch": (True, "The media types that are taken here (RFC 5789, 3.1)."),
    "Retry-After": (False, "Seconds to wait before trying again."),
    "RateLimit": (True, "What is left of the allowance, and the seconds until there is more."),
    "RateLimit-Policy": (True, "The allowance: how many requests (`q`) in how many seconds (`w`)."),
    "Idempotency-Replayed": (False, "`true`: the kept answer of the first request with this key."),
}
ANSWERED = GENERAL | {kind.status: kind for kind in (CHANGED, TOO_MANY, HEAD_TOO_LARGE)}


TOKEN_SCHEME = {
    "type": "http", "scheme": "bearer", "bearerFormat": "pantry_ and 38 letters and digits",
    "description": "Made by `POST /tokens`. The words of an operation are the scopes that the token needs.",
}  # fmt: skip
SCOPE_OF_BODY = {("post", "/packages"): "packages:create"}  # asked for when the body is read


def scopes_of(method: str, path: str, calls: frozenset[Any]) -> list[str]:
    """The scopes that a token needs; empty where no token will do."""
    names = [getattr(call, "__name__", "") for call in calls]
    found = [name.partition(" ")[2] for name in names if name.startswith((PERMISSION, SIGHT))]
    return sorted(found) or [scope for key, scope in SCOPE_OF_BODY.items() if key == (method, path)]


def describe_service(app: FastAPI, document: Json) -> None:
    """Complete the OpenAPI `document` of `app`. The last to write into it.

    With a sign-in (`app.state.auth`) each operation says whether it needs the session cookie, whose name depends on the
    settings: browsers want a prefix for https.
    """
    document["info"] |= {"description": ABOUT, "license": {"name": "MIT", "identifier": "MIT"}}
    # Wherever the document came from: no Host header is believed. A company runs it for itself.
    document["servers"] = [{"url": "/", "x-internal": True}]
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    components = document["components"]
    components["headers"] = {name: header(*about) for name, about in HEADERS.items()}
    problem = components["schemas"]["Problem"]
    problem["required"] = [*problem["required"], "request_id"]
    problem["properties"]["errors"] |= {"maxItems": MAX_ERRORS}
    problem["properties"]["errors"]["items"]["required"] = ["in", "detail"]
    problem["properties"]["status"] |= {"minimum": 400, "maximum": 599}
    auth = getattr(app.state, "auth", None)
    if auth is not None:
        cookie = {"type": "apiKey", "in": "cookie", "name": cookies_of(auth).prefix + SESSION}
        components["securitySchemes"] = {
            "session": cookie | {"description": "Set by `POST /api/auth/sign-in/email`."},
            "token": TOKEN_SCHEME,
        }
    for route in routes_of(app.routes):
        methods, _, path = route.name.partition(" ")
        for method in methods.lower().split("/"):
            if (operation := document["paths"].get(path, {}).get(method)) is not None:
                describe_operation(operation, method, path, route.calls, auth is not None)
    say_size_of_integers(document)


def describe_operation(operation: Json, method: str, path: str, calls: frozenset[Any], sign_in: bool) -> None:
    """Words, parameters, media types, security and answers of one operation."""
    summary, description = WORDS.get((method, path), ("", ""))
    operation["summary"] = summary or operation["summary"]
    operation["description"] = operation.get("description") or description
    operation.setdefault("tags", [path.split("/")[1]])
    if "parameters" in operation:
        operation["parameters"] = [described(parameter, path) for parameter in operation["parameters"]]
    content = operation.get("requestBody", {}).get("content", {})
    if MERGE_PATCH in content:
        content[JSON] = content[MERGE_PATCH]  # `takes` lets it in
    signed_in = current_caller in calls
    if sign_in:
        scopes = scopes_of(method, path, calls) if signed_in else []
        operation["security"] = [{"session": []}] if signed_in else []
        operation["security"] += [{"token": scopes}] if scopes else []
        if signed_in and method != "get":
            operation.setdefault("parameters", []).append(ORIGIN)
    statuses = [400, 414, 422, 429, 431, 500, 503, *([401] if signed_in else []), *([404] if "{" in path else [])]
    statuses += [403] if signed_in else []  # if not for the caller, then for a token without the scope
    statuses += [406] if gives_json in calls else []
    statuses += [412] if read_conditions in calls else []  # for who sends If-Match to a GET
    statuses += [413, 415] if content else []
    statuses += [409] if method == "post" or (method, path) == ("delete", "/organizations/{slug}") else []
    answers = operation["responses"]
    for status in statuses:
        refusal(answers, status, ANSWERED[status].title)
    for status, answer in answers.items():
        for name in headers_of(status, method, calls, operation):
            answer.setdefault("headers", {})[name] = {"$ref": f"#/components/headers/{name}"}
        if status == "403" and signed_in:
            answer["headers"]["WWW-Authenticate"] = header(False, "The scope that the token lacks (RFC 6750, 3.1).")
    operation["responses"] = dict(sorted(answers.items()))


def described(parameter: Json, path: str) -> Json:
    """A copy with words and limits. A query cannot say null, so what may be left out is not documented as nullable."""
    words = {"description": PARAMETERS[parameter["name"]]} if parameter["name"] in PARAMETERS else {}
    schema = parameter["schema"]
    kept = [inner for inner in schema.get("anyOf", ()) if inner.get("type") != "null"]
    if parameter["in"] == "query" and len(kept) == 1:
        schema = {name: value for name, value in schema.items() if name != "anyOf"} | kept[0]
    limits = TYPES_OF_PROBLEMS if path.startswith("/problems/") else LIMITS.get(parameter["name"], {})
    return words | parameter | {"schema": limits | schema}


def say_size_of_integers(part: Any) -> None:
    """`int32` for each integer with a maximum: a client in Java, Go or Swift has to choose a type."""
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        say_size_of_integers(inner)
    if isinstance(part, dict) and part.get("type") == "integer" and part.get("maximum", 2**31) < 2**31:
        part.setdefault("format", "int32")


def refusal(answers: Json, status: int, title: str) -> None:
    """Say that `status` can be answered; `title` joins the reasons that are there, in place of FastAPI's own."""
    answer = answers.setdefault(str(status), {"content": PROBLEM_CONTENT})
    reasons = [reason for reason in answer.get("description", "").split("; ") if reason not in ("", "Validation Error")]
    answer["description"] = "; ".join([title, *(reason for reason in reasons if reason != title)])


def headers_of(status: str, method: str, calls: frozenset[Any], operation: Json) -> Iterator[str]:
    """The names of the headers that an answer with `status` has."""
    yield "X-Request-Id"
    reads, writes = read_conditions in calls, write_conditions in calls
    if (reads and status in ("200", "304", "412")) or (writes and status in ("200", "412")):
        yield "ETag"
    if reads and status in ("200", "304"):
        yield from ("Cache-Control", "Vary")
        if any(parameter["name"] == "cursor" for parameter in operation.get("parameters", ())):
            yield "Link"
    if status == "201":
        yield "Location"
    if status == "401":
        yield "WWW-Authenticate"
    if status == "415":
        yield "Accept-Patch" if method == "patch" else "Accept"
    if status == "429":
        yield from ("RateLimit", "RateLimit-Policy")
    if status in ("429", "503") or (status == "409" and method == "post"):
        yield "Retry-After"
    if status < "500" and any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ())):
        yield "Idempotency-Replayed"


def header(required: bool, description: str) -> Json:
    return {"required": required, "description": description, "schema": {"type": "string"}}
