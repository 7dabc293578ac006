"""The exercise of the page "Password hashing": checker, hints, wrong answers; and what the page's stage needs."""

import base64
import hashlib
import io
import logging
import random
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import argon2
from fastapi import Body, FastAPI, HTTPException
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from playbook.auth.password_hashing import LONGEST, check_password, hash_password
from playbook.kit.display import Shown
from playbook.kit.exercises import checker
from playbook.kit.live import serving
from playbook.kit.stage import LONGEST_WAIT, together

for _name in ("__main__", "playbook.auth.password_hashing"):  # else Python writes their errors to standard error
    logging.getLogger(_name).addHandler(logging.NullHandler())

# ---------------------------------------------------------------- what the stage needs

PHRASE = "correct horse battery staple"
# Hashes of PHRASE that other systems made: better-auth 1.7 on Node, bcrypt, Django 5.2; and what stands in bad imports.
FOREIGN = {
    "Better Auth, scrypt": "4212ccd4eec87ffc99af41f5f7a0f7be:52732efc06fe92cf6a934330089c6c1e307df27f7101b4d9ddbdf5ea"
    "da3aed16bf147b7f26a971e6078d914ec3385fc7a995cabb2660eb2cce7363a4843e4cba",
    "bcrypt": "$2b$04$vB4Wmbdt8KjRzPEjzGMwkO5MzrqOd0JRZwr3sXGBsqgKmNZ/t9mC6",
    "Django, PBKDF2": "pbkdf2_sha256$1000$seasalt1234567890abcdef$L2Lb9Vlw8HjirWYE1xoNExMcpcZAGf0VvTKcsUa4gns=",
    "argon2id, one pass": "$argon2id$v=19$m=19456,t=1,p=1$c2l4dGVlbiBieXRlcyEhIQ$"
    "TkKsU3/SnLFBWRj9AKadHhoO2jOvM1lk+y6UxcArWNY",
    "argon2id, 19 MiB": "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbiBieXRlcyEhIQ$"
    "sJ/UyrNCFp6Wf2JThYKStJ8RlSwiwr8dbkZqEAoJRhg",
    "no hash": PHRASE,
    "argon2id, 4 GiB": "$argon2id$v=19$m=4194304,t=2,p=1$c2l4dGVlbiBieXRlcyEhIQ$"
    "sJ/UyrNCFp6Wf2JThYKStJ8RlSwiwr8dbkZqEAoJRhg",
}
OF_72_LETTERS = "$2b$04$KA9FlE3gul3/evc45c6RUu7P4LkJ4bS3cG.RR.GSJ9M1QgskC4LFy"  # bcrypt, of 72 times x
OWASP = ((47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5))  # KiB and passes, said to be equally good


def people_choose() -> tuple[list[str], list[str]]:
    """A real list of 30,000 common passwords, most common first; what 1,000 people chose.

    700 chose from the list, the more common the likelier (Zipf's law); 300 let a program choose.
    """
    common = FREQUENCY_LISTS["passwords"]
    people = random.Random(4)
    chosen = people.choices(common, [1 / rank for rank in range(1, len(common) + 1)], k=700)
    return common, [*chosen, *(f"{people.getrandbits(80):020x}" for _ in range(300))]


