"""The form of Better Auth's contract: bodies, error words, cookies, and what every route of it is given."""

import json
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, TypeVar, get_origin
from urllib.parse import parse_qsl
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import orm
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.api.errors import QUOTING
from playbook.auth.cookies import AnswerCookies as AnswerCookies
from playbook.auth.cookies import keep_cookies as keep_cookies
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, RandomBytes
from playbook.foundations.request_and_transaction import RequestId, request_id
from playbook.foundations.transactions import transaction
from playbook.pantry.http import off_the_loop
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings
from playbook.pantry.strict_input import json_fault

T = TypeVar("T")


@dataclass(frozen=True)
class Auth:
    """What every flow needs. Lessons and tests give fixed clocks, seeded bytes and a mailbox in memory."""

    settings: Settings
    engine: sa.Engine
    clock: Clock
    ids: Identifiers
    postbox: Postbox
    random_bytes: RandomBytes = secrets.token_bytes
    admit: Callable[[UUID], None] = lambda user_id: None  # called for each request of an account; may refuse it

    def transact(self, work: Callable[[orm.Session], T], **options: Any) -> T:
        """`work` in one transaction; see `transaction`, also for `options`."""
        return transaction(self.engine, work, **options)


async def auth_of(request: Request) -> Auth:
    auth: Auth = request.app.state.auth
    return auth


Service = Annotated[Auth, Depends(auth_of)]


MESSAGES = {  # by code: what Better Auth says, word for word, since front ends show it
    "UNAUTHORIZED": "Unauthorized",
    "PAYLOAD_TOO_LARGE": "Payload Too Large",
    "INVALID_ORIGIN": "Invalid origin",
    "MISSING_OR_NULL_ORIGIN": "Missing or null Origin",
    "INVALID_CALLBACK_URL": "Invalid callbackURL",
    "INVALID_REDIRECT_URL": "Invalid redirectURL",
    "INVALID_ERROR_CALLBACK_URL": "Invalid errorCallbackURL",
    "INVALID_NEW_USER_CALLBACK_URL": "Invalid newUserCallbackURL",
    "CROSS_SITE_NAVIGATION_LOGIN_BLOCKED": (
        "Cross-site navigation login blocked. This request appears to be a CSRF attack."
    ),
    "SESSION_NOT_FRESH": "Session is not fresh",
    "METHOD_NOT_ALLOWED_DEFER_SESSION_REQUIRED": (
        "POST method requires deferSessionRefresh to be enabled in session config"
    ),
    "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL": "User already exists. Use another email.",
    "EMAIL_MISMATCH": "Email mismatch",
    "EMAIL_ALREADY_VERIFIED": "Email is already verified",
    "INVALID_TOKEN": "Invalid token",
    "TOKEN_EXPIRED": "Token expired",
    "INVALID_EMAIL": "Invalid email",
    "INVALID_EMAIL_OR_PASSWORD": "Invalid email or password",
    "EMAIL_NOT_VERIFIED": "Email not verified",
    "PASSWORD_TOO_LONG": "Password too long",
    "INVALID_PASSWORD": "Invalid password",
    "CREDENTIAL_ACCOUNT_NOT_FOUND": "Credential account not found",
    "SESSION_EXPIRED": "Session expired. Re-authenticate to perform this action.",
    "INVALID_USER": "Invalid user",
    "EMAIL_CAN_NOT_BE_UPDATED": "Email can not be updated",
    "OTP_NOT_CONFIGURED": "OTP is not available",
    "TOTP_NOT_ENABLED": "TOTP not enabled",
    "TOTP_ALREADY_ENABLED": "TOTP is already enabled",
    "TWO_FACTOR_NOT_ENABLED": "Two factor isn't enabled",
    "BACKUP_CODES_NOT_ENABLED": "Backup codes aren't enabled",
    "INVALID_BACKUP_CODE": "Invalid backup code",
    "INVALID_CODE": "Invalid code",
    "INVALID_TWO_FACTOR_COOKIE": "Invalid two factor cookie",
}
CODES = {413: "PAYLOAD_TOO_LARGE", 422: "UNPROCESSABLE_ENTITY"}  # Python has renamed these two, Better Auth has not


