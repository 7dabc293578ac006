"""No API token in a log or in an error, wherever somebody has put it: a path, a name, a request id.

Whatever looks like one is hidden, also with a wrong checksum: a mistyped token is nearly the good one.
"""

import re

from playbook.auth.api_tokens import BASIC

PREFIX = "pantry"  # of every token of this service
FORMED = re.compile(rf"{PREFIX}_[0-9A-Za-z]{{38}}")


def hide(text: str) -> str:
    """`text`, as long as before, with stars in place of tokens, also of those in base64 for Basic."""
    text = FORMED.sub(lambda found: f"{PREFIX}_" + "*" * 38, text)
    return BASIC.sub(lambda found: "*" * len(found[0]), text)