def flood(sign_up: Callable[[str], object]) -> tuple[int, int, int]:
    """Send a password of a megabyte to a service whose POST calls `sign_up(password)`.

    The status of the answer; how many characters were normalized; how many other requests were answered meanwhile.
    """
    app, normalized, inside, answered = FastAPI(), [0], threading.Event(), []
    received = threading.Event()
    normalize = unicodedata.normalize

    def watched(form: Any, text: str) -> str:
        if len(text) < LONGEST:
            return normalize(form, text)
        normalized.append(len(text))
        inside.set()
        result = normalize(form, text)
        inside.clear()
        return result

    @app.post("/sign-up")
    def post(password: str = Body(embed=True)) -> None:
        received.set()
        try:
            sign_up(password)
        except ValueError as error:
            raise HTTPException(400) from error

    @app.get("/health")
    def health() -> None:
        answered.append(inside.is_set())

    before = sys.getswitchinterval()
    sys.setswitchinterval(60)  # seconds: no thread is interrupted on the two lines around `normalize`
    try:
        with (
            mock.patch.object(unicodedata, "normalize", watched),
            serving(app) as client,
            ThreadPoolExecutor(1) as threads,
        ):
            attack = threads.submit(client.post, "/sign-up", json={"password": "½" * 500_000})
            attack.add_done_callback(lambda _: received.set())
            received.wait(LONGEST_WAIT)
            while not attack.done():
                client.get("/health")
            return attack.result().status_code, max(normalized), sum(answered)
    finally:
        sys.setswitchinterval(before)


def most_at_once(call: Callable[[], object], number: int) -> int:
    """How many argon2 hashes were computed at a time while `number` threads called `call` at once."""
    lock, now, most = threading.Lock(), [0], [0]
    real = argon2.PasswordHasher.hash

    def watched(*args: Any, **options: Any) -> str:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            return real(*args, **options)
        finally:
            with lock:
                now[0] -= 1

    with mock.patch.object(argon2.PasswordHasher, "hash", watched):
        together(**{f"thread {n}": call for n in range(number)})
    return most[0]


def hashes_computed(call: Callable[[], object]) -> int:
    """How many argon2 hashes `call` computes."""
    real = argon2.PasswordHasher.verify
    with mock.patch.object(argon2.PasswordHasher, "verify", autospec=True, side_effect=real) as watched:
        call()
    return watched.call_count


class Picture(Shown):
    """An image for a notebook, its title for a script."""

    def __init__(self, title: str, png: bytes) -> None:
        super().__init__(title, title)
        self.png = png

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self.text, "image/png": base64.b64encode(self.png).decode("ascii")}


def _milliseconds(memory: int, passes: int) -> float:
    """Processor time of one hash in this thread."""
    hasher = argon2.PasswordHasher(passes, memory, 1)
    started = time.thread_time()
    hasher.hash(PHRASE)
    return 1000 * (time.thread_time() - started)


def picture_of_costs() -> Picture:
    """Measure hashes on this machine: time against memory, a line for each number of passes, dots for OWASP's pairs."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports where its font cache is
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=80, layout="constrained")
    axes = figure.subplots()
    sizes = (4, 12, 19, 46)  # MiB; three of OWASP's pairs lie on the lines
    pairs = [(size * 1024, passes) for passes in (1, 2, 3) for size in sizes]
    measured = {pair: _milliseconds(*pair) for pair in dict.fromkeys([*pairs, *OWASP])}
    for passes in (1, 2, 3):
        times = [measured[size * 1024, passes] for size in sizes]
        axes.plot(sizes, times, marker=".", label="1 pass" if passes == 1 else f"{passes} passes")
    dots = [(memory / 1024, measured[memory, passes]) for memory, passes in OWASP]
    xs, ys = zip(*dots, strict=True)
    axes.scatter(xs, ys, s=60, color="black", zorder=3, label="OWASP's pairs")
    for (x, y), (_, passes) in zip(dots, OWASP, strict=True):
        axes.annotate(f"{passes}", (x, y), xytext=(0, 7), textcoords="offset points", ha="center")
    axes.set(xlabel="memory of one hash (MiB)", ylabel="time of one hash (ms)", ylim=(0, None), xlim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Picture("[picture: time of one hash against its memory and passes]", file.getvalue())


# ---------------------------------------------------------------- the exercise

HINTS = (
    "Which function of the page makes a slow hash? What can you give it, without the\n"
    "password? Then think of the thief: what must `check_password` say to her MD5?",
    "Hash the MD5 again, and mark what you store, so that it is no argon2id hash to code\n"
    "that does not know the mark. The mark also tells what to do with the password.",
)

WRONG = (
    # the MD5 becomes a password
    """
