"""The page on performance: the test that it shows is one of the recipe's tests."""

import signal
import time

from shown import shown_and_not_run

from playbook.exercises.production.performance import stacks_of


def test_what_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    assert shown_and_not_run("performance") == (1, [])


def test_the_profile_finds_code_that_holds_the_interpreter() -> None:
    """A thread that looks finds nothing but the sleeps, where it gets its turn."""

    def compute() -> int:
        return sum(number * number for number in range(10_000))

    def rest() -> None:
        time.sleep(0.0001)

    def work() -> None:
        compute()
        rest()

    before = signal.getsignal(signal.SIGPROF)
    found = stacks_of(work)
    computing = sum(count for stack, count in found.items() if "compute" in stack)
    assert computing > found.total() / 3, found
    assert all(stack[0] == "work" for stack in found)
    assert signal.getsignal(signal.SIGPROF) is before
