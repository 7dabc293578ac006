"""How often one network and one account may ask, for everything that the service answers, and how large a head may be.

Counted in memory, of the process or of all that serve together: these limits protect the machine. What protects an
account is in the database (`pantry.auth.sign_in`), and Better Auth's limits per path are counted beside these. Many
people behind one IPv4 address (NAT) share its allowance, which is therefore generous; what each signed-in account gets
is counted on top.
"""

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.api.errors import Problem, problem_response
from playbook.auth.throttling import network_of
from playbook.foundations.request_and_transaction import request_id
from playbook.pantry.auth.sign_in import too_many
from playbook.pantry.auth.wire import AuthError, general, in_wire_form
from playbook.pantry.errors import HEAD_TOO_LARGE, MALFORMED, TOO_MANY, URL_TOO_LONG
from playbook.pantry.memory import Memory, OwnMemory
from playbook.pantry.strict_input import MAX_PARAMETERS, MAX_URL

PROBES = ("/health", "/ready")  # a platform that gets no answer here restarts the service
AUTH = "/api/auth"
MAX_FIELD, MAX_LIST, MAX_ESCAPES = 8192, 200, 1000  # octets of one field; commas and semicolons in it; of one URL
MOST_KEYS = 100_000
known_network = lru_cache(4096)(network_of)  # a client asks more than once


@dataclass(frozen=True)
class Rate:
    """`burst` requests at once, and `per_second` in the long run. `name` is what the RateLimit fields call it."""

    name: str
    per_second: float
    burst: int


class Counts:
    """What each key has used of its `rate`: the generic cell rate algorithm (ITU-T I.371, annex A), in memory.

    At most MOST_KEYS are remembered; whoever was quiet longest is forgotten, which means: may ask. Thread safe.
    """

    def __init__(
        self, rate: Rate, clock: Callable[[], float] = time.monotonic, memory: Memory | None = None
    ) -> None:  # fmt: skip
        self.rate, self.clock = rate, clock
        self.whole_at = OwnMemory(MOST_KEYS) if memory is None else memory

    def take(self, key: str, times: int = 1) -> float:
        """Count a request of `key`, or what is worth as much as `times` of them: 0 when it may be answered, else the
        seconds until one may."""
        now, every = self.clock(), 1 / self.rate.per_second
        with self.whole_at.of(key) as kept:
            whole_at = max(kept[0], now)
            spent = min(times, self.rate.burst) * every  # what is worth more than a burst may come after a rest
            wait = whole_at + spent - now - self.rate.burst * every
            kept[0] = whole_at if wait > 1e-9 else whole_at + spent
        return wait if wait > 1e-9 else 0.0

    def headers(self, wait: float) -> dict[str, str]:
        """Of the answer to a request that must wait (draft-ietf-httpapi-ratelimit-headers, 3 and 4)."""
        seconds, window = max(1, math.ceil(wait)), math.ceil(self.rate.burst / self.rate.per_second)
        return {
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"{self.rate.name}";q={self.rate.burst};w={window}',
            "RateLimit": f'"{self.rate.name}";r=0;t={seconds}',
        }


class AccountLimits:
    """The allowance of each account, wherever it is signed in."""

    def __init__(self, counts: Counts | None) -> None:
        self.counts = counts

    def take(self, account: uuid.UUID, times: int = 1) -> None:
        """Count a request, or one that is worth `times`. Raises Problem 429 when there were too many."""
        if self.counts is not None and (wait := self.counts.take(str(account), times)):
            raise Problem(TOO_MANY, "this account has asked too often", headers=self.counts.headers(wait))


def head_fault(scope: Scope) -> Problem | None:
    """Why a head is not read; None when it is. Counted in C: to take a field apart costs a thousand times as much."""
    if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > MAX_URL:
        return Problem(URL_TOO_LONG, f"at most {MAX_URL} octets are taken")
    if scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        return Problem(URL_TOO_LONG, f"at most {MAX_PARAMETERS} query parameters are taken")
    if (scope.get("raw_path") or b"").count(b"%") + scope["query_string"].count(b"%") > MAX_ESCAPES:
        return Problem(MALFORMED, f"at most {MAX_ESCAPES} octets of a URL may be percent-encoded")
    for name, value in scope["headers"]:
        if len(value) > MAX_FIELD or value.count(b",") + value.count(b";") > MAX_LIST:
            where = name.decode("latin-1")[:50]
            return Problem(HEAD_TOO_LARGE, f"at most {MAX_FIELD} octets and {MAX_LIST} items in one field: {where}")
    return None


class RequestLimits:
    """ASGI, outermost: refuses heads that are too large (414, 431) and networks that ask too often (429).

    Each part of the service is answered in its own form. Probes have an allowance of their own.
    """

    def __init__(self, app: ASGIApp, counts: Counts | None, new_id: Callable[[], object]) -> None:
        self.app, self.counts, self.new_id = app, counts, new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path: str = scope["path"]
        mine = path == AUTH or path.startswith(AUTH + "/")
        problem: Problem | AuthError
        if (fault := head_fault(scope)) is not None:
            problem = general(fault.status_code) if mine else fault
        elif self.counts is not None and (wait := self.counts.take(self.key_of(scope))):
            seconds = max(1, math.ceil(wait))
            problem = too_many(seconds) if mine else Problem(TOO_MANY, "this network has asked too often")
            problem.headers = {**(problem.headers or {}), **self.counts.headers(wait)}
        else:
            return await self.app(scope, receive, send)
        request_id.set(own := str(self.new_id()))
        answer = in_wire_form(problem) if isinstance(problem, AuthError) else problem_response(problem, own)
        answer.headers["X-Request-Id"] = own
        await answer(scope, receive, send)

    @staticmethod
    def key_of(scope: Scope) -> str:
        """The client's network, and whether it is a probe that asks."""
        network = known_network((scope.get("client") or ("",))[0])
        return f"probe {network}" if scope["path"] in PROBES else network


def counts_for(name: str, per_second: float, on: bool, memory: Memory | None = None) -> Counts | None:
    """Counts of `per_second` requests, ten seconds of them at once; None when limits are off."""
    return Counts(Rate(name, per_second, max(1, int(10 * per_second))), memory=memory) if on else None
