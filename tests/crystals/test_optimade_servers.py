"""Fetching over OPTIMADE from servers that are busy, misbehave or are not there, and into folders already in use."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ase.build import bulk

from jaxclear.crystals import optimade
from jaxclear.crystals.optimade import ACCOUNT, OptimadeError, providers
from tests.crystals.optimade_common import entry, free_port, load_pages


class _Scripted(BaseHTTPRequestHandler):
    """Answers each request with the next of the server's answers, the last one for ever: status, headers, body."""

    def do_GET(self):
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.seen.append(dict(self.headers))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def scripted():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Scripted) as server:
        server.seen = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


PAGE = {"data": [entry("po", bulk("Po", "sc", a=3.35))], "meta": {"data_returned": 1}}


@pytest.mark.parametrize("busy", [429, 500, 503])
def test_a_busy_server_is_asked_again_after_the_time_that_it_names(busy, scripted, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(optimade.time, "sleep", waits.append)
    scripted.answers = [(busy, {"Retry-After": "7"}, b""), (busy, {"Retry-After": "tomorrow"}, b""), (200, {}, PAGE)]
    fetched = load_pages(scripted.url, tmp_path / "out", pause=0.25)
    assert fetched.written == 1
    assert waits == [7, 1.0]
    assert len(scripted.seen) == 3
    assert scripted.seen[0]["User-Agent"].startswith("jaxclear/")


def test_requests_are_spaced(scripted, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(optimade.time, "sleep", waits.append)
    scripted.answers = [(200, {}, {**PAGE, "links": {"next": {"href": f"/v1/structures?page={k}"}}}) for k in (1, 2)]
    scripted.answers.append((200, {}, {"data": [], "links": {"next": "/v1/structures?page=3"}}))
    assert load_pages(scripted.url, tmp_path / "out", pause=0.25).complete
    assert waits == [0.25, 0.25]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((503, {}, b""), "expected an answer from http://127.0.0.1:.*, got status 503"),
        ((404, {}, b"<html>"), "expected OPTIMADE structures at .*/v1/structures, got status 404"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), "got status 200 and text/html; give the base address"),
        ((200, {}, {"data": None}), "expected OPTIMADE structures"),
        ((200, {}, [1]), "expected OPTIMADE structures"),
        ((400, {}, b"what"), "got the filter 'nelements=1'; it says: status 400"),
        ((200, {}, {"data": [1, {}, {"id": "a"}, {"id": "b", "attributes": {}}]}), "got none of 4 entries"),
        ((200, {}, {**PAGE, "links": {"next": "/v1/structures?page=1"}}), "got the same again"),
    ],
)
def test_servers_that_misbehave(answer, message, scripted, tmp_path):
    scripted.answers = [answer]
    with pytest.raises(OptimadeError, match=message):
        load_pages(scripted.url, tmp_path / "out")


def test_nobody_there(tmp_path):
    with pytest.raises(OptimadeError, match="expected an answer from http://127.0.0.1:.*, got ConnectionError: .*kept"):
        load_pages(f"http://127.0.0.1:{free_port()}", tmp_path / "out")


@pytest.mark.parametrize("name", ["nowhere", "ftp://example.org", "http://", "http://example.org?x=1", ""])
def test_providers_that_are_unknown(name, tmp_path):
    with pytest.raises(OptimadeError, match="or a provider out of aflow, .*nomad.*oqmd"):
        load_pages(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_providers_by_name():
    known = providers()
    assert {"aflow", "mp", "nomad", "oqmd"} <= set(known)
    assert all(url.startswith("http") and not url.endswith("/") for url in known.values())
    assert optimade._base_url("AFLOW") == known["aflow"]
    for address in ("http://a.b/c", "http://a.b/c/", "http://a.b/c/v1", "http://a.b/c/v1.2/structures/"):
        assert optimade._base_url(address) == "http://a.b/c"


def test_folders_with_other_contents(scripted, tmp_path):
    scripted.answers = [(200, {}, PAGE)]
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("")
    with pytest.raises(OptimadeError, match="expected a folder, got .*file"):
        load_pages(scripted.url, tmp_path / "file")
    with pytest.raises(OptimadeError, match="expected an empty folder"):
        load_pages(scripted.url, tmp_path / "used")
    load_pages(scripted.url, tmp_path / "out")
    with pytest.raises(OptimadeError, match="got .*out' with 'nelements=1' at http"):
        load_pages(scripted.url, tmp_path / "out", filter="nelements=2")
    for damaged in (b"{", b"\xff", b"[]", b"{}"):
        (tmp_path / "out" / ACCOUNT).write_bytes(damaged)
        with pytest.raises(OptimadeError, match="which is damaged; remove it"):
            load_pages(scripted.url, tmp_path / "out")


@pytest.mark.parametrize("options", [{"max_structures": 0}, {"page_limit": 0}, {"pause": -1.0}, {"timeout": 0.0}])
def test_options_out_of_range(options, tmp_path):
    with pytest.raises(OptimadeError, match="expected max_structures and page_limit of at least 1"):
        load_pages("aflow", tmp_path / "out", **options)
