"""What limits remember about their keys: in the memory of one process, or in memory that several processes share.

Counted in each of N processes for itself, "50 requests a second" would be up to N times that, and divided by N it would
refuse a client whose one connection always meets the same process. So the processes of one machine count together, as
nginx's `limit_req` does in its shared zone. What must also hold over several machines is in the database.
"""

import hashlib
import mmap
import os
import struct
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

try:
    import fcntl
except ImportError:  # Windows, where there is only one process
    fcntl = None  # type: ignore[assignment]


class Memory(Protocol):
    """Two numbers for each of a bounded number of keys; whoever was quiet longest is forgotten."""

    def of(self, key: str) -> AbstractContextManager[list[float]]:
        """The numbers of `key`, zeros when there are none, to change in the block. Nobody else comes between."""

    def __len__(self) -> int: ...


class OwnMemory:
    """A Memory of this process. Thread safe."""

    def __init__(self, most: int) -> None:
        self.most, self._lock = most, threading.Lock()
        self._kept: OrderedDict[str, list[float]] = OrderedDict()

    @contextmanager
    def of(self, key: str) -> Iterator[list[float]]:
        with self._lock:
            self._kept[key] = numbers = self._kept.pop(key, None) or [0.0, 0.0]  # now the last one
            yield numbers
            if len(self._kept) > self.most:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)


class SharedMemory:
    """A Memory of this process and of all that it forks afterwards. Thread safe. POSIX only.

    A table of buckets: a key has eight places, found by a keyed hash, so that nobody can choose keys that push out
    another one. Each bucket has its lock: of the file system, because such a lock ends with the process that holds it,
    also when that is killed. (A lock of `multiprocessing` would then be held for ever.)
    """

    PLACES = 8
    ENTRY = struct.Struct("<Qddd")  # the key's hash, when it was used last, the two numbers
    SIZE = PLACES * ENTRY.size

    def __init__(self, most: int) -> None:
        self._buckets, self._secret = -(-most // self.PLACES), os.urandom(16)
        self._table = mmap.mmap(-1, self._buckets * self.SIZE)  # anonymous and shared: forks see the same
        self._locks = tempfile.TemporaryFile()  # noqa: SIM115  # nothing is written: it only has bytes to lock
        self._lock = threading.Lock()  # a file's lock is the whole process's

    @contextmanager
    def of(self, key: str) -> Iterator[list[float]]:
        digest = hashlib.blake2b(key.encode(), digest_size=16, key=self._secret).digest()
        name, bucket = int.from_bytes(digest[:8]) or 1, int.from_bytes(digest[8:]) % self._buckets
        with self._lock, self._turn(bucket):
            at, numbers = self._place(name, bucket * self.SIZE)
            yield numbers
            # Linux and macOS have one monotonic clock for all processes.
            self.ENTRY.pack_into(self._table, at, name, time.monotonic(), *numbers)

    @contextmanager
    def _turn(self, bucket: int) -> Iterator[None]:
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, bucket)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, bucket)

    def _place(self, name: int, begin: int) -> tuple[int, list[float]]:
        """Where in the table the numbers of `name` are, and what they are; else the place of who was quiet longest."""
        entries = self.ENTRY.iter_unpack(self._table[begin : begin + self.SIZE])
        oldest, at = float("inf"), begin
        for place, (known, used, *numbers) in enumerate(entries):
            if known == name:
                return begin + place * self.ENTRY.size, numbers
            if used < oldest:  # a place that is free has 0
                oldest, at = used, begin + place * self.ENTRY.size
        return at, [0.0, 0.0]

    def __len__(self) -> int:
        return sum(known != 0 for known, *_ in self.ENTRY.iter_unpack(self._table[:]))


class Crowd:
    """How many connections each of some forked processes has, as each of them has said in the last second."""

    SAID = struct.Struct("<dd")  # when, how many
    FRESH = 1.0  # seconds; whoever is quiet for longer is gone, or stuck

    def __init__(self, processes: int) -> None:
        self._table = mmap.mmap(-1, processes * self.SAID.size)

    def say(self, number: int, connections: int) -> None:
        self.SAID.pack_into(self._table, number * self.SAID.size, time.monotonic(), connections)

    def least_of_others(self, number: int) -> float:
        """The fewest that another process has; infinite when there is none."""
        since = time.monotonic() - self.FRESH
        said = enumerate(self.SAID.iter_unpack(self._table[:]))
        return min((many for each, (at, many) in said if each != number and at > since), default=float("inf"))


# ---------------------------------------------------------------- one of several processes


@dataclass(frozen=True)
class Share:
    """What one process of a service does: all of it, or its part as number `number` (from 0) of `of`.

    `shared` are the memories that it shares with the others, by name; `crowd` is what they tell each other.
    """

    number: int = 0
    of: int = 1
    shared: Mapping[str, Memory] = field(default_factory=dict)
    crowd: Crowd | None = None

    @property
    def alone(self) -> bool:
        return self.of == 1

    @property
    def first(self) -> bool:
        """Whether this process does what is done once, however many there are."""
        return self.number == 0

    def part(self, whole: int, least: int = 1) -> int:
        """Of `whole`, which the processes divide, what this one has: `least` or more."""
        return max(least, whole // self.of)


ALONE = Share()


def shares(count: int, sizes: Mapping[str, int]) -> list[Share]:
    """The parts of `count` processes that this one is going to fork, with memories of so many keys."""
    together = {name: SharedMemory(most) for name, most in sizes.items()}
    crowd = Crowd(count)
    return [Share(number, count, together, crowd) for number in range(count)]
