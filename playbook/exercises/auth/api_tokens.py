"""The exercise of the page "API tokens": its checker, its hints, wrong answers; and what the page's stage needs."""

import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import sqlalchemy as sa

from playbook.auth.api_tokens import Granted, add_token, api_tokens, find_token
from playbook.foundations.clock_and_identifiers import DIGITS, is_token
from playbook.kit.data import data_path
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url


def basic(user: str, password: str) -> str:
    """The value of `Authorization` as httpx makes it."""
    request = httpx.Request("GET", "http://pantry.example/")
    return next(httpx.BasicAuth(user, password).auth_flow(request)).headers["authorization"]


Scanner = Callable[[str, str], Iterator[tuple[int, str]]]


def false_alarms(find_leaks: Scanner) -> list[tuple[str, int, int]]:
    """What three scanners report in `data/` and in 20,000 made lines, in which no token is: name and two counts."""
    files = [
        data_path(name).read_text("latin-1") for name in ("packages.csv", "legacy_uploads.csv", "better_auth.json")
    ]
    chance = random.Random(1)
    made = "\n".join("pantry_" + "".join(chance.choices(DIGITS, k=38)) for _ in range(20_000))
    scanners: dict[str, Callable[[str], int]] = {
        "32 letters and digits": lambda text: len(re.findall(r"\b\w{32,}\b", text)),
        "the prefix": lambda text: len(re.findall(r"\bpantry_\w{38}\b", text)),
        "prefix and checksum": lambda text: len(list(find_leaks(text, "pantry"))),
    }
    return [(name, sum(map(scan, files)), scan(made)) for name, scan in scanners.items()]


HINTS = (
    "`find_token` says whose the token is and for what, but not its name and its end.\nThose are columns of its row.",
    "Two ends are possible for the old token: the one it has, and `now + overlap`. Which\nof them may it get?",
)

WRONG = (
    # the old one goes on as before
    """
def rotate(db, token, now, lifetime, overlap):
    granted = find_token(db, token, now, "pantry")
    if granted is None:
        return None
    mine = api_tokens.c.token_hash == hash_token(token)
    name = db.execute(sa.select(api_tokens.c.name).where(mine)).scalar_one()
    return add_token(db, "pantry", granted.user_id, name, granted.scopes, now + lifetime)
""",
    # the old one ends at once
    """
def rotate(db, token, now, lifetime, overlap):
    granted = find_token(db, token, now, "pantry")
    if granted is None:
        return None
    mine = api_tokens.c.token_hash == hash_token(token)
    name = db.execute(sa.select(api_tokens.c.name).where(mine)).scalar_one()
    revoke_tokens(db, mine)
    return add_token(db, "pantry", granted.user_id, name, granted.scopes, now + lifetime)
""",
    # an old one that ends in an hour gets a day
    """
def rotate(db, token, now, lifetime, overlap):
    granted = find_token(db, token, now, "pantry")
    if granted is None:
        return None
    mine = api_tokens.c.token_hash == hash_token(token)
    name = db.execute(sa.select(api_tokens.c.name).where(mine)).scalar_one()
    db.execute(api_tokens.update().where(mine).values(expires_at=now + overlap))
    return add_token(db, "pantry", granted.user_id, name, granted.scopes, now + lifetime)
""",
    # who has found an expired token gets a good one
    """
def rotate(db, token, now, lifetime, overlap):
    mine = api_tokens.c.token_hash == hash_token(token)
    row = db.execute(sa.select(api_tokens).where(mine)).first()
    if row is None:
        return None
    end = min(row.expires_at, now + overlap)
    db.execute(api_tokens.update().where(mine).values(expires_at=end))
    return add_token(db, "pantry", row.user_id, row.name, row.scopes.split(), now + lifetime)
""",
    # all tokens of the user end
    """
def rotate(db, token, now, lifetime, overlap):
    granted = find_token(db, token, now, "pantry")
    if granted is None:
        return None
    mine = api_tokens.c.token_hash == hash_token(token)
    name = db.execute(sa.select(api_tokens.c.name).where(mine)).scalar_one()
    theirs = api_tokens.c.user_id == granted.user_id
    soon = sa.and_(theirs, api_tokens.c.expires_at > now + overlap)
    db.execute(api_tokens.update().where(soon).values(expires_at=now + overlap))
    return add_token(db, "pantry", granted.user_id, name, granted.scopes, now + lifetime)
""",
    # the new one ends with the old one
    """
def rotate(db, token, now, lifetime, overlap):
    granted = find_token(db, token, now, "pantry")
    if granted is None:
        return None
    mine = api_tokens.c.token_hash == hash_token(token)
    name, end = db.execute(sa.select(api_tokens.c["name", "expires_at"]).where(mine)).one()
    db.execute(api_tokens.update().where(mine).values(expires_at=min(end, now + overlap)))
    return add_token(db, "pantry", granted.user_id, name, granted.scopes, end)
""",
)

