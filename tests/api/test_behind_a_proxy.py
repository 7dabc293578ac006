"""Pantry behind the real Apache and nginx, which compress JSON and change the entity tag while they do.

Skipped where they are not installed (Debian: apache2, nginx). Each runs on loopback with a configuration of its own.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from before_sign_in import pantry
from ports import free_port

from playbook.api.representations import MERGE_PATCH
from playbook.kit.live import LiveClient, serving
from playbook.pantry.settings import Settings

APACHE = """
ServerName localhost
ServerRoot {folder}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
Listen 127.0.0.1:{port}
{modules}
User nobody
Group nogroup
ErrorLog {folder}/error.log
ProxyPass / {upstream}/
AddOutputFilterByType DEFLATE application/json
"""
MODULES = ("mpm_event", "authz_core", "filter", "deflate", "proxy", "proxy_http")
NGINX = """
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    gzip on; gzip_proxied any; gzip_types application/json; gzip_min_length 1;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; proxy_http_version 1.1; }} }}
}}
"""


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[httpx.Client]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            until = time.monotonic() + 60
            while True:
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    said = log.read_text(encoding="utf-8") if log.exists() else ""
                    assert process.poll() is None, said
                    assert time.monotonic() < until, said
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=60)


def apache(upstream: str, folder: Path) -> tuple[list[str], int]:
    binary, port = program("apache2"), free_port()
    where = next((f for f in ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules") if Path(f).is_dir()), "modules")
    modules = "\n".join(f"LoadModule {name}_module {where}/mod_{name}.so" for name in MODULES)
    text = APACHE.format(folder=folder, port=port, upstream=upstream, modules=modules)
    (folder / "proxy.conf").write_text(text, encoding="utf-8")
    return [binary, "-X", "-f", str(folder / "proxy.conf")], port


def nginx(upstream: str, folder: Path) -> tuple[list[str], int]:
    binary, port = program("nginx"), free_port()
    (folder / "proxy.conf").write_text(NGINX.format(folder=folder, port=port, upstream=upstream), encoding="utf-8")
    return [binary, "-c", str(folder / "proxy.conf"), "-p", str(folder), "-g", "daemon off;"], port


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LiveClient]:
    app = pantry(Settings(environment="test", database_url="duckdb:///:memory:behind_a_proxy"))
    with serving(app) as client:
        yield client


def patch(client: httpx.Client, tag: str, description: str) -> httpx.Response:
    headers = {"content-type": MERGE_PATCH, "if-match": tag}
    return client.patch("/organizations/mirror", json={"description": description}, headers=headers)


@pytest.mark.parametrize(("proxy", "makes"), [(apache, '{tag}-gzip"'), (nginx, "W/{whole}")])
def test_a_tag_goes_through_and_comes_back(
    service: LiveClient, tmp_path: Path, proxy: Callable[[str, Path], tuple[list[str], int]], makes: str
) -> None:
    folder = tmp_path / "proxy"
    folder.mkdir()
    command, port = proxy(str(service.base_url).rstrip("/"), folder)
    with running(command, port, folder / "error.log") as client:
        answer = client.get("/organizations/mirror")
        direct = service.get("/organizations/mirror").headers["etag"]
        assert answer.headers["content-encoding"] == "gzip"
        tag = answer.headers["etag"]
        assert tag == makes.format(tag=direct[:-1], whole=direct), "the proxy does something new: record it"
        assert client.get("/organizations/mirror", headers={"if-none-match": tag}).status_code == 304
        changed = patch(client, tag, "through a proxy")
        if tag.startswith("W/"):  # If-Match compares strongly: refused, but with words that lead on
            assert (changed.status_code, changed.json()["type"]) == (412, "/problems/weak-tag")
            changed = patch(client, tag.removeprefix("W/"), "through a proxy")
        assert changed.status_code == 200
        lost = patch(client, tag.removeprefix("W/"), "over somebody's words")
        assert (lost.status_code, lost.json()["type"]) == (412, "/problems/precondition-failed")
    assert service.get("/organizations/mirror").json()["description"] == "through a proxy"
