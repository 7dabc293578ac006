"""The exercise of the page "Signed cursors": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import HTTPException

from playbook.kit.exercises import checker

HINTS = (
    "See 'The text' for what a cursor can hold, and 'The idea' for what keeps a text\n"
    "from being used in another place.",
    "Put the time inside what is signed, beside the position. Sign it under a name that\n"
    "no plain cursor has. Compare the times only after the code was checked.",
)

WRONG = (
    # the time stands behind the code, where the client can change it
    "def sign_until(cursors, position, of, until):\n"
    "    return f'{cursors.sign(position, of)}~{until.isoformat()}'\n"
    "def read_until(cursors, cursor, of, now):\n"
    "    cursor, _, until = cursor.rpartition('~')\n"
    "    position = cursors.read(cursor, of)\n"
    "    try:\n"
    "        if now >= datetime.fromisoformat(until):\n"
    "            raise HTTPException(410)\n"
    "    except ValueError:\n"
    "        raise HTTPException(400) from None\n"
    "    return position",
    # a plain cursor of the list is read as if it had a time
    "def sign_until(cursors, position, of, until):\n"
    "    return cursors.sign([until, position], of)\n"
    "def read_until(cursors, cursor, of, now):\n"
    "    until, position = cursors.read(cursor, of)\n"
    "    if now >= until:\n"
    "        raise HTTPException(410)\n"
    "    return position",
    # a plain cursor of the list is valid for ever
    "def sign_until(cursors, position, of, until):\n"
    "    return cursors.sign([until, position], of)\n"
    "def read_until(cursors, cursor, of, now):\n"
    "    until, position = cursors.read(cursor, of)\n"
    "    if isinstance(until, datetime) and now >= until:\n"
    "        raise HTTPException(410)\n"
    "    return position",
    # one moment too long
    "def sign_until(cursors, position, of, until):\n"
    "    return cursors.sign([until, position], f'{of} until')\n"
    "def read_until(cursors, cursor, of, now):\n"
    "    until, position = cursors.read(cursor, f'{of} until')\n"
    "    if now > until:\n"
    "        raise HTTPException(410)\n"
    "    return position",
    # every failure is the same
    "def sign_until(cursors, position, of, until):\n"
    "    return cursors.sign([until, position], f'{of} until')\n"
    "def read_until(cursors, cursor, of, now):\n"
    "    until, position = cursors.read(cursor, f'{of} until')\n"
    "    if now >= until:\n"
    "        raise HTTPException(400)\n"
    "    return position",
    # all exports share one name
    "def sign_until(cursors, position, of, until):\n"
    "    return cursors.sign([until, position], 'until')\n"
    "def read_until(cursors, cursor, of, now):\n"
    "    until, position = cursors.read(cursor, 'until')\n"
    "    if now >= until:\n"
    "        raise HTTPException(410)\n"
    "    return position",
)

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
LIST, OTHER = "orders of ada", "orders of mallory"


@checker
def check(sign_until: Callable[..., str], read_until: Callable[..., Any]) -> str:
    """Sign and read at several times, edit the cursor, and try cursors of other lists and without a time."""
    from playbook.api.cursors import Cursors

    cursors = Cursors([b"a secret of an exercise, 32 bytes"])
    position = ["next", [NOW, 7]]

    def status(cursor: str, now: datetime, of: str = LIST) -> int:
        try:
            found = read_until(cursors, cursor, of, now)
        except HTTPException as error:
            return error.status_code
        return 200 if found == position else 0

    cursor = sign_until(cursors, position, LIST, NOW + DAY)
    if not isinstance(cursor, str):
        return f"not yet: sign_until should return a text, not {cursor!r}"
    soon, late = status(cursor, NOW), status(cursor, NOW + 2 * DAY)
    if soon != 200:
        return f"not yet: a new cursor should give the position that was signed, yours gave {words(soon)}"
    if late != 410:
        return f"not yet: an expired cursor should be 410, yours gave {words(late)}"
    if status(cursor, NOW + DAY) != 410:
        return "not yet: it is valid *before* `until`; at that very moment it has expired"
    for place in range(len(cursor)):
        for letter in "A-":
            edited = cursor[:place] + letter + cursor[place + 1 :]
            if edited != cursor and status(edited, NOW) != 400:
                part = cursor[max(0, place - 5) : place + 6]
                return f"not yet: a client edited the cursor near {part!r} and was not refused with 400"
    for later in ("2027", "2099"):
        if status(cursor.replace("2026", later), NOW + 2 * DAY) == 200:
            return "not yet: a client wrote a later year into the cursor and prolonged it"
    if status(sign_until(cursors, position, OTHER, NOW + DAY), NOW) != 400:
        return "not yet: the cursor of another list was accepted: bind the name of the list, too"
    for plain in (cursors.sign(position, LIST), cursors.sign([NOW + DAY, position], LIST)):
        if without_crash(status, plain) != 400:
            return "not yet: a plain cursor of the same list, signed by `cursors.sign`, should be 400. It has no time"
    try:
        cursors.read(cursor, LIST)
    except HTTPException:
        return "right"
    return "not yet: your cursor is also accepted as a plain one, and so it never expires"


def without_crash(status: Callable[..., int], cursor: str) -> int:
    """The status, and 500 where the reader's code stumbles over what it read."""
    try:
        return status(cursor, NOW)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError):
        return 500


def words(status: int) -> str:
    """A status as it is told to the reader."""
    return {200: "the position", 0: "something else"}.get(status, f"HTTPException({status})")
