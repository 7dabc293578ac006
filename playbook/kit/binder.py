"""The link that opens the course on mybinder.org, made from the repository's own remote."""

import re
import subprocess
from pathlib import Path
from urllib.parse import quote, urlsplit

from playbook.kit.errors import InputError

LANDING_PAGE = "lab/tree/workbook/index.ipynb"


def remote(root: Path) -> str:
    """The URL of the repository's remote `origin`. Raises InputError when there is none."""
    to_do = "give the address with `--repo https://github.com/OWNER/REPOSITORY`"
    try:
        asked = subprocess.run(["git", "remote", "get-url", "origin"], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        raise InputError(f"git is not installed, so the repository's remote is unknown: {to_do}") from None
    if asked.returncode or not asked.stdout.strip():
        raise InputError(f"this repository has no remote called origin: {to_do}")
    return asked.stdout.strip()


def _host_and_path(url: str) -> tuple[str, str]:
    """`github.com` and `owner/repository` of an https, ssh or git address; no user name, no password, no `.git`."""
    scp = re.fullmatch(r"(?:[\w.-]+@)?([\w.-]+\.[A-Za-z]+):(?!//)(.+)", url)  # git@github.com:owner/repository.git
    if scp:
        host, path = scp[1], scp[2]
    else:
        parts = urlsplit(url)
        host, path = parts.hostname or "", parts.path
        if parts.scheme not in ("https", "http", "ssh", "git"):
            host = ""
    path = path.strip("/").removesuffix(".git")
    if not (host and "/" in path):
        shown = re.sub(r"//[^/@]*@", "//", url)
        raise InputError(
            f"{shown!r} is not the address of a repository on a public host, which Binder needs: use `--repo`"
        )
    return host.lower(), path


def launch_url(repository: str, ref: str = "HEAD") -> str:
    """The mybinder.org link (v2) for `repository` at `ref`, a branch, tag or commit; HEAD is the default branch.

    GitHub is `gh/OWNER/REPO/REF`, GitLab `gl/` with its namespace escaped, any other host `git/` with the whole
    https address escaped. Raises InputError for what is not the address of a repository.
    """
    host, path = _host_and_path(repository)
    if host == "github.com" and path.count("/") == 1:
        spec = f"gh/{quote(path)}"
    elif host == "gitlab.com":
        spec = f"gl/{quote(path, safe='')}"
    else:
        spec = "git/" + quote(f"https://{host}/{path}", safe="")
    return f"https://mybinder.org/v2/{spec}/{quote(ref, safe='')}?urlpath={quote(LANDING_PAGE)}"
