"""The description of the resource API: a page without scripts, and nothing of it in production.

FastAPI's own pages load scripts of another host, which could then do in the browser what the reader may do (OWASP ASVS
5.0, 3.6.1), and describe the service to everybody (13.4.5).
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse

from playbook.pantry.headers import NOTHING

STYLE = (
    "body{font:16px/1.5 sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "code,pre{background:#f4f4f4;padding:.1rem .3rem}pre{overflow:auto}h2{margin-top:2rem}"
)
HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = NOTHING.replace("default-src 'none'", f"default-src 'none'; style-src 'sha256-{HASH}'")


def as_text(value: object) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))


def lines(document: dict[str, Any]) -> Iterator[str]:
    """The page, one element after the other."""
    title = escape(str(document["info"]["title"]))
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    yield f'<h1>{title}</h1><p>For programs: <a href="/openapi.json">/openapi.json</a>.'
    for path, item in document["paths"].items():
        for method, says in item.items():
            if not isinstance(says, dict) or "responses" not in says:
                continue
            yield f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
            yield f"<p>{escape(says.get('description') or says.get('summary', ''))}"
            for parameter in says.get("parameters", ()):
                needed = "required" if parameter.get("required") else "optional"
                schema = as_text(parameter.get("schema", {}))
                yield f"<p><code>{escape(parameter['name'])}</code> in {escape(parameter['in'])}, {needed}"
                yield f"<pre>{schema}</pre>"
            if body := says.get("requestBody"):
                yield f"<p>Body:<pre>{as_text(body.get('content', {}))}</pre>"
            for status, answer in says["responses"].items():
                yield f"<p>{escape(str(status))}: {escape(answer.get('description', ''))}"
    yield "<h2>Schemas</h2>"
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        yield f"<h3><code>{escape(name)}</code></h3><pre>{as_text(schema)}</pre>"
    yield "</html>"


def describe(app: FastAPI, public: bool) -> None:
    """Take away FastAPI's pages; when `public`, `/openapi.json` stays and `/docs` is a page without scripts."""
    pages = {app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url} | (set() if public else {app.openapi_url})
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) not in pages]

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse("\n".join(lines(app.openapi())), headers={"Content-Security-Policy": POLICY})

    if public:
        app.add_route("/docs", docs, include_in_schema=False)
