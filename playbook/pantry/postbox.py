"""Pantry's postbox: the recipes `auth/mail_queue` and `auth/mail_threads`, and work that no answer waits for.

A reset goes before a notice, and one thread takes nothing but resets, so that a hundred sign-ups at slow addresses keep
nobody out of an account. Some work ends in a mail and must not make an answer wait, as looking up who has forgotten a
password. It has a thread of its own, so that it never stands behind mails.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from playbook.auth import mail_threads
from playbook.auth.mail import Sender
from playbook.auth.mail_queue import MailQueue, Queued, backoff, log

URGENT = ("reset-password", "verify-email", "invitation", "notice")


def resets_first(due: list[Queued], under_way: list[Queued], threads: int) -> list[Queued]:
    """What is due and may have a thread. The last free thread is for resets."""
    allowed = mail_threads.may_go(due, under_way, threads)
    last_thread = len(under_way) >= max(1, threads - 1)
    return [queued for queued in allowed if not (last_thread and queued.urgency)]


class Postbox(mail_threads.Postbox):
    """Sends mails and runs calls in the background; at most as many calls are queued as mails."""

    choose = staticmethod(resets_first)

    def __init__(
        self, sender: Sender, threads: int = 4, capacity: int = 1000, attempts: int = 8,
        pause: Callable[[int], float] = backoff,
    ) -> None:  # fmt: skip
        self.mails = MailQueue(capacity, URGENT, attempts, pause)
        super().__init__(sender, self.mails, threads)
        # The library's pool has no bound, cannot say when it is empty, and keeps an exception until somebody asks.
        self._calls, self._unfinished = ThreadPoolExecutor(1), 0

    @property
    def sent(self) -> int:
        return self.mails.sent

    @property
    def dropped(self) -> int:
        return self.mails.lost

    def submit(self, call: Callable[[], object]) -> bool:
        """Queue `call` without waiting; False when there is no room, or after closing. An exception is logged."""
        with self.changed:
            room = self._unfinished < self.mails.capacity and not self.closed
            if room:
                self._unfinished += 1
                self._calls.submit(call).add_done_callback(self._finished)
            return room

    def _finished(self, future: Future[object]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log.error("in the background: %s", type(error).__name__, exc_info=error)
        with self.changed:
            self._unfinished -= 1
            self.changed.notify_all()

    def over(self) -> bool:
        return super().over() and not self._unfinished  # a call that was taken may still post

    def idle(self) -> bool:
        return super().idle() and not self._unfinished

    def close(self, timeout: float = 10) -> bool:
        """Take no more, finish what was taken; False when `timeout` seconds were too short, and the rest is lost."""
        settled = super().close(timeout)
        self._calls.shutdown(wait=settled, cancel_futures=True)
        return settled
