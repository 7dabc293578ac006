"""What the recipe promises, for any clock and any random bytes. Needs pytest and hypothesis, nothing else."""

import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.foundations.clock_and_identifiers import (
    FixedClock,
    Identifiers,
    SeededBytes,
    SystemClock,
    hash_token,
    is_token,
    new_token,
    uuid7_time,
)

moments = st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC))
steps = st.lists(st.timedeltas(timedelta(hours=-1), timedelta(hours=1)), max_size=50)
prefixes = st.from_regex(r"[a-z][a-z0-9_]{1,19}", fullmatch=True)


def test_the_machines_clock_is_aware_and_in_utc() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)


@given(moments, st.timedeltas(timedelta(0), timedelta(days=1)))
def test_a_fixed_clock_moves_only_when_told(start: datetime, by: timedelta) -> None:
    clock = FixedClock(start)
    assert clock.now() == clock.now() == start
    clock.advance(by)
    assert clock.now() == start + by


def test_a_clock_with_a_step_moves_at_each_look() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = FixedClock(start, step=timedelta(seconds=5))
    assert [clock.now() - start for _ in range(3)] == [timedelta(seconds=5 * look) for look in range(3)]


def test_seeded_bytes_repeat_by_seed_and_differ_by_call() -> None:
    one, again = SeededBytes(1), SeededBytes(1)
    made = [one(16) for _ in range(100)]
    assert made == [again(16) for _ in range(100)]
    assert len(set(made)) == 100
    assert SeededBytes(2)(16) not in made


def test_a_clock_needs_a_time_zone_and_shows_utc() -> None:
    with pytest.raises(ValueError, match="time zone"):
        FixedClock(datetime(2026, 1, 1))
    abroad = FixedClock(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert abroad.now().isoformat() == "2026-01-01T00:00:00+00:00"


@given(moments, steps, st.integers())
def test_ids_rise_whatever_the_clock_does(start: datetime, moves: list[timedelta], seed: int) -> None:
    clock = FixedClock(start)
    ids = Identifiers(clock, SeededBytes(seed))
    made = [ids.new()]
    for move in moves:
        if datetime(1970, 1, 2, tzinfo=UTC) < clock.now() + move < datetime(9998, 1, 1, tzinfo=UTC):
            clock.advance(move)
        made.append(ids.new())
    assert made == sorted(set(made))
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}


@given(st.binary(min_size=10, max_size=10))
def test_ids_of_one_millisecond_rise_with_any_random_bytes(same: bytes) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = FixedClock(start)
    ids = Identifiers(clock, lambda size: same)
    made = [ids.new() for _ in range(100)]
    clock.advance(timedelta(hours=-1))
    made.append(ids.new())
    assert made == sorted(set(made))
    assert {uuid7_time(one) for one in made} == {start}, "the time of the last id is kept"


@given(moments)
def test_an_id_tells_its_millisecond(moment: datetime) -> None:
    told = uuid7_time(Identifiers(FixedClock(moment)).new())
    assert told == moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_only_a_uuid_of_version_7_tells_the_time() -> None:
    with pytest.raises(ValueError, match="version 7"):
        uuid7_time(uuid.uuid4())


def test_threads_get_different_ids() -> None:
    ids = Identifiers(FixedClock(datetime(2026, 1, 1, tzinfo=UTC)))
    made: list[uuid.UUID] = []

    def make() -> None:
        made.extend(ids.new() for _ in range(500))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000


@given(prefixes, st.integers())
def test_a_token_is_recognized_and_no_other_prefix(prefix: str, seed: int) -> None:
    token = new_token(prefix, SeededBytes(seed))
    assert is_token(token, prefix)
    assert len(token) == len(prefix) + 1 + 32 + 6
    assert not is_token(token, f"{prefix}x")


@given(prefixes, st.integers(), st.data())
def test_one_changed_character_is_noticed(prefix: str, seed: int, data: st.DataObject) -> None:
    token = new_token(prefix, SeededBytes(seed))
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from([c for c in "0aZ_" if c != token[at]]))
    assert not is_token(token[:at] + other + token[at + 1 :], prefix)


@given(st.text() | st.just("\ud800"))  # half a surrogate pair, as JSON can carry it
def test_any_text_can_be_looked_up_and_none_is_a_token(text: str) -> None:
    assert len(hash_token(text)) == 64
    assert not is_token(text, "shop")


@pytest.mark.parametrize("prefix", ["", "a", "A1", "1a", "a-b", "a" * 21])
def test_a_prefix_that_a_scanner_could_miss_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        new_token(prefix)
