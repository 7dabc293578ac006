# %% [markdown]
"""
# Sign in

Let people prove who they are, while attackers guess a million times. Never lock the
owner out.

| | |
|---|---|
| **Use it when** | people sign in with an e-mail address and a password |
| **You need** | [throttling](throttling.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | login, brute force, spraying, user enumeration, botnet, known device |
| **Standard** | NIST SP 800-63B-4, 3.2.2; OWASP ASVS 5.0, 6.1.1, 6.3.1, 6.3.8 |

```python
from playbook.auth.sign_in import Attempt, enter, prove

attempt = Attempt(email, network_of(address), now)
proven = prove(engine, attempt, password, find, check)  # or TooManyAttempts,
token = enter(engine, proven, keep, start)  # or WrongPassword
```

*Lift: 211 lines in 4 files; needs sqlalchemy.*

## See it break

A careful developer has read [throttling](throttling.ipynb). The folded cell imports
`Allowance`, `spend`, `NINE`, `sa`, `timedelta`, `show`, `table`, `lesson_url` and
`on_postgres`. `Accounts` is a new database with Ada's row in the table `users`, and
with `check`, the slow comparison with a stored hash. `find` returns a user and the
stored hash, or None. `start` makes a session. `attacks`, `told` and `race` come later.
"""

# %% tags=["stage"]
from datetime import timedelta

import sqlalchemy as sa

from playbook.auth.throttling import Allowance, network_of, spend
from playbook.exercises.auth.sign_in import (
    NINE,
    Accounts,
    attacks,
    find,
    race,
    start,
    told,
    users,
)
from playbook.kit.lesson import lesson_url, on_postgres, serving, show, table

# %%
five = Allowance(burst=5, every=timedelta(minutes=1))


def simple_sign_in(accounts, email, password, network):
    if spend(accounts.engine, five, ("sign-in", email, network), NINE):
        return "too many"
    with accounts.engine.connect() as db:
        found = find(db, email)
    if not found or not accounts.check(password, found[1]):
        return "wrong"
    with accounts.engine.begin() as db:
        return start(db, email)


# %% [markdown]
"""
`attacks(sign_in)` tries three attacks of Mallory:

1. Mallory rents 12 networks, and guesses Ada's password from each until refused.
2. Mallory sends a wrong password to Ada's address, and one to an unknown address, and
   looks at the clock.
3. Mallory has Ada's password and signs in. While it is compared, Ada changes it. The
   change ends all sessions of the account.

How many passwords are compared in 1? How many hashes are computed for each address in
2? How many sessions are left in 3?
"""

# %% tags=["predict"]
show(table(attacks(simple_sign_in), ["attack", "number"]))

# %% [markdown]
"""
Each network has its own five guesses, and networks are cheap. A slow hash takes far
longer than the rest, so the clock tells who has an account. And Mallory's session
outlives the change: its comparison was older.

## The decision

Whose guesses are counted together?

| option | good | costs |
|---|---|---|
| the account's | guessing ends | anybody locks Ada out |
| each network's | Ada is not touched | five guesses for each rented network |
| each browser's, by a cookie | Ada gets in where she was | one more cookie |
| **known network's, or all strangers'** | the same, no cookie | neighbours |
| nobody's (Django, Flask-Login) | Django hashes for unknown users | no limit |

We choose **known networks**. A network from which Ada has signed in within 90 days is
known to her account. All other networks are *strangers*, and share one allowance. So a
thousand networks have 50 guesses together, and Ada signs in from home meanwhile. Choose
the device cookie (OWASP) where the addresses of your users change daily.

What Ada pays: from a new place, during an attack, she must reset her password by mail.

## Build it

### The idea

Four steps, and their order is the recipe:

```text
 1 read            2 count           3 compare          4 write
 the stored hash   two allowances    the slow hash,     the hash again,
 is it known?      commit at once    no transaction     the session
      |                 |                 |                  |
 unknown address   too many: stop    as much work for   hash has changed:
 goes on as well                     an unknown one     no session
```

Step 2 stands before step 3, or fifty requests at once are compared. A transaction must
not wait for a slow hash, so step 3 has none, and step 4 must look again.

### Who is counted together

Two allowances, and how long a network stays known. NIST allows 100 failures in a row.
The cell below the numbers says how many strangers have in 50 weeks.
"""

