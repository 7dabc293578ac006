"""What the tests of the auth track share: the whole of /api/auth on both engines, over real HTTP."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from tables import make_tables

from playbook.auth.mail import Mail, MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import make_engine
from playbook.kit.live import LiveClient, serving
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.wire import Auth
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings

ORIGIN = "http://localhost:8000"
PASSWORD = "violet anchor rides a slow train"


@dataclass
class Service:
    """/api/auth on a database of its own. `client` sends the front end's Origin and keeps cookies."""

    client: LiveClient
    auth: Auth
    sender: MemorySender

    @property
    def clock(self) -> FixedClock:
        assert isinstance(self.auth.clock, FixedClock)
        return self.auth.clock

    def another_client(self) -> LiveClient:
        """Another browser."""
        return LiveClient(str(self.client.base_url), headers={"origin": ORIGIN})

    def post(self, path: str, body: Any = None, client: httpx.Client | None = None, **options: Any) -> httpx.Response:
        return (client or self.client).post(f"/api/auth{path}", json={} if body is None else body, **options)

    def sign_up(
        self, email: str = "ada@example.com", client: httpx.Client | None = None, **more: Any
    ) -> httpx.Response:
        return self.post("/sign-up/email", {"name": "Ada", "email": email, "password": PASSWORD} | more, client)

    def sign_in(
        self, email: str = "ada@example.com", client: httpx.Client | None = None, **more: Any
    ) -> httpx.Response:
        return self.post("/sign-in/email", {"email": email, "password": PASSWORD} | more, client)

    def whoami(self, client: httpx.Client | None = None) -> Any:
        return (client or self.client).get("/api/auth/get-session").json()

    def mails(self) -> list[Mail]:
        """What has been sent so far, oldest first."""
        self.auth.postbox.drain()
        return list(self.sender.mails)

    def hold_background(self) -> threading.Event:
        """Let nothing run after an answer before the event that is returned is set."""
        held = threading.Event()
        assert self.auth.postbox.submit(lambda: held.wait(60))
        return held


@pytest.fixture
def auth_service(url: str) -> Iterator[Callable[..., Service]]:
    """A function that starts the service: `auth_service(require_email_verification=False, ...)` with any settings."""
    with ExitStack() as stack:

        def start(**changes: Any) -> Service:
            settings = Settings(**{"environment": "test", "database_url": url, "base_url": ORIGIN} | changes)
            engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
            stack.callback(engine.dispose)
            make_tables(engine)
            sender = MemorySender()
            postbox = Postbox(sender)
            stack.callback(postbox.close)
            auth = Auth(settings, engine, clock, Identifiers(clock, SeededBytes(1)), postbox, SeededBytes(2))
            client = stack.enter_context(serving(better_auth(auth)))
            client.headers["origin"] = ORIGIN
            return Service(client, auth, sender)

        yield start
