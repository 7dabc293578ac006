"""What the page relationships shows to take along is run by the tests of its recipe; what Pantry makes of it."""

from shown import shown_and_not_run


def test_the_shop_that_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    assert shown_and_not_run("relationships") == (4, [])
