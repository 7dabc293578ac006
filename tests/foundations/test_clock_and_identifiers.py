"""Time, identifiers and tokens: they rise, they are unique, they can be fixed, and bad input is refused."""

import hashlib
import itertools
import re
import string
import threading
import uuid
import zlib
from datetime import UTC, datetime, timedelta, timezone

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.foundations.clock_and_identifiers import (
    DIGITS,
    EPOCH,
    MILLISECOND,
    Clock,
    FixedClock,
    Identifiers,
    SeededBytes,
    SystemClock,
    base62,
    counting_on,
    hash_token,
    is_token,
    new_token,
    uuid7_time,
)

START = datetime(2026, 11, 30, 12, 0, 0, 123_456, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59), timezones=st.just(UTC))
JUMPS = st.timedeltas(timedelta(days=-400), timedelta(days=400))


class ListedClock:
    """Shows the listed times, one after another."""

    def __init__(self, times: list[datetime]) -> None:
        self.times = iter(times)

    def now(self) -> datetime:
        return next(self.times)


def test_the_system_clock_is_aware_and_between_two_looks() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert now.tzinfo is UTC
    assert before <= now <= datetime.now(UTC)


def test_both_are_clocks() -> None:
    clocks: list[Clock] = [SystemClock(), FixedClock(START)]
    assert all(clock.now().utcoffset() == timedelta(0) for clock in clocks)


def test_a_fixed_clock_stands_steps_and_is_moved() -> None:
    clock = FixedClock(START)
    assert clock.now() == clock.now() == START
    clock.advance(timedelta(hours=-1))
    assert clock.now() == START - timedelta(hours=1)
    stepping = FixedClock(START, step=timedelta(seconds=5))
    assert [stepping.now() - START for _ in range(3)] == [timedelta(seconds=5 * n) for n in range(3)]


def test_a_fixed_clock_is_in_utc_whatever_its_start() -> None:
    kolkata = timezone(timedelta(hours=5, minutes=30))
    assert FixedClock(START.astimezone(kolkata)).now().tzinfo is UTC
    assert FixedClock(START.astimezone(kolkata)).now() == START


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="should have a time zone"):
        FixedClock(datetime(2026, 11, 30))


