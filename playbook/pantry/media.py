"""Media types: what is given (406), what is taken (415)."""

import re
from typing import Any

from fastapi import Body, Depends, HTTPException, Request

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
PatchBody = Body(media_type=MERGE_PATCH)  # for the document; `takes` enforces it
MAX_ACCEPT = 1000  # characters; a longer Accept is disregarded, as RFC 9110, 12.5.1 allows
ELEMENT = re.compile(r'(?:^|,)\s*([^\s;,"]+)((?:"(?:[^"\\]|\\.)*"|[^,"])*)')  # a range, its parameters
MEDIA_RANGE = re.compile(r"\*|(\*|[^*/]+)/(\*|[^*/]+)")
WEIGHT, VARIANT = re.compile(r";\s*q\s*=\s*(\d+\.?\d*|\.\d+)\s*(;|$)"), re.compile(r";\s*(?!q\s*=|charset\s*=)[^\s;]")


def quality(accept: str, offered: str) -> float:
    """How much a client wants media type `offered`, 0 to 1, by its Accept header (RFC 9110, 12.5.1).

    What cannot be read is not "never": a weight that is no number is 1, a header without a media range takes anything.
    """
    precision = {"*": 0, "*/*": 0, offered.split("/")[0] + "/*": 1, offered: 3}  # "*" is what older Java sends
    best, readable = (-1, 0.0), False  # the most precise range decides, whatever its weight
    for media_range, rest in ELEMENT.findall(accept.lower()) if len(accept) <= MAX_ACCEPT else ():
        parameters = re.sub('"[^"]*"', "", rest)
        weight = min(float(number[1]), 1.0) if (number := WEIGHT.search(parameters)) else 1.0
        variant = VARIANT.search(parameters) is not None  # `version=2` may be wanted, but only that is excluded by q=0
        if media_range in precision and (weight or not variant):
            best = max(best, (precision[media_range] - variant, weight))
        readable = readable or MEDIA_RANGE.fullmatch(media_range) is not None
    return best[1] if readable else 1.0


async def gives_json(request: Request) -> None:
    """406 for a client that does not take JSON (RFC 9110, 15.5.7)."""
    if quality(",".join(request.headers.getlist("accept")), JSON) == 0:
        raise HTTPException(406, f"this resource is given as {JSON}")


def takes(*media_types: str) -> Any:
    """A dependency: 415 for a body of another type, with the header that says which would do (RFC 5789, 2.2)."""
    header, these = "Accept-Patch" if MERGE_PATCH in media_types else "Accept", ", ".join(media_types)

    async def check(request: Request) -> None:
        sent = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if sent not in media_types:
            raise HTTPException(415, f"send {these}, not {sent or 'a body without a type'}", {header: these})

    return Depends(check)
