"""How much mail strangers can send to one mailbox through our forms.

The limits of the flows count per address or per account. One mailbox has any number of addresses: what stands behind a
`+` is dropped on delivery (*sub-addressing*, RFC 5233), and Gmail ignores dots. Twenty sign-ups as `ada+1@`, `ada+2@`,
... are twenty accounts with a mail each.
"""

import logging
from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa

from playbook.auth.mail import Mail, Sender
from playbook.foundations.clock_and_identifiers import Clock
from playbook.foundations.transactions import transaction
from playbook.pantry.memory import Memory, OwnMemory
from playbook.schema.identity import User

BURST, EVERY = 5, timedelta(minutes=20)  # mails at once, and then one after each
REMEMBERED = 10_000  # mailboxes; above it the oldest entries are forgotten
DOTS_DO_NOT_COUNT = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}

log = logging.getLogger("pantry.mail")


def mailbox_of(address: str) -> str:
    """The mailbox that mail to `address` lands in, as far as the address tells: `ada@x.org` for `Ada+shop@x.org`."""
    local, _, domain = address.lower().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in DOTS_DO_NOT_COUNT:
        return f"{local.replace('.', '')}@{DOTS_DO_NOT_COUNT[domain]}"
    return f"{local}@{domain}"


def proven_in(engine: sa.Engine) -> Callable[[str], bool]:
    """A function that says whether the person who has an address has proven it."""

    def proven(address: str) -> bool:
        found = sa.select(User.id).where(User.email == address, User.email_verified)
        return transaction(engine, lambda session: session.scalar(found)) is not None

    return proven


class PerMailbox:
    """A sender around a sender: at most BURST mails, then one each EVERY, to all other spellings of one mailbox.

    Counted are mails to addresses that nobody has proven (`proven` looks it up, in the thread that sends), written in
    another way than the mailbox itself. So strangers who use up the allowance of `ada+1@`, `ada+2@`, ... keep nothing
    from `ada@`, whose own limits are those of its account, nor from `ada+shop@`, once it is proven. What is too much is
    not sent, without an error: the answer was given long ago, and it must be the same for everybody.

    The count is in memory, of the process or of all that serve together, and begins anew with the service.
    """

    def __init__(
        self, sender: Sender, clock: Clock, proven: Callable[[str], bool], memory: Memory | None = None
    ) -> None:  # fmt: skip
        self.sender, self._clock, self._proven = sender, clock, proven
        # When the allowance of a mailbox is whole again, as a timestamp.
        self._whole_at = OwnMemory(REMEMBERED) if memory is None else memory

    def send(self, mail: Mail) -> None:
        mailbox = mailbox_of(mail.to)
        if mail.to.lower() != mailbox and not self._proven(mail.to) and not self._spend(mailbox):
            log.warning("mail %s (%s): not sent, its mailbox has had enough", mail.id, mail.type)
            return
        self.sender.send(mail)

    def _spend(self, mailbox: str) -> bool:
        now, every = self._clock.now().timestamp(), EVERY.total_seconds()
        with self._whole_at.of(mailbox) as kept:
            whole_at = max(kept[0], now)
            spent = whole_at <= now + every * (BURST - 1)
            kept[0] = whole_at + every if spent else whole_at
        return spent