START, HOUR = datetime(2026, 11, 2, tzinfo=UTC), timedelta(hours=1)
LIFETIME, OVERLAP = 720 * HOUR, 24 * HOUR
Rotate = Callable[[sa.Connection, str, datetime, timedelta, timedelta], str | None]


class Trial:
    """A new table of tokens. Hours count from START."""

    def __init__(self, rotate: Rotate) -> None:
        self.rotate = rotate
        self.engine = sa.create_engine(lesson_url(), poolclass=sa.QueuePool)
        api_tokens.metadata.create_all(self.engine)

    def make(self, scopes: list[str], hours: int, name: str = "CI") -> str:
        with self.engine.begin() as db:
            return add_token(db, "pantry", "ada", name, scopes, START + hours * HOUR)

    def rotated(self, token: str, hour: float) -> str | None:
        with self.engine.begin() as db:
            new = self.rotate(db, token, START + hour * HOUR, LIFETIME, OVERLAP)
        if new is not None and not (isinstance(new, str) and is_token(new, "pantry")):
            raise AssertionError("return the new token, or None")
        return new

    def opens(self, token: str | None, hour: float) -> Granted | None:
        with self.engine.begin() as db:
            return find_token(db, token or "", START + hour * HOUR, "pantry")

    def names(self) -> list[str]:
        with self.engine.connect() as db:
            return sorted(db.scalars(sa.select(api_tokens.c.name)))


@checker
def check(rotate: Rotate) -> str:
    """Replace tokens that end late, soon, and that have ended."""
    trial = Trial(rotate)
    try:
        said = good_token(trial) or soon_over(trial) or dead_token(trial)
    finally:
        trial.engine.dispose()
    return f"not yet: {said}" if said else "right"


def good_token(trial: Trial) -> str | None:
    """The first thing that is wrong, in words; or None."""
    old, other = trial.make(["packages:read", "packages:write"], 500), trial.make(["packages:read"], 500, "laptop")
    new = trial.rotated(old, 100)
    before, after = trial.opens(old, 100), trial.opens(new, 100)
    if new is None or after is None or new == old:
        return "there is no new token that opens anything"
    if before is None or trial.opens(old, 123) is None:
        return "the old token is dead, and the job has not been changed yet"
    if trial.opens(old, 124) is not None:
        return "the old token is good after the overlap"
    if (after.user_id, after.scopes) != (before.user_id, before.scopes):
        return "the new token is another user's, or may do something else"
    if trial.names() != ["CI", "CI", "laptop"]:
        return f"the tokens are called {', '.join(trial.names())}"
    if trial.opens(new, 819) is None or trial.opens(new, 820) is not None:
        return "the new token does not last for its lifetime, which begins now"
    return "another token of the same user has ended" if trial.opens(other, 499) is None else None


def soon_over(trial: Trial) -> str | None:
    old = trial.make(["packages:read"], 10)
    trial.rotated(old, 9)
    return None if trial.opens(old, 10) is None else "an old token that was to end in an hour has got more time"


def dead_token(trial: Trial) -> str | None:
    expired, count = trial.make(["packages:read"], 10), len(trial.names())
    for dead in (expired, "pantry_" + "0" * 38, "nonsense"):
        if trial.rotated(dead, 10) is not None or len(trial.names()) != count:
            return "a token that opens nothing is replaced by one that does"
    return None
