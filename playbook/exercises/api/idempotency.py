"""The exercise of the page "Idempotency": its checker, its hints, wrong answers; and what the page's stage needs."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
from fastapi import HTTPException

from playbook.kit.exercises import checker
from playbook.kit.stage import together

# A process that is killed in its work. Its argument: the URL of a database with the table `orders`.
KILLED = """
import sys, time
from playbook.api.idempotency import *
def work(session):
    session.execute(sa.text("INSERT INTO orders (item) VALUES ('coffee')"))
    print("at work", flush=True)
    time.sleep(60)
once(one_commit(sa.create_engine(sys.argv[1])), ("ada's key", "coffee"), work, 0)
"""


def told(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a call, of a claim its attempt, of a refusal its words, of another error its name."""
    try:
        result = function(*args)
    except HTTPException as error:
        return error.detail
    except Exception as error:
        return type(error).__name__
    return f"attempt {result.attempt}" if hasattr(result, "attempt") else result


def send(client: httpx.Client, key: str) -> str:
    """Order a coffee. The answer's status and body."""
    headers = {"Idempotency-Key": f'"{key}"'}
    answer = client.post("/orders", json={"item": "coffee"}, headers=headers)
    return f"{answer.status_code} {answer.text}"


def crowd(order: Callable[[str], str], number: int = 20) -> str:
    """What `number` clients with one key hear at once, and one of them later: each answer once.

    Left out is "later, please": 409, and on a busy machine 503, when the attempts of a transaction have run out.
    """

    def one() -> str:
        return order("all-at-the-same-time")

    said = together(**{f"client {n}": one for n in range(number)}).values()
    acted = {str(answer) for answer in said if not re.search("409|503", str(answer))}
    return " / ".join(sorted(acted | {one()}))


HINTS = (
    "See 'Work that calls outside'. What does `claim.attempt` tell you before you call?\n"
    "Then go through the four results of `find`, one by one.",
    "Only a later attempt has to look. Two results of `find` are answers, one means that\n"
    "the bank never got the charge, and one means that it is too early to say.",
)

WRONG = (
    # a bank that recognizes references is not the one of the exercise
    "def pay(bank, claim, cents):\n    return bank.charge(claim.reference, cents)",
    # "declined" is an answer, too
    "def pay(bank, claim, cents):\n"
    "    if claim.attempt > 1 and bank.find(claim.reference) == 'paid':\n"
    "        return 'paid'\n"
    "    try:\n"
    "        return bank.charge(claim.reference, cents)\n"
    "    except TimeoutError:\n"
    "        raise HTTPException(503) from None",
    # "pending" is none
    "def pay(bank, claim, cents):\n"
    "    found = bank.find(claim.reference) if claim.attempt > 1 else None\n"
    "    if found:\n"
    "        return found\n"
    "    try:\n"
    "        return bank.charge(claim.reference, cents)\n"
    "    except TimeoutError:\n"
    "        raise HTTPException(503) from None",
    # a timeout says nothing
    "def pay(bank, claim, cents):\n"
    "    try:\n"
    "        return bank.charge(claim.reference, cents)\n"
    "    except TimeoutError:\n"
    "        return 'declined'",
    # the first attempt has nothing to look for
    "def pay(bank, claim, cents):\n"
    "    found = bank.find(claim.reference)\n"
    "    if found == 'pending':\n"
    "        raise HTTPException(503)\n"
    "    if found:\n"
    "        return found\n"
    "    try:\n"
    "        return bank.charge(claim.reference, cents)\n"
    "    except TimeoutError:\n"
    "        raise HTTPException(503) from None",
    # a look by attempt alone gives up what never reached the bank
    "def pay(bank, claim, cents):\n"
    "    if claim.attempt > 1:\n"
    "        found = bank.find(claim.reference)\n"
    "        if found in ('paid', 'declined'):\n"
    "            return found\n"
    "        raise HTTPException(503)\n"
    "    try:\n"
    "        return bank.charge(claim.reference, cents)\n"
    "    except TimeoutError:\n"
    "        raise HTTPException(503) from None",
)


class Attempt(NamedTuple):
    """What the recipe's claim has that `pay` may use."""

    reference: str
    attempt: int


class Bank:
    """A bank that charges as often as it is asked. `weather`: what happens to the next call of `charge`."""

    def __init__(self, decides: str = "paid") -> None:
        self.decides = decides
        self.weather = "fine"
        self.charges: list[tuple[str, int]] = []
        self.decided: dict[str, str] = {}
        self.looks = 0

    def charge(self, reference: str, cents: int) -> str:
        weather, self.weather = self.weather, "fine"
        if weather == "lost on the way":
            raise TimeoutError
        self.charges.append((reference, cents))
        self.decided[reference] = "pending" if weather == "slow" else self.decides
        if weather != "fine":
            raise TimeoutError
        return self.decides

    def find(self, reference: str) -> str | None:
        self.looks += 1
        return self.decided.get(reference)


@checker
def check(pay: Any) -> str:
    """Four kinds of weather between the shop and the bank; then what the customer paid."""

    def heard(bank: Bank, attempt: int, reference: str = "r-1") -> Any:
        try:
            return pay(bank, Attempt(reference, attempt), 500)
        except HTTPException as error:
            return error.status_code
        except TimeoutError:
            return "TimeoutError"

    bank = Bank()
    if heard(bank, 1) != "paid" or bank.charges != [("r-1", 500)]:
        return "not yet: on a fine day, `pay` charges `cents` once under the claim's reference and returns 'paid'"
    if bank.looks:
        return "not yet: a first attempt has nothing to look for, and the bank takes money for each `find`"
    if heard(bank, 1, "r-2") != "paid" or len(bank.charges) != 2:
        return "not yet: another reference is another payment, also of the same amount"
    for decision in ("paid", "declined"):
        bank = Bank(decision)
        bank.weather = "answer lost"
        first = heard(bank, 1)
        if first == "TimeoutError":
            return "not yet: a timeout that is not caught is a 500, a bug of the shop. Say 503: try again"
        if first not in (503, decision):
            return f"not yet: the bank did not answer in time, so nobody knows the outcome; `pay` said {first!r}"
        second = heard(bank, 2)
        if len(bank.charges) != 1:
            return f"not yet: the bank had {decision} before its answer was lost, and the second attempt charged again"
        if second != decision:
            return f"not yet: the bank had {decision} before its answer was lost; the second attempt said {second!r}"
    bank = Bank()
    bank.weather = "lost on the way"
    first, second = heard(bank, 1), heard(bank, 2)
    if (first, second, len(bank.charges)) != (503, "paid", 1) and (first, len(bank.charges)) != ("paid", 1):
        return "not yet: the first charge never reached the bank, and the second attempt did not make up for it"
    bank = Bank("declined")
    bank.weather = "slow"
    said = [heard(bank, 1), heard(bank, 2)]
    if len(bank.charges) != 1:
        return "not yet: the bank was still deciding, and the second attempt charged again"
    if said != [503, 503]:
        return f"not yet: as long as the bank decides there is no outcome to tell, but the client heard {said}"
    bank.decided["r-1"] = "declined"
    if heard(bank, 3) != "declined" or len(bank.charges) != 1:
        return "not yet: the bank has decided by the third attempt, and its decision is the answer"
    return "right"