# %% tags=["export"]
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from playbook.auth.throttling import Allowance, Database, forget, give_back, spend

PER_NETWORK = Allowance(5, timedelta(minutes=1))  # at one account, from one network
PER_ACCOUNT = Allowance(50, timedelta(weeks=1))  # from strangers, or one known network
KNOWN_FOR = timedelta(days=90)  # since the last sign-in from there

# %%
print(PER_ACCOUNT.burst + timedelta(weeks=50) // PER_ACCOUNT.every)

# %% [markdown]
"""
`Attempt` spends from both allowances:
"""


# %% tags=["export"]
@dataclass(frozen=True)
class Attempt:
    """A client at `network` says that it is `email`. `prove` finds out `known`."""

    email: str  # normalized
    network: str
    now: datetime
    known: bool = False

    def spend(self, engine: sa.Engine) -> int:
        """Count it, before anything is compared. 0, or the seconds to wait."""
        wait = spend(engine, PER_NETWORK, ("guess", self.email, self.network), self.now)
        shared = self.network if self.known else "strangers"
        return wait or spend(
            engine, PER_ACCOUNT, ("from", self.email, shared), self.now
        )

    def was_right(self, db: Database) -> None:
        """Forget what failed from this network; give the strangers one back."""
        forget(db, *[(name, self.email, self.network) for name in ("guess", "from")])
        if not self.known:
            give_back(db, PER_ACCOUNT, ("from", self.email, "strangers"))

    def entered(self, db: Database) -> None:
        """It was right and opened a session: the account knows this network now."""
        self.was_right(db)
        recognize(db, self.email, self.network, self.now)


# %%
accounts = Accounts()
attempts = [Attempt("ada", f"network {number}", NINE) for number in range(60)]
waits = [attempt.spend(accounts.engine) for attempt in attempts]
print(waits.count(0), "of 60 granted; then wait", max(waits), "seconds")

# %% [markdown]
"""
That is a week. A right password gives the strangers back one attempt, not all. If
their refusals stopped each time, Mallory would see that somebody uses the account.

### Known networks

"She has a session from there" would be the easy test. It forgets Ada when she signs
out. So a known network is a row of its own in the same table: a key, and a time after
which it means nothing.
"""

# %% tags=["export"]
from playbook.auth.throttling import key_hash, throttles
from playbook.foundations.engines import Timestamp

KNOW = sa.text("""
    INSERT INTO throttles (key_hash, whole_at) VALUES (:key_hash, :until)
    ON CONFLICT (key_hash) DO UPDATE SET whole_at = excluded.whole_at
    RETURNING key_hash
""").bindparams(sa.bindparam("until", type_=Timestamp()))


def recognize(db: Database, email: str, network: str, now: datetime) -> None:
    """The account knows this network: its owner was there."""
    mine = key_hash(("known", email, network))
    db.execute(KNOW, {"key_hash": mine, "until": now + KNOWN_FOR})


def is_known(db: Database, email: str, network: str, now: datetime) -> bool:
    """Whether the account knows this network."""
    mine = throttles.c.key_hash == key_hash(("known", email, network))
    found = sa.select(throttles.c.key_hash).where(mine, throttles.c.whole_at > now)
    return db.scalar(found) is not None


# %%
with accounts.engine.begin() as db:
    recognize(db, "ada", "home", NINE)
    for days in (0, 89, 90):
        print(days, is_known(db, "ada", "home", NINE + timedelta(days=days)))

# %% [markdown]
"""
### Prove

The words of a refusal say nothing about the account:
"""

# %% tags=["export"]
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from playbook.foundations.transactions import transaction


class WrongPassword(Exception):
    """No account has this address and this password. Answer 401."""


class TooManyAttempts(Exception):
    """Its argument: the seconds to wait. Answer 429 with `Retry-After`."""


@dataclass(frozen=True)
class Proven:
    """Whose password it was, the hash that was compared, and what `check` returned."""

    attempt: Attempt
    user: Any
    stored: str
    verdict: Any


# %% [markdown]
"""
For an unknown address `prove` calls `check(password, None)`. It must compute as much as
for a user, and refuse. `check_password` of the
[password page](password_hashing.ipynb) does:
"""

# %%
from playbook.auth.password_hashing import check_password

print(check_password("a guess", None))

# %% [markdown]
"""
`told(function, ...)`, in the cell after the next one, returns the exception of a call.
"""


# %% tags=["export"]
def prove(
    engine: sa.Engine,
    attempt: Attempt,
    password: str,
    find: Callable[[Session, str], tuple[Any, str | None] | None],
    check: Callable[[str, str | None], Any],
) -> Proven:
    """Whose address and password these are, or TooManyAttempts, or WrongPassword."""

    def read(db: Session) -> tuple[bool, Any]:
        known = is_known(db, attempt.email, attempt.network, attempt.now)
        return known, find(db, attempt.email)

    known, found = transaction(engine, read)
    attempt = replace(attempt, known=known)
    wait = attempt.spend(engine)
    if wait:
        raise TooManyAttempts(wait)
    user, stored = found or (None, None)
    verdict = check(password, stored)
    if stored is None or not verdict:
        raise WrongPassword
    return Proven(attempt, user, stored, verdict)


# %%
for email in ("ada", "unknown"):
    accounts = Accounts()
    asked = (accounts.engine, Attempt(email, "road", NINE), "a guess", find)
    heard = [told(prove, *asked, accounts.check) for _ in range(6)]
    print(email, accounts.hashes, "hashes;", *heard[4:])

# %% [markdown]
"""
### Enter

`enter` starts the session. Your `keep(db, user, stored)` says whether the stored hash
is still the one that was compared. If not, there is no session.
"""


# %% tags=["export"]
def enter(
    engine: sa.Engine,
    proven: Proven,
    keep: Callable[[Session, Any, str], Any],
    start: Callable[[Session, Any], Any],
) -> Any:
    """What `start(db, user)` returns; WrongPassword if `keep` finds another hash."""

    def work(db: Session) -> Any:
        if not keep(db, proven.user, proven.stored):
            raise WrongPassword
        proven.attempt.entered(db)
        return start(db, proven.user)

    return transaction(engine, work)


# %% [markdown]
"""
The whole sign-in, with two versions of `keep`. The first looks at the hash again. The
second *writes* it, although it is there already.
"""


# %%
def look(db, email, stored):
    return find(db, email) == (email, stored)


def write(db, email, stored):
    mine = users.update().where(users.c.email == email, users.c.password_hash == stored)
    return db.scalar(mine.values(password_hash=stored).returning(users.c.email))


def sign_in(accounts, email, password, network, keep=write):
    attempt = Attempt(email, network, accounts.now)
    try:
        proven = prove(accounts.engine, attempt, password, find, accounts.check)
        return enter(accounts.engine, proven, keep, start)
    except (WrongPassword, TooManyAttempts) as error:
        return "wrong" if isinstance(error, WrongPassword) else "too many"


print([sign_in(Accounts(), "ada", word, "home") for word in ("a guess", "right")])

# %% [markdown]
"""
In `race(sign_in, keep)` Ada changes the password. After Ada's two statements, before
the COMMIT, Mallory signs in with the old password. The function shows both
transactions. It returns what Mallory hears, and how many sessions are left. Which
`keep` stops Mallory?
"""

# %% tags=["predict"]
outcomes = []
for keep in (look, write):
    outcomes.append(race(sign_in, keep))
    print(outcomes[-1])

# %% [markdown]
"""
A look reads the committed row, which still has the old hash, and
[conflicts](../glossary.md#conflict) with nothing. Two writes of one row conflict,
whatever their order. The loser runs again and finds no row with the old hash.

## See it work

The three attacks again:
"""

# %%
attacked = dict(attacks(sign_in))
show(table(attacked.items(), ["attack", "number"]))

# %% [markdown]
"""
Now over HTTP. Ada signs in from home. Mallory sends 52 guesses from 52 networks, and 30
days later 6 more. Then Ada signs in from home, and from a phone. Ada resets the
password there: the service calls `recognize`. Ada tries the phone again. The folded
cell defines `siege(url)`. How many guesses are compared each time? What does Ada hear?
"""

# %% tags=["stage"]
from fastapi import Body, FastAPI, Request, Response


def service(accounts):
    app = FastAPI()

    @app.post("/sign-in/{email}")
    def post(email: str, request: Request, password: str = Body(embed=True)):
        network = network_of(request.client.host)
        heard = sign_in(accounts, email, password, network)
        return Response(heard, {"wrong": 401, "too many": 429}.get(heard, 200))

    return app


def siege(url):
    accounts = Accounts(url)
    rows = {}
    with serving(service(accounts)) as client:

        def status(address, password="right"):
            headers = {"x-forwarded-for": address}
            sent = {"json": {"password": password}, "headers": headers}
            return client.post("/sign-in/ada", **sent).status_code

        rows["Ada at home"] = status("192.0.2.7")
        for name, number, pause in (("52", 52, 0), ("6, 30 days later", 6, 30)):
            accounts.now += timedelta(days=pause)
            before = accounts.hashes
            for n in range(number):
                status(f"2001:db8:{n:x}::1", "a guess")
            rows[f"Mallory, {name}"] = f"{accounts.hashes - before} compared"
        rows["Ada at home, then"] = status("192.0.2.7")
        rows["Ada's phone"] = status("198.51.100.9")
        with accounts.engine.begin() as db:
            recognize(db, "ada", "198.51.100.9", accounts.now)
        rows["Ada's phone after a reset"] = status("198.51.100.9")
    return rows


# %% tags=["predict"]
besieged = siege(lesson_url())
show(table(besieged.items(), ["who", "what"]))

# %% [markdown]
"""
## On PostgreSQL

The second writer waits for the first. `make_engine` sets REPEATABLE READ: PostgreSQL
then refuses the second writer, and `enter` repeats its work. At READ COMMITTED, the
default, PostgreSQL looks at its `WHERE` again, and no row fits. The race with `write`,
and the siege:
"""

# %%
raced = on_postgres(lambda url: race(sign_in, write, url))
there = on_postgres(siege)
print(raced, "| the same siege" if there == besieged else there)

# %% [markdown]
"""
## Check it
"""

# %%
assert attacked["1. passwords compared"] == 50, "strangers have more than 50 guesses"
hashes = [attacked[f"2. hashes for {email}"] for email in ("ada", "unknown")]
assert hashes == [1, 1], "the clock tells who has an account"
assert "sessions: 0" in outcomes[1], "an old password opens a session"
ada = [status for who, status in besieged.items() if "Ada" in who]
assert ada == [200, 200, 429, 200], "Ada is locked out, at home or after a reset"
assert raced in (outcomes[1], None), "PostgreSQL lets an old password in"
assert there in (besieged, None), "PostgreSQL counts in another way"
print("50 of 60 compared; equal work; no session by an old password; Ada gets in")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `if self.known else "strangers"` | `or ""` | strangers have more than 50 guesses |
| `= check(` | `= found and check(` | the clock tells who has an account |
| `if not keep(` | `if None and keep(` | an old password opens a session |

## Your turn

Mallory turns it round: the most common password, against a thousand accounts, from one
network. This is **password spraying**. Pairs stolen from another service would be
**credential stuffing**. No account sees more than one guess.

Write `before`, which the service calls before a password is compared. It returns 0, or
the seconds to wait when this network has tried more accounts than `SPRAYED` allows. To
guess one account again within an hour is not another account. Write `after`, which runs
in the transaction of a right password. An office of 500 people behind one address has
done nothing wrong. Mallory has an account, too.
"""

# %%
SPRAYED = Allowance(6, timedelta(minutes=3))  # accounts of one network


# %% tags=["exercise"]
def before(engine, email, network, now):
    """0, or the seconds to wait; `spend` may help more than once."""
    raise NotImplementedError


def after(db, email, network):
    """Undo what a right password has used up."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.sign_in import HINTS, check

check(before, after)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def before(engine, email, network, now):
    # An allowance of one is a mark: it can be spent once within the hour.
    tried = ("tried", network, email)
    if spend(engine, Allowance(1, timedelta(hours=1)), tried, now):
        return 0
    wait = spend(engine, SPRAYED, ("spray", network), now)
    if wait:
        with engine.begin() as db:
            forget(db, tried)  # or the next request would pass as a repetition
    return wait


def after(db, email, network):
    forget(db, ("tried", network, email))
    give_back(db, SPRAYED, ("spray", network))


assert check(before, after)

# %% [markdown]
"""
## Take it with you

`playbook lift sign_in INTO` copies recipe and tests.

| seam | what your project gives |
|---|---|
| `find(db, email)` | the user and the stored hash, or None; the hash may be None |
| `check(password, stored)` | something true; the same work for None |
| `keep(db, user, stored)` | writes the row with that hash; false if it is gone |
| `start(db, user)` | a new session, in the same transaction |
| `network_of(address)` | the address of the client, from a [proxy](../glossary.md#proxy) that you trust |
| engine, table, cleanup | as for [throttling](throttling.ipynb) |

With customers, who have integer ids, and the page [sessions](sessions.ipynb):

```python
def find(db: Session, email: str):
    customer = db.scalar(select(Customer).where(Customer.email == email))
    return (customer, customer.password_hash) if customer else None


def keep(db: Session, customer: Customer, stored: str):
    mine = [Customer.id == customer.id, Customer.password_hash == stored]
    same = update(Customer).where(*mine).values(password_hash=stored)
    return db.scalar(same.returning(Customer.id)) is not None


def start(db: Session, customer: Customer):
    return start_session(db, str(customer.id), datetime.now(UTC), lifetimes, old=None)


def sign_in(engine: Engine, email: str, password: str, address: str):
    attempt = Attempt(normal_email(email), network_of(address), datetime.now(UTC))
    try:
        proven = prove(engine, attempt, password, find, check_password)
        return 200, enter(engine, proven, keep, start)
    except TooManyAttempts as refused:
        return 429, {"Retry-After": str(refused.args[0])}
    except WrongPassword:
        return 401, "wrong e-mail address or password"
```

Instead of `old=None`, pass the [token](../glossary.md#token) of the browser's cookie,
so that this session ends. `keep` can store a better hash when `proven.verdict` says
that the old one is outdated. Compute it before `enter`.

Traps:

- **Normalize.** Without it `Ada@example.com` and `ada@example.com` are counted apart.
- **A change of password.** It writes the user's row first, then ends the sessions.
- **Unverified addresses.** Raise WrongPassword between `prove` and `enter`. Another
  answer would tell who has an account.
- **A reset by mail.** It calls `recognize`, which lets Ada in during an attack.
- **Memory.** Limit the hashes in parallel: fifty at once need 50 times the memory.

Hand it over:

- **Front end**: [429](../glossary.md#too-many-requests) can mean days. Offer "set a new
  password" with it.
- **Reviewer**: nothing is compared before `Attempt.spend`; no session without `keep`.
- **Security**: neighbours in Ada's network can find out that she signs in from there.
- **Operations**: `DELETE FROM throttles` forgets attempts and known networks.
- **Tests**: count comparisons, for an unknown address too.

## In short

You can explain who shares an allowance, and why an unknown address must cost a hash.
You know why the session's transaction writes a row that it does not change.

## Sources

NIST SP 800-63B-4, 3.2.2. OWASP ASVS 5.0, 6.1.1, 6.3.1, 6.3.8. OWASP, *Slow Down Online
Guessing Attacks with Device Cookies*; Authentication Cheat Sheet. CWE-307, CWE-645,
CWE-204 (observable answers), CWE-367. Django documentation, `ModelBackend`.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Throttling](throttling.ipynb) · [course map](../index.ipynb) · Next: [Password reset](password_reset.ipynb)
"""