def wrap(md5):
    return hash_password(md5.lower())

def check_wrapped(password, stored):
    if check_password(md5_of(password), stored):
        return Verdict(True, True)
    return check_password(password, stored)
""",
    # the MD5 stays in the table
    """
def wrap(md5):
    return "md5:" + md5.lower()

def check_wrapped(password, stored):
    if stored and stored.startswith("md5:"):
        matches = stored == "md5:" + md5_of(password)
        return Verdict(matches, matches)
    return check_password(password, stored)
""",
    # never replaced
    """
def wrap(md5):
    return "md5:" + hash_password(md5.lower())

def check_wrapped(password, stored):
    if not stored or not stored.startswith("md5:"):
        return check_password(password, stored)
    return check_password(md5_of(password), stored[4:])
""",
    # hexadecimal digits come in two cases
    """
def wrap(md5):
    return "md5:" + hash_password(md5)

def check_wrapped(password, stored):
    if not stored or not stored.startswith("md5:"):
        return check_password(password, stored)
    matches = check_password(md5_of(password), stored[4:]).matches
    return Verdict(matches, matches)
""",
    # a megabyte is hashed again
    """
def wrap(md5):
    return "md5:" + hash_password(md5.lower())

def check_wrapped(password, stored):
    if not stored or not stored.startswith("md5:"):
        return check_password(password, stored)
    matches = check_password(md5_of(password), stored[4:]).matches
    return Verdict(matches, matches)
""",
    # an unknown user is an error
    """
def wrap(md5):
    return "md5:" + hash_password(md5.lower())

def check_wrapped(password, stored):
    if not stored.startswith("md5:"):
        return check_password(password, stored)
    if len(password) > LONGEST:
        return Verdict(False, False)
    matches = check_password(md5_of(password), stored[4:]).matches
    return Verdict(matches, matches)
""",
)


def md5_of(password: str) -> str:
    """What the old system stored."""
    return hashlib.md5(password.encode()).hexdigest()


@checker
def check(wrap: Any, check_wrapped: Any) -> str:
    """A table with wrapped hashes and others; a thief who has the MD5 of years ago."""

    def said(password: str, stored: str | None) -> tuple[bool, bool]:
        verdict = check_wrapped(password, stored)
        return verdict.matches, verdict.outdated

    password = "Zwo\u0308lf ﬁnden"
    md5 = md5_of(password)
    wrapped = wrap(md5.upper())
    if md5 in wrapped.lower():
        return "not yet: the MD5 itself is still in the table"
    if not check_wrapped(password, wrapped).matches:
        return "not yet: the password does not match any more. Which bytes, and which case, did the old system use?"
    if check_wrapped(md5, wrapped).matches or check_wrapped(md5.upper(), wrapped).matches:
        return "not yet: somebody typed the MD5 from the stolen list as a password, and was let in"
    if check_password(md5, wrapped).matches:
        return "not yet: a part of the service that calls check_password itself would accept the MD5 as a password"
    if not check_wrapped(password, wrapped).outdated:
        return "not yet: the first sign-in should replace a wrapped hash, so it must be reported as outdated"
    if said("guess", wrapped) != (False, False):
        return "not yet: a wrong password for a wrapped hash neither matches nor is outdated"
    if said(password, hash_password(password)) != (True, False):
        return "not yet: an ordinary hash of the page matches, and is not outdated"
    if check_wrapped(password, hash_password(md5)).matches:
        return "not yet: somebody's password looks like an MD5, and now a second password opens the account"
    if check_wrapped(password, None).matches:
        return "not yet: an unknown user (None) never matches"
    long = "x" * (LONGEST + 1)
    if check_wrapped(long, wrap(md5_of(long))).matches:
        return "not yet: a very long password was hashed; the page refuses to look at more than LONGEST characters"
    return "right"
