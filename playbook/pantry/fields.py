"""The kinds of text that Pantry takes."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
BLANK = r" \u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"  # also what has no width
SEEN = rf"^[^{CONTROL}]*[^{CONTROL}{BLANK}][^{CONTROL}]*$"


def seen(name: str) -> str:
    """`name` without the spaces around it. Raises a ValueError for one that nobody can see, or that moves a cursor."""
    if not re.fullmatch(SEEN[1:-1], name):
        raise PydanticCustomError("unseen", "write something that can be seen, on one line")
    return name.strip()


SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
PACKAGE_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
Slug = Annotated[str, StringConstraints(pattern=SLUG, min_length=2, max_length=40)]
Length = StringConstraints(min_length=1, max_length=100)
Name = Annotated[str, Length, AfterValidator(seen), Field(json_schema_extra={"pattern": SEEN})]
Text = Annotated[str, StringConstraints(pattern=r"^[^\u0000]*$", max_length=2000)]
PackageName = Annotated[str, StringConstraints(pattern=PACKAGE_NAME, max_length=100)]
