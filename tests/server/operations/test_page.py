"""The page's files: what they are sent with, and that they need nobody else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from support.live_server import LiveServer

from octavo.server.operations.page import static_files

FILES = sorted(static_files())


class Tags(HTMLParser):
    """All start tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def policy(header: str) -> dict[str, list[str]]:
    directives = (directive.split() for directive in header.split(";"))
    return {name: values for name, *values in directives}


def test_the_page(server: LiveServer) -> None:
    response = server.http.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text.startswith("<!doctype html>")


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_sent_under_the_policy(server: LiveServer, name: str) -> None:
    response = server.http.get(f"/page/{name}")
    assert response.status_code == 200
    assert response.content == static_files()[name].content
    allowed = policy(response.headers["content-security-policy"])
    assert allowed["default-src"] == ["'none'"]
    assert {values[0] for values in allowed.values()} <= {"'none'", "'self'"}
    assert all(len(values) == 1 for values in allowed.values()), "neither inline code nor other hosts"
    assert allowed["frame-ancestors"] == allowed["base-uri"] == allowed["form-action"] == ["'none'"]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_what_a_browser_has_is_not_sent_again(server: LiveServer) -> None:
    etag = server.http.get("/").headers["etag"]
    again = server.http.get("/", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"]
    head = server.http.head("/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("name", ["nothing.js", "%2e%2e%2fpage.py", "index.html/x", "..%2fpage.py"])
def test_there_are_no_other_files(server: LiveServer, name: str) -> None:
    assert server.http.get(f"/page/{name}").status_code == 404


def test_the_page_names_only_files_that_there_are_and_has_no_inline_code() -> None:
    tags = Tags(static_files()["index.html"].content.decode()).found
    names = [attrs[key] for _, attrs in tags for key in ("src", "href") if key in attrs]
    for name in names:
        assert name is not None
        assert name.removeprefix("page/") in FILES or name.startswith("#")
    assert {"page/page.css", "page/main.js"} <= set(names)
    for tag, attrs in tags:
        assert "style" not in attrs, tag
        assert not [name for name in attrs if name.startswith("on")], tag
        if tag == "script":
            assert attrs.get("src")
    labelled = {attrs["for"] for tag, attrs in tags if tag == "label" and "for" in attrs}
    for tag, attrs in tags:
        if tag in ("input", "select", "textarea"):
            assert attrs.get("id") in labelled, attrs
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_modules_import_only_modules_that_there_are(name: str) -> None:
    text = static_files()[name].content.decode()
    for imported in re.findall(r"""(?:import|export)\s[^"';]*?from\s+["'](.*?)["']""", text):
        assert imported.removeprefix("./") in FILES
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )


@pytest.mark.parametrize("name", FILES)
def test_no_other_host_is_named(name: str) -> None:
    hosts = re.findall(r"(?:https?:)?//([\w.-]+)", static_files()[name].content.decode())
    assert {host for host in hosts if "." in host} <= {"www.w3.org"}
