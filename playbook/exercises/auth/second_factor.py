"""The exercise of the page "Second factor": its checker, its hints, wrong answers; and what the page's stage needs."""

import hmac
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from playbook.auth.second_factor import enrol, hotp, second_factors, step_of, use_code
from playbook.auth.throttling import throttles
from playbook.foundations.engines import make_engine
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url
from playbook.kit.stage import together

KEYS = [bytes(range(32))]  # of the lesson; yours are random, and in settings
NINE = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
HALF, DAY = timedelta(seconds=30), timedelta(days=1)
SignIn = Callable[[Any, str, str], str]
Reset = Callable[[Any, str], str]


def code_at(secret: bytes, moment: datetime) -> str:
    """What an app with this secret shows at a moment (RFC 6238)."""
    mac = hmac.digest(secret, struct.pack(">Q", int(moment.timestamp()) // 30), "sha1")
    (number,) = struct.unpack_from(">I", mac, mac[-1] & 15)
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06}"


class Shop:
    """Ada's account at a shop, with a second factor that was confirmed a minute ago; and a database for the recipe."""

    def __init__(self, url: str) -> None:
        self.engine, self.now, self.password, self.network = make_engine(url), NINE, "right", "Mallory's"
        self.keys = KEYS
        for metadata in (second_factors.metadata, throttles.metadata):
            metadata.create_all(self.engine)
        with self.engine.begin() as db:
            for each in (second_factors, throttles):
                db.execute(each.delete())
            before = NINE - 2 * HALF
            self.secret = enrol(db, "ada", self.keys) or b""
            use_code(db, "ada", hotp(self.secret, step_of(before)), before, self.keys, first=True)

    def code(self) -> str:
        return code_at(self.secret, self.now)


def attack(*given: Any) -> dict[str, str]:
    """What Mallory hears, by attack: `attack(sign_in, reset)`, or `attack(url, sign_in, reset)` on another database.

    Each of the last three is on a day of its own, so that guesses of the day before do not count.
    """
    *url, sign_in, reset = given
    shop = Shop(url[0] if url else lesson_url())

    def again() -> str:
        shop.network = "Ada's"
        sign_in(shop, "right", shop.code())
        shop.network = "Mallory's"
        said: str = sign_in(shop, "right", shop.code())
        return said

    heard = {"no code": sign_in(shop, "right", ""), "Ada's code, again": again()}
    heard["Ada's code, at once"] = f"{fifty(shop, sign_in)} of 50 signed in"
    heard["guesses"] = f"{compared(shop, sign_in)} compared"
    shop.network, shop.now = "a mail's", shop.now + DAY
    heard["her mailbox"] = reset(shop, "a new password")
    shop.engine.dispose()
    return heard


def fifty(shop: Shop, sign_in: SignIn) -> int:
    """How many of fifty programs at once the next code signs in. Each has a network of its own."""
    shop.now += DAY
    code = shop.code()

    class Program:
        """The shop, as one of the programs reaches it."""

        def __init__(self, number: int) -> None:
            self.network = f"program {number}"

        def __getattr__(self, name: str) -> Any:
            return getattr(shop, name)

    programs = {f"{number}": Program(number) for number in range(50)}
    work = {name: lambda program=program: sign_in(program, "right", code) for name, program in programs.items()}
    return list(together(**work).values()).count("signed in")


def compared(shop: Shop, sign_in: SignIn, guesses: int = 50) -> int:
    """How many wrong codes are compared. Each comes from another network: a botnet has thousands."""
    shop.now += DAY
    answers = []
    for number in range(guesses):
        shop.network = f"198.51.100.{number}"
        answers.append(sign_in(shop, "right", f"{number:04}"))  # too short to be right by chance
    return answers.count("wrong code")


HINTS = (
    "How does the page `mailed_links` keep a token, and how does `recovery_codes` know\nwhose a code is?",
    "Three things must fit at once: the hash of the token, the user who signs in, and\nthe time.",
)

DAYS = 30
WRONG = (
    # the token itself is in the table
    """
import secrets
from datetime import timedelta

def trust(db, devices, user_id, now):
    token = secrets.token_urlsafe()
    until = int((now + timedelta(days=30)).timestamp())
    db.execute(devices.insert().values(token_hash=token, user_id=user_id, until=until))
    return token

def is_trusted(db, devices, user_id, token, now):
    mine = [devices.c.token_hash == token, devices.c.user_id == user_id]
    alive = sa.select(devices.c.until).where(*mine, devices.c.until > now.timestamp())
    return db.scalar(alive) is not None
""",
    # whose device it is does not matter
    """
import hashlib, secrets
from datetime import timedelta

def trust(db, devices, user_id, now):
    token = secrets.token_urlsafe()
    until = int((now + timedelta(days=30)).timestamp())
    hashed = hashlib.sha256(token.encode()).hexdigest()
    db.execute(devices.insert().values(token_hash=hashed, user_id=user_id, until=until))
    return token

def is_trusted(db, devices, user_id, token, now):
    mine = devices.c.token_hash == hashlib.sha256(token.encode()).hexdigest()
    alive = sa.select(devices.c.until).where(mine, devices.c.until > now.timestamp())
    return db.scalar(alive) is not None
""",
    # for ever
    """
import hashlib, secrets
from datetime import timedelta

def trust(db, devices, user_id, now):
    token = secrets.token_urlsafe()
    until = int((now + timedelta(days=30)).timestamp())
    hashed = hashlib.sha256(token.encode()).hexdigest()
    db.execute(devices.insert().values(token_hash=hashed, user_id=user_id, until=until))
    return token

def is_trusted(db, devices, user_id, token, now):
    hashed = hashlib.sha256(token.encode()).hexdigest()
    mine = [devices.c.token_hash == hashed, devices.c.user_id == user_id]
    return db.scalar(sa.select(devices.c.until).where(*mine)) is not None
""",
    # a user who trusts one browser trusts all
    """
import hashlib, secrets
from datetime import timedelta

def trust(db, devices, user_id, now):
    token = secrets.token_urlsafe()
    until = int((now + timedelta(days=30)).timestamp())
    hashed = hashlib.sha256(token.encode()).hexdigest()
    db.execute(devices.insert().values(token_hash=hashed, user_id=user_id, until=until))
    return token

def is_trusted(db, devices, user_id, token, now):
    mine = sa.select(devices.c.until).where(devices.c.user_id == user_id, devices.c.until > now.timestamp())
    return db.scalar(mine) is not None
""",
)

devices = sa.Table(
    "devices",
    sa.MetaData(),
    sa.Column("token_hash", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)


@checker
def check(trust: Callable[..., str], is_trusted: Callable[..., bool]) -> str:
    """Trust a browser of Ada's and one of Mallory's, and try each token for each user, now and later."""
    engine = make_engine(lesson_url())
    devices.create(engine)
    with engine.begin() as db:
        said = tried(db, trust, is_trusted)
    engine.dispose()
    return f"not yet: {said}" if said else "right"


def tried(db: sa.Connection, trust: Callable[..., str], is_trusted: Callable[..., bool]) -> str | None:
    """The first thing that is wrong, in words; or None."""
    hers, other, mallorys = (trust(db, devices, user, NINE) for user in ("ada", "ada", "mallory"))
    if not all(isinstance(token, str) for token in (hers, other, mallorys)):
        return f"`trust` should return the token, not {type(hers).__name__}"
    if hers == other or len(hers) < 20:
        return "a token should be random, and long enough that nobody guesses it"

    def asks(user: str, token: str, days: float = 1) -> bool:
        return bool(is_trusted(db, devices, user, token, NINE + timedelta(days=days)))

    if not (asks("ada", hers) and asks("ada", other) and asks("mallory", mallorys)):
        return "a browser that was trusted yesterday should not need a code"
    if asks("ada", mallorys):
        return "Mallory's own browser signs in as Ada without a code"
    if asks("ada", "a guess"):
        return "a browser that Ada never trusted signs in without a code"
    rows = [value for row in db.execute(sa.select(devices)) for value in row]
    if any(asks("ada", str(value)) for value in rows):
        return "what Mallory reads in the table lets her sign in"
    if not asks("ada", hers, DAYS - 0.01) or asks("ada", hers, DAYS + 0.01):
        return f"the trust should end after {DAYS} days"
    return None
