"""The exercise of the page "Password rules": its checker, its hints, wrong answers."""

import hashlib
from typing import Any

from playbook.kit.exercises import checker

HINTS = (
    "What may the service learn of the password? Five hexadecimal digits and no more.\n"
    "Then look at the answer's lines: what does a count of 0 say?",
    "Divide the SHA-1 (in capitals) after five digits. Ask with the first part, look for\n"
    "the second part among the lines, and let the number behind the colon decide.",
)

WRONG = (
    # the whole hash leaves the process
    """
import hashlib

def is_leaked(password, fetch):
    digest = hashlib.sha1(password.encode()).hexdigest().upper()
    return digest[5:] in fetch(digest)
""",
    # padding is taken for a leak
    """
import hashlib

def is_leaked(password, fetch):
    digest = hashlib.sha1(password.encode()).hexdigest().upper()
    return digest[5:] in fetch(digest[:5])
""",
    # hexdigest writes small letters
    """
import hashlib

def is_leaked(password, fetch):
    digest = hashlib.sha1(password.encode()).hexdigest()
    counts = dict(line.split(":") for line in fetch(digest[:5]).splitlines())
    return int(counts.get(digest[5:], 0)) > 0
""",
    # nobody can sign up while the service is down
    """
import hashlib

def is_leaked(password, fetch):
    digest = hashlib.sha1(password.encode()).hexdigest().upper()
    counts = dict(line.split(":") for line in fetch(digest[:5]).splitlines())
    return int(counts.get(digest[5:], 0)) > 0
""",
    # any error counts as a leak
    """
import hashlib

def is_leaked(password, fetch):
    digest = hashlib.sha1(password.encode()).hexdigest().upper()
    try:
        counts = dict(line.split(":") for line in fetch(digest[:5]).splitlines())
    except OSError:
        return True
    return int(counts.get(digest[5:], 0)) > 0
""",
)

LEAKED = ("password", "Zwölf Kekse", "correct horse")
PADDED = "two tomatoes and a spoon"  # a line with its hash and the count 0


class LeakService:
    """What `fetch` asks: as https://haveibeenpwned.com answers `GET /range/{five digits}` with padding."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.down = False

    def fetch(self, prefix: str) -> str:
        self.asked.append(prefix)
        if self.down:
            raise ConnectionError("the service does not answer")
        lines = [f"{n:035X}:{n + 2}" for n in range(3)]
        for text, count in [*((leaked, 17) for leaked in LEAKED), (PADDED, 0)]:
            digest = hashlib.sha1(text.encode()).hexdigest().upper()
            if digest.startswith(str(prefix).upper()[:5]):
                lines.append(f"{digest[5:]}:{count}")
        return "\r\n".join(lines)


@checker
def check(is_leaked: Any) -> str:
    """Leaked passwords, one that is only padding, one that is not there, and a service that is down."""
    service = LeakService()
    for password in LEAKED:
        if not is_leaked(password, service.fetch):
            if any(str(one) != str(one).upper() for one in service.asked):
                return "not yet: the service writes its hexadecimal digits in capitals, and expects them so"
            return f"not yet: {password!r} has leaked 17 times, and was not found"
    if any(len(str(one)) != 5 for one in service.asked):
        return f"not yet: the service was told {len(str(service.asked[-1]))} digits of the hash; it may learn five"
    if is_leaked("a cucumber in the garden", service.fetch):
        return "not yet: a password that is not in the answer was called leaked"
    if is_leaked(PADDED, service.fetch):
        return "not yet: a line with the count 0 is padding, which hides how long the answer is; it is no leak"
    service.down = True
    try:
        said = is_leaked("a cucumber in the garden", service.fetch)
    except OSError:
        return "not yet: the service is down, its error got through, and nobody can sign up"
    if said:
        return "not yet: while the service is down every password is refused; the page's own lists still protect"
    return "right"
