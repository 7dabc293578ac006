"""What the recipe promises. Needs pytest, hypothesis and packaging, nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name
from packaging.version import Version

from playbook.schema.natural_keys import name_key, number_key, version_key

number = st.integers(0, 10**30)
local = st.one_of(number.map(str), st.text("abcxyz0189", min_size=1, max_size=4))


@st.composite
def versions(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(["", "", "1!", "20!"])) + ".".join(map(str, draw(st.lists(number, min_size=1))))
    text += draw(
        st.sampled_from(["", "", "a", "b", "rc"]).flatmap(lambda p: number.map(lambda n: f"{p}{n}" if p else ""))
    )
    text += draw(st.one_of(st.just(""), number.map(lambda n: f".post{n}")))
    text += draw(st.one_of(st.just(""), number.map(lambda n: f".dev{n}")))
    return text + draw(st.one_of(st.just(""), st.lists(local, min_size=1, max_size=3).map(lambda p: "+" + ".".join(p))))


@given(versions(), versions())
def test_keys_compare_as_versions_do(one: str, other: str) -> None:
    a, b = Version(one), Version(other)
    assert (version_key(one) < version_key(other)) == (a < b)
    assert (version_key(one) == version_key(other)) == (a == b)


@given(versions())
def test_keys_have_only_signs_that_sort_alike_in_every_locale(version: str) -> None:
    assert set(version_key(version)) <= set("0123456789abcdefghijklmnopqrstuvwxyz")


@given(st.text(max_size=20))
def test_what_is_no_version_is_a_value_error(text: str) -> None:
    try:
        Version(text)
    except ValueError:
        with pytest.raises(ValueError, match="PEP 440"):
            version_key(text)


def test_the_examples_of_pep_440_ascend() -> None:
    examples = """1.dev0 1.0.dev456 1.0a1 1.0a2.dev456 1.0a12.dev456 1.0a12 1.0b1.dev456 1.0b2 1.0b2.post345.dev456
        1.0b2.post345 1.0rc1.dev456 1.0rc1 1.0 1.0+abc.5 1.0+abc.7 1.0+5 1.0.post456.dev34 1.0.post456 1.0.15 1.1.dev1
        1!0.1"""
    keys = [version_key(one) for one in examples.split()]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1.0.0"), ("1.0a1", "1.0alpha1"), ("1.0.post1", "1.0-1"), ("v1.0", "1.0"), ("0", "0.0")]
)
def test_spellings_of_one_version_have_one_key(one: str, other: str) -> None:
    assert version_key(one) == version_key(other)


@pytest.mark.parametrize("text", ["9" * 1000, "9" * 5000, "1.0.po\u017ft1", "", "latest", "1.0.x", "\u0661.0"])
def test_a_version_that_is_none_or_too_long_is_a_short_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a version \(PEP 440\): ") as raised:
        version_key(text)
    assert len(str(raised.value)) < 100


def test_numbers_sort_across_the_last_letter() -> None:
    keys = [number_key(10**power) for power in (*range(30), 998)]
    assert keys == sorted(keys)


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True))
def test_a_name_has_the_key_that_packaging_gives_it(name: str) -> None:
    assert name_key(name) == canonicalize_name(name)
    assert name_key(name_key(name)) == name_key(name)


@pytest.mark.parametrize(
    "text", ["", " a", "a ", "a\n", "-a", "a.", "\u212a", "\uff41", "b\xe4d", "a\x00b", "a" * 99 + "!"]
)
def test_what_is_no_name_is_a_short_value_error(text: str) -> None:
    """The Kelvin sign is one: lower case would make a letter of it."""
    with pytest.raises(ValueError, match=r"^not a package name \(PEP 508\): ") as raised:
        name_key(text)
    assert len(str(raised.value)) < 200
    assert re.fullmatch("[ -~]+", str(raised.value))
