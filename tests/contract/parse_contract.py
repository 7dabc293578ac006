"""Turn the recorded contract page into test data: `python parse_contract.py PAGE > data/better_auth.json`.

The page is Markdown: a `## N. Title` for each section, a `### label` for each exchange, and the exchange in a code
block, `>` what was sent and `<` what came back. Placeholders stay as they are. Every block must be understood: what
the parser does not know is an error, not a gap.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

NOTE = (
    "Recorded exchanges of better-auth 1.7.25 (better-call 1.4.5, Node 20, PGlite, HTTP/1.1 with curl), "
    "parsed by parse_contract.py from the recorded contract page. Not edited by hand."
)
SECTION = re.compile(r"## (\d+)\. (.*)")
SERVER = re.compile(r"\bServer ([A-Z])\b")
MAIL = re.compile(r"Mail (?:url|handed to `\w+` \(url\)): `([^`]+)`")
FIRST = "A"  # the configuration of the sections before the first that names one


def request_of(lines: list[str]) -> dict[str, Any]:
    method, path = lines[0].split(" ")
    head = lines[1 : lines.index("")] if "" in lines else lines[1:]
    headers = dict(line.split(": ", 1) for line in head)
    body = "\n".join(lines[lines.index("") + 1 :]) if "" in lines else None
    return {"method": method, "path": path, "headers": headers, "body": body}


def response_of(lines: list[str]) -> dict[str, Any]:
    status, reason = lines[0].split(" ", 1)
    blank = lines.index("")
    body = "\n".join(lines[blank + 1 :])
    return {
        "status": int(status),
        "reason": reason,
        "headers": [line.split(": ", 1) for line in lines[1:blank]],
        "body": "" if body == "(empty body)" else body,
    }


def block(lines: list[str]) -> dict[str, Any]:
    """One code block. Raises ValueError for a line that is neither sent nor received."""
    sides: dict[str, list[str]] = {">": [], "<": []}
    for line in filter(None, lines):
        if line[0] not in sides or line[1:2] not in ("", " "):
            raise ValueError(f"neither sent nor received: {line!r}")
        sides[line[0]].append(line[2:])
    return {"request": request_of(sides[">"]), "response": response_of(sides["<"])}


def parse(page: str) -> list[dict[str, Any]]:
    exchanges: list[dict[str, Any]] = []
    number, title, label, configuration = 0, "", "", FIRST
    lines = iter(page.splitlines())
    for line in lines:
        if found := SECTION.fullmatch(line):
            number, title, label = int(found[1]), found[2], found[2]
        elif line.startswith("### "):
            label = line[4:]
        elif line.startswith("```") and number:
            inside = []
            while (inner := next(lines)) != "```":
                inside.append(inner)
            # Whoever wrote the page said where no mail may go out; a mail that goes out follows below its exchange.
            mails: list[dict[str, str]] | None = [] if "no mail" in label else None
            where = {"section": number, "title": title, "label": label, "configuration": configuration}
            exchanges.append(where | block(inside) | {"mails": mails})
        elif number and (mail := MAIL.search(line)):
            exchanges[-1]["mails"] = [{"url": mail[1]}]
        elif number and (server := SERVER.search(line)):
            configuration = server[1]
    return exchanges


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python parse_contract.py PAGE > data/better_auth.json")
    parsed = parse(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({"source": NOTE, "exchanges": parsed}, indent=1, ensure_ascii=False))
