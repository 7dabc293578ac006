"""A lesson's mail server is real SMTP, does what it is told, and is gone when its block ends."""

import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from playbook.kit.smtp import MailServer, mail_server

TEXT = "From: a@example.com\r\nTo: b@example.com\r\nSubject: Hello\r\n\r\nYou.\r\n"


def send(mails: MailServer, *to: str) -> None:
    with smtplib.SMTP("127.0.0.1", mails.port, timeout=20) as smtp:
        smtp.sendmail("a@example.com", to or ["b@example.com"], TEXT)


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def servers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("smtp:")]


def test_it_keeps_what_arrives_and_is_gone_afterwards() -> None:
    with mail_server() as mails:
        send(mails, "b@example.com", "hidden@example.com")
        assert urlsplit(mails.url).port == mails.port
    (delivery,) = mails.deliveries
    assert (delivery.sender, delivery.recipients) == ("a@example.com", ("b@example.com", "hidden@example.com"))
    assert (delivery.message["Subject"], delivery.message.get_content()) == ("Hello", "You.\n")
    assert (delivery.raw, delivery.encrypted) == (TEXT.encode(), False)
    assert mails.inbox("hidden@example.com") == mails.messages
    assert mails.inbox("c@example.com") == []
    assert refused(mails.port)
    assert servers() == []


def test_it_is_gone_when_the_block_raises_with_a_message_held() -> None:
    def cell() -> None:
        with mail_server(hold=True) as mails, ThreadPoolExecutor(1) as threads:
            threads.submit(send, mails)
            mails.wait_held()
            mails.release()
            raise KeyError

    with pytest.raises(KeyError):
        cell()
    assert servers() == []


def test_it_is_gone_while_somebody_is_connected() -> None:
    with mail_server() as mails:
        connection = socket.create_connection(("127.0.0.1", mails.port))
        assert connection.recv(3) == b"220"
    assert servers() == []
    connection.settimeout(10)
    while connection.recv(1024):
        pass  # the rest of the greeting, and then the end
    connection.close()


def test_it_holds_messages_until_they_are_released() -> None:
    with mail_server(hold=True) as mails, ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(send, mails) for _ in range(3)]
        mails.wait_held(3)
        assert [answer.done() for answer in waiting] == [False] * 3
        assert (mails.attempts, mails.messages) == (3, [])
        mails.release()
        assert len(mails.wait_for(3)) == 3
        send(mails)
        assert len(mails.messages) == 4


@pytest.mark.parametrize(
    ("command", "error"),
    [("MAIL", smtplib.SMTPSenderRefused), ("RCPT", smtplib.SMTPRecipientsRefused), ("DATA", smtplib.SMTPDataError)],
)
def test_it_refuses_as_often_as_it_is_told(command: str, error: type[Exception]) -> None:
    with mail_server({command: ["451 later"] * 2}) as mails:
        for _ in range(2):
            with pytest.raises(error):
                send(mails)
        assert mails.messages == []
        send(mails)
        assert len(mails.messages) == 1


def test_waiting_in_vain_says_what_there_was() -> None:
    with mail_server() as mails:
        send(mails)
        with pytest.raises(TimeoutError, match="2 accepted: 1 came, 0 held, 1 accepted"):
            mails.wait_for(2, timeout=0.01)
        with pytest.raises(TimeoutError, match="1 held"):
            mails.wait_held(timeout=0.01)


@pytest.mark.parametrize(
    ("make", "why"),
    [(lambda: mail_server({"HELP": ["500"]}), "HELP"), (lambda: mail_server(login=("a", "b")), "tls=True")],
)
def test_what_it_cannot_do_is_said_at_once(make: Callable[[], object], why: str) -> None:
    with pytest.raises(ValueError, match=why), make():  # type: ignore[attr-defined]
        pass
    assert servers() == []


def test_lessons_without_mail_do_not_load_the_library() -> None:
    program = "import sys, playbook.kit.lesson; sys.exit('aiosmtpd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
