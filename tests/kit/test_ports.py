"""A port for a server that must be told one is nobody else's."""

import socket

from ports import EACH, FIRST, free_port


def test_a_port_that_is_taken_is_passed_over() -> None:
    taken = free_port() + 1
    with socket.create_server(("127.0.0.1", taken)):
        assert taken not in [free_port() for _ in range(EACH - 1)]


def test_it_is_none_that_a_system_gives_by_itself() -> None:
    assert FIRST <= free_port() < FIRST + 30 * EACH < 32_768