def test_a_fixed_clock_gives_each_thread_its_own_look() -> None:
    clock, seen = FixedClock(START, step=MILLISECOND), []
    threads = [threading.Thread(target=lambda: seen.extend(clock.now() for _ in range(500))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [START + n * MILLISECOND for n in range(4_000)]


def test_seeded_bytes_repeat_by_seed_and_differ_by_call() -> None:
    one, again, other = SeededBytes(1), SeededBytes(1), SeededBytes(2)
    made = [one(16) for _ in range(100)]
    assert made == [again(16) for _ in range(100)]
    assert len({*made, *(other(16) for _ in range(100))}) == 200
    assert [len(one(size)) for size in (0, 1, 10, 1_000)] == [0, 1, 10, 1_000]


def test_seeded_bytes_are_the_same_on_every_machine() -> None:
    """The stored notebooks depend on these values."""
    assert SeededBytes(1)(8).hex() == hashlib.shake_256(b"1/1").digest(8).hex()


@given(MOMENTS, st.integers(0, 2**32))
def test_an_id_is_a_version_7_uuid_with_its_time(moment: datetime, seed: int) -> None:
    made = Identifiers(FixedClock(moment), SeededBytes(seed)).new()
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert uuid7_time(made) <= moment < uuid7_time(made) + MILLISECOND
    assert uuid7_time(made).tzinfo is UTC
    assert uuid.UUID(str(made)) == made


def test_the_layout_is_that_of_the_rfc() -> None:
    """RFC 9562, appendix A.6: the time of its example, and its random bits, give its example."""
    moment = EPOCH + 0x017F22E279B0 * MILLISECOND
    rand_a, rand_b = 0xCC3, 0x18C4DC0C0C07398F
    tail = (rand_a << 62 | rand_b) % 2**73  # our highest bit is always 0 in a new millisecond
    made = Identifiers(FixedClock(moment), lambda size: tail.to_bytes(size)).new()
    assert str(made) == "017f22e2-79b0-74c3-98c4-dc0c0c07398f"
    assert uuid7_time(uuid.UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")) == moment


@given(MOMENTS.filter(lambda m: 1972 < m.year < 9990), st.lists(JUMPS, max_size=40), st.integers(0, 99))
def test_ids_rise_whatever_the_clock_does(start: datetime, jumps: list[timedelta], seed: int) -> None:
    times = [start]
    for jump in jumps:
        times.append(min(max(times[-1] + jump, EPOCH), datetime(9999, 1, 1, tzinfo=UTC)))
    ids = Identifiers(ListedClock(times), SeededBytes(seed))
    made = [ids.new() for _ in times]
    assert made == sorted(set(made))
    assert [str(i) for i in made] == sorted(str(i) for i in made)
    assert [i.bytes for i in made] == sorted(i.bytes for i in made)
    assert uuid7_time(made[-1]) == max(times) - (max(times) - EPOCH) % MILLISECOND


@given(st.integers(0, 2**80 - 1))
def test_ids_rise_with_the_worst_random_bytes(bits: int) -> None:
    ids = Identifiers(FixedClock(START), lambda size: bits.to_bytes(size))
    made = [ids.new() for _ in range(50)]
    assert made == sorted(set(made))
    assert {i.version for i in made} == {7}


def test_a_full_millisecond_borrows_the_next() -> None:
    ids = Identifiers(FixedClock(START), lambda size: b"\xff" * size)
    first = ids.new()
    ids._tail = 2**74 - 1
    second, third = ids.new(), ids.new()
    assert first < second < third
    assert uuid7_time(second) == uuid7_time(first) + MILLISECOND == uuid7_time(third)
    assert (second.version, second.variant) == (7, uuid.RFC_4122)


def test_within_a_millisecond_the_next_id_is_not_the_number_after() -> None:
    ids = Identifiers(FixedClock(START))
    made = [ids.new().int for _ in range(200)]
    assert len({b - a for a, b in itertools.pairwise(made)}) > 190


def test_one_generator_serves_many_threads() -> None:
    ids, found = Identifiers(SystemClock()), []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(60)
        found.append([ids.new() for _ in range(2_000)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({i for part in found for i in part}) == 16_000
    assert all(part == sorted(part) for part in found)


def test_two_generators_do_not_meet() -> None:
    """Two processes in one millisecond: only the random bits keep them apart."""
    made = {Identifiers(FixedClock(START)).new() for _ in range(5_000)}
    assert len(made) == 5_000


def test_a_clock_before_1970_is_refused_and_breaks_nothing() -> None:
    ids = Identifiers(ListedClock([START, datetime(1969, 12, 31, tzinfo=UTC), START]), SeededBytes(1))
    first = ids.new()
    with pytest.raises(ValueError, match="before 1970"):
        ids.new()
    assert ids.new() > first


@pytest.mark.parametrize("version", [1, 3, 4, 5])
def test_only_version_7_has_this_time(version: int) -> None:
    with pytest.raises(ValueError, match="version 7"):
        uuid7_time(uuid.UUID(bytes=b"\x01" * 16, version=version))


@pytest.mark.parametrize("text", ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
def test_the_nil_and_the_max_uuid_have_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="version 7"):
        uuid7_time(uuid.UUID(text))


def test_a_time_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="before the year 10000"):
        uuid7_time(uuid.UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"))


@given(st.integers(0, 62**8 - 1))
def test_base62_is_positional(number: int) -> None:
    digits = base62(number, 8)
    assert len(digits) == 8
    value = 0
    for digit in digits:
        value = value * 62 + DIGITS.index(digit)
    assert value == number


def test_the_digits_sort_as_characters() -> None:
    assert "".join(sorted(DIGITS)) == DIGITS
    assert set(DIGITS) == set(string.ascii_letters + string.digits)


@given(st.from_regex(r"[a-z][a-z0-9_]{1,19}", fullmatch=True), st.integers(0, 2**32))
def test_a_token_is_formed_as_promised(prefix: str, seed: int) -> None:
    token = new_token(prefix, SeededBytes(seed))
    assert re.fullmatch(rf"{prefix}_[0-9A-Za-z]{{32}}[0-9A-Za-z]{{6}}", token)
    assert is_token(token, prefix)
    assert token == new_token(prefix, SeededBytes(seed))
    assert base62(zlib.crc32(token[:-6].encode()), 6) == token[-6:]
    assert not is_token(token, prefix + "x")
    assert not is_token(token, "x" + prefix)


def test_tokens_differ_and_use_every_digit_everywhere() -> None:
    tokens = [new_token("pantry") for _ in range(2_000)]
    assert len(set(tokens)) == 2_000
    for place in range(len("pantry_"), len("pantry_") + 32):
        assert len({token[place] for token in tokens}) > 55


@given(st.integers(0, 44), st.sampled_from(string.printable), st.integers(0, 1_000))
def test_one_wrong_character_is_always_noticed(place: int, character: str, seed: int) -> None:
    token = new_token("pantry", SeededBytes(seed))
    changed = token[:place] + character + token[place + 1 :]
    assert is_token(changed, "pantry") == (changed == token)


@given(st.text())
def test_no_text_is_taken_for_a_token_by_chance(text: str) -> None:
    assert not is_token(text, "pantry")


def test_near_misses_are_no_tokens() -> None:
    token = new_token("pantry")
    for text in ("", "pantry_", token[:-1], token + "0", token + "\n", " " + token, token.upper(), token[7:]):
        assert not is_token(text, "pantry")
    assert not is_token("pantryX" + token[7:], "pantry")
    assert not is_token(token, ".*")


@pytest.mark.parametrize("prefix", ["", "p", "Pantry", "1pan", "pan-try", "pan try", "_pan", "p" * 21, "pän", "pan\n"])
def test_a_prefix_that_scanners_could_not_find_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix should be"):
        new_token(prefix)


def test_a_hash_is_sha256_and_takes_any_text() -> None:
    assert hash_token("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(hash_token("\ud800")) == 64  # half a surrogate pair, as JSON can carry it
    assert hash_token("a") != hash_token("b")


@given(moment=MOMENTS, seed=st.integers(0, 1000), count=st.integers(1, 50))
def test_sql_counts_on_from_an_id_as_identifiers_do(moment: datetime, seed: int, count: int) -> None:
    first = Identifiers(FixedClock(moment), SeededBytes(seed)).new()
    with duckdb.connect() as database:
        sql = f"SELECT {counting_on(first, 'line DESC')} FROM range({count}) lines(line) ORDER BY line DESC"
        made = [first, *(row[0] for row in database.execute(sql).fetchall())]
    assert {(id.version, id.variant) for id in made} == {(7, uuid.RFC_4122)}
    assert {uuid7_time(id) for id in made} == {uuid7_time(first)}
    tails = [(id.int >> 64) % 2**12 << 62 | id.int % 2**62 for id in made]
    assert all(1 <= later - earlier <= 2**32 for earlier, later in itertools.pairwise(tails))