class AuthError(Exception):
    """An error of the auth API. Without `message` it has the one of MESSAGES, or else the status's phrase.

    `code` None leaves the member out, as Better Auth does here and there.
    """

    def __init__(
        self, status: int, code: str | None, message: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.code = status, code
        self.message = message or MESSAGES.get(code or "", HTTPStatus(status).phrase)
        self.headers = dict(headers or {})
        super().__init__(self.message)


def general(status: int, headers: Mapping[str, str] | None = None) -> AuthError:
    """The error of a status about which nothing else is to be said."""
    return AuthError(status, CODES.get(status, HTTPStatus(status).name), headers=headers)


def in_wire_form(error: AuthError) -> Response:
    """`error` as an answer."""
    body = {"message": error.message} | ({"code": error.code} if error.code else {})
    return JSONResponse(body, error.status, error.headers)


def iso(moment: datetime) -> str:
    """A time in UTC as JavaScript writes it, in milliseconds: `2026-11-23T02:28:47.339Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


FORM, JSON = "application/x-www-form-urlencoded", "application/json"
FORMS = ("/api/auth/sign-in/email", "/api/auth/sign-up/email")  # what a page without script may send
MAX_FIELDS, MAX_ESCAPES = 50, 10_000  # counted before a form is taken apart: both cost time
UNDEFINED = object()  # no body at all; named as JavaScript does, because front ends show the message


def read_form(raw: bytes) -> dict[str, str]:
    """The fields of a form (WHATWG URL, 5.1). Raises ValueError when it is not UTF-8, has NUL or a name twice."""
    if raw.count(b"&") >= MAX_FIELDS or raw.count(b"%") > MAX_ESCAPES:
        raise ValueError("too many fields, or too many escapes")
    text = raw.decode("utf-8")
    pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    fields = dict(pairs)
    if len(fields) < len(pairs) or any("\0" in part for pair in pairs for part in pair):
        raise ValueError("a name is given twice, or there is a NUL")
    return fields


async def read_body(request: Request) -> Any:
    """The body as JSON, or a form as texts; UNDEFINED without one. Raises AuthError 400 or 415. Read once a request.

    A body without a Content-Type is none, as for Better Auth.
    """
    if hasattr(request.state, "sent"):
        return request.state.sent
    named = request.headers.get("content-type", "")
    kind, sent = named.split(";")[0].strip().lower(), UNDEFINED
    allowed = (FORM, JSON) if request.scope["path"] in FORMS else (JSON,)
    if raw := await request.body() if kind else b"":
        if kind not in allowed:
            words = f'Content-Type "{named[:100]}" is not allowed. Allowed types: {", ".join(allowed)}'
            raise AuthError(415, "UNSUPPORTED_MEDIA_TYPE", words)
        fault = await off_the_loop(json_fault, raw) if kind == JSON else ""
        if fault:
            raise AuthError(400, "BAD_REQUEST", "Invalid JSON in request body")
        try:
            sent = json.loads(raw) if kind == JSON else await off_the_loop(read_form, raw)
        except ValueError:
            raise AuthError(400, "BAD_REQUEST", "Invalid form in request body") from None
    request.state.sent = sent
    return sent


class Sent(BaseModel):
    """A request body. Strict: the text "true" is no boolean. Unknown members are ignored, as Better Auth does."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


Text = Annotated[str, Field(max_length=2000)]
KINDS: dict[Any, str] = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
EXPECTED = {f"{python.__name__}_type": name for python, name in KINDS.items()} | {"string_type": "string"}

OF_A_UNION = re.compile(r"str|list\[.*\]")  # Pydantic names the type that it tried as if it were a field


def in_words(fault: Mapping[str, Any], place: str, types: Mapping[str, str]) -> str:
    """One of Pydantic's errors as zod would word it. `types`: JavaScript's name of each field's type."""
    path = [str(part) for part in fault["loc"]]
    named = [part for part in path if not OF_A_UNION.fullmatch(part)]
    where = "[" + ".".join([place, *named]) + "]"
    if named != path:  # none of the types that the field may have
        return f"{where} Invalid input"
    kind, value = fault["type"], fault.get("input")
    if kind in ("string_too_short", "string_too_long"):
        few, limit = kind == "string_too_short", next(iter(fault["ctx"].values()))
        compared = f"to have {'>=' if few else '<='}{limit} characters"
        return f"{where} Too {'small' if few else 'big'}: expected string {compared}"
    if kind == "missing":
        return f"{where} Invalid input: expected {types.get(str(fault['loc'][0]), 'string')}, received undefined"
    if kind in EXPECTED:
        return f"{where} Invalid input: expected {EXPECTED[kind]}, received {KINDS.get(type(value), 'null')}"
    return f"{where} {'Invalid input' if kind in QUOTING else fault['msg']}"


Model = TypeVar("Model", bound=Sent)


def body(model: type[Model], optional: bool = False) -> Any:
    """A dependency: the request's body as `model`. AuthError 400 VALIDATION_ERROR names every wrong field.

    With `optional`, no body is an empty one.
    """
    annotations = {name: field.annotation for name, field in model.model_fields.items()}
    types = {name: KINDS.get(get_origin(kind) or kind, "string") for name, kind in annotations.items()}
    types |= {name: "object" for name, kind in annotations.items() if isinstance(kind, type) and issubclass(kind, Sent)}

    async def read(request: Request) -> Model:
        sent = await read_body(request)
        if sent is UNDEFINED and optional:
            sent = {}
        if not isinstance(sent, dict):
            received = "undefined" if sent is UNDEFINED else KINDS.get(type(sent), "null")
            raise AuthError(400, "VALIDATION_ERROR", f"[body] Invalid input: expected object, received {received}")
        try:
            return model.model_validate(sent)
        except ValidationError as error:
            faults = error.errors(include_url=False)
        raise AuthError(
            400, "VALIDATION_ERROR", "; ".join(dict.fromkeys(in_words(fault, "body", types) for fault in faults))
        )

    return Depends(read)


log = logging.getLogger("pantry.auth")


def answer_auth_error(request: Request, error: Exception) -> Response:
    """The exception handler of everything under /api/auth."""
    if isinstance(error, HTTPException):
        if error.status_code in (404, 405):
            return Response(status_code=404)
        error = general(error.status_code, error.headers)
    elif isinstance(error, RequestValidationError):  # a parameter of the URL
        words = [in_words({**fault, "loc": fault["loc"][1:]}, str(fault["loc"][0]), {}) for fault in error.errors()]
        error = AuthError(400, "VALIDATION_ERROR", "; ".join(words))
    elif isinstance(error, sa.exc.SQLAlchemyError):
        log.error("%s: %s", request_id.get(), type(error).__name__, exc_info=error)
        error = AuthError(503, "SERVICE_UNAVAILABLE", headers={"Retry-After": "1"})
    assert isinstance(error, AuthError)
    return in_wire_form(error)


PLAIN = (b"content-type", b"text/plain; charset=utf-8")


class LastResort:
    """ASGI: an error that was answered in plain text is answered as an AuthError; an exception is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def send_in_form(message: Message) -> None:
            nonlocal replaced
            begins = message["type"] == "http.response.start" and message["status"] >= 400
            if not begins or PLAIN not in message["headers"]:
                return None if replaced else await send(message)
            replaced, response = True, in_wire_form(general(message["status"]))
            if message["status"] == 500:  # uvicorn closes the connection then: the client must not reuse it
                response.headers["connection"] = "close"
            await response(scope, receive, send)

        try:
            await self.app(scope, receive, send_in_form)
        except ClientDisconnect:  # in the middle of its request: nothing has failed
            log.info("%s: the client has gone", request_id.get())
        except Exception as error:
            log.error("%s: %s", request_id.get(), type(error).__name__)  # the server logs the traceback
            raise


def auth_app(auth: Auth, routers: Sequence[APIRouter], guards: Sequence[Callable[..., Any]]) -> FastAPI:
    """The app that answers under /api/auth. `guards` are dependencies that run first, for every route."""
    app = FastAPI(openapi_url=None, redirect_slashes=False, max_body_size=auth.settings.max_body_bytes)
    app.state.auth = auth
    for kind in (HTTPException, RequestValidationError, AuthError, sa.exc.OperationalError, sa.exc.TimeoutError):
        app.add_exception_handler(kind, answer_auth_error)
    for router in routers:
        app.include_router(router, dependencies=[Depends(guard) for guard in guards])
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: AnswerCookies(  # type: ignore[method-assign]
        RequestId(LastResort(build()), auth.ids.new)
    )
    return app
