"""What the recipe promises, for any text. Needs pytest and hypothesis, nothing else."""

import pickle
import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from playbook.auth.password_rules import (
    PasswordRefused,
    PasswordRules,
    is_common,
    is_sequence,
    unit,
    without,
)

PERSON = ("maria.weber@sunrise-bakery.example", "Maria Weber")
RULES = PasswordRules(words=["bakery"])
any_text = st.text(max_size=150)


def fetch(prefix: str) -> str:
    """Stands for a service that knows more."""
    return "two tomatoes and a spoon"


def is_leaked(text: str, fetch: Any) -> bool:
    return bool(text == fetch(""))


def hash_password(password: str) -> str:
    return f"hash of {len(password)}"


rules = PasswordRules(
    words=["bakery", "sunrise"],
    listed=lambda text: is_common(text) or is_leaked(text, fetch),
)


def change_password(customer: Any, password: Any) -> None:
    rules.check(password, context=[customer.email, customer.name])
    customer.password_hash = hash_password(password)


class Customer:
    email, name = "maria@example.com", "Maria Weber"
    password_hash = "old"


def refusal(password: str, rules: PasswordRules = RULES, context: Any = PERSON) -> str | None:
    try:
        rules.check(password, context)
    except PasswordRefused as refused:
        return refused.reason
    return None


@given(any_text, st.lists(st.text(max_size=40), max_size=4))
def test_any_text_is_accepted_or_refused_by_its_length_after_nfkc(password: str, context: list[str]) -> None:
    reason = refusal(password, PasswordRules(minimum=8), context)
    length = len(unicodedata.normalize("NFKC", password))
    assert (reason == "short") == (length < 8)
    assert (reason == "long") == (length > 128)


@given(any_text)
def test_without_a_list_only_the_length_counts(password: str) -> None:
    length = len(unicodedata.normalize("NFKC", password))
    assert (refusal(password, PasswordRules(listed=None)) is None) == (15 <= length <= 128)


@given(st.text(min_size=15, max_size=40))
def test_one_password_however_it_is_typed(password: str) -> None:
    forms = {refusal(unicodedata.normalize(form, password), context=()) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) == 1


@pytest.mark.parametrize("password", [word for word in FREQUENCY_LISTS["passwords"] if len(word) >= 8][:300])
def test_a_common_password_is_refused_in_any_case(password: str) -> None:
    for spelling in (password, password.upper(), password.title(), f"{password[:4]}-{password[4:]}"):
        assert refusal(spelling, PasswordRules(minimum=8)) == "guessable"


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "correct-horse-battery-staple",
        "tomato" * 5,
        "abcdefghijklmnopq",
        "1234567890" * 5,
        "maria.weber@sunrise-bakery.example",
        "MariaWeber2026!!",
        "weber.maria.1234",
        "Bakery-Bakery-1!",
    ],
)
def test_what_follows_from_a_list_or_the_context_is_refused(password: str) -> None:
    assert refusal(password) == "guessable"


@pytest.mark.parametrize(
    "password",
    ["two tomatoes and a spoon", "my-bakery-in-wonderland", "maria has 12 tomatoes", "двадцать два помидора"],
)
def test_a_phrase_is_accepted_and_may_contain_such_a_word(password: str) -> None:
    assert refusal(password) is None


def test_the_defaults_are_those_of_nist() -> None:
    assert PasswordRules().minimum == 15
    assert PasswordRules().maximum >= 64
    assert refusal("tomato soup 4u") == "short"
    assert refusal("tomato soup 4us") is None
    for minimum, maximum in ((7, 128), (8, 63), (100, 99), (15, 1025)):
        with pytest.raises(ValueError, match="8 <= minimum"):
            PasswordRules(minimum, maximum)


def test_a_very_long_password_is_not_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    def normalize(form: str, text: str) -> str:
        raise AssertionError("normalized")

    monkeypatch.setitem(PasswordRules.check.__globals__, "unicodedata", SimpleNamespace(normalize=normalize))
    assert refusal("\u0301\u0316" * 2_500_000) == "long"


def test_no_password_that_fits_is_refused_unseen() -> None:
    longest = unicodedata.normalize("NFD", "\u1f82") * 128
    assert len(longest) == 512
    assert refusal(longest, PasswordRules(listed=None)) is None


@given(st.text(min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 11))
def test_a_repetition_counts_once(part: str, times: int, more: int) -> None:
    repeated = part * times + part[: min(more, len(part) - 1)]
    assert len(unit(repeated)) <= len(part)
    assert (unit(repeated) * len(repeated)).startswith(repeated)


def test_one_text_in_place_of_a_list_is_no_silent_pass() -> None:
    with pytest.raises(TypeError, match="lists of texts"):
        RULES.check("maria weber maria", "Maria Weber")
    with pytest.raises(TypeError, match="lists of texts"):
        PasswordRules(words="bakery").check("bakery bakery bakery")


def test_a_person_may_have_no_name() -> None:
    assert refusal("weber weber 2026", context=("weber@example.com", None)) == "guessable"
    assert refusal("two tomatoes and a spoon", context=(None, "")) is None


def test_sequences_and_context_words() -> None:
    assert all(map(is_sequence, ("abcdefgh", "hgfedcba", "02468", "aaaa", "a", "")))
    assert not any(map(is_sequence, ("abcdefgi", "aab", "1232")))
    assert without("marianne and maria", ["maria", "marianne"]) == " and "
    assert without("zoë 2026", ["ZOE\u0308 Li"]) == " 2026"


@pytest.mark.parametrize("text", ["\ud800" * 20, "tomato soup \udfff for you", "\ud83c and \udf45 swapped"])
def test_half_a_character_is_no_error(text: str) -> None:
    assert refusal(text) in (None, "guessable")


@pytest.mark.parametrize("reason", ["short", "long", "guessable"])
def test_a_refusal_says_its_reason_and_not_the_password(reason: str) -> None:
    password = {"short": "tomato", "long": "tomato" * 100, "guessable": "tomato" * 5}[reason]
    with pytest.raises(PasswordRefused) as caught:
        RULES.check(password)
    assert caught.value.reason == reason
    assert "tomato" not in str(caught.value) + repr(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_service_with_a_larger_list() -> None:
    customer = Customer()
    for password in ("two tomatoes and a spoon", "sunrise sunrise!", "Password1!Password1!"):
        with pytest.raises(PasswordRefused):
            change_password(customer, password)
    assert customer.password_hash == "old"
    change_password(customer, "a spoon for my soup")
    assert customer.password_hash == "hash of 19"
