"""Fetching over OPTIMADE: against the reference server on the loopback, and against servers that misbehave."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk

from jaxclear import cli
from jaxclear.commands import fetch
from jaxclear.crystals import datasets, from_pymatgen, optimade, read
from jaxclear.crystals.duplicates import first_of_each
from jaxclear.crystals.optimade import ACCOUNT, OptimadeError, load_optimade, providers
from jaxclear.crystals.symmetry import CLASS_NAMES

SOLIDS = {
    "ag-1": (bulk("Ag", "fcc", a=4.09), "fcc"),
    "fe/bcc 1": (bulk("Fe", "bcc", a=2.87), "bcc"),
    "Mg_1": (bulk("Mg", "hcp", a=3.21, c=5.21), "hex/rh"),
    "mg_1": (bulk("Mg", "hcp", a=3.20, c=5.20), "hex/rh"),
    "po": (bulk("Po", "sc", a=3.35), "sc"),
    "si-1": (bulk("Si", "diamond", a=5.43) * (2, 1, 1), "diamond"),
    "../../w": (bulk("W", "bcc", a=3.16), "bcc"),
}


def _entry(name, atoms, **changes):
    symbols = atoms.get_chemical_symbols()
    elements = sorted(set(symbols))
    attributes = {
        "last_modified": {"$date": "2024-01-01T00:00:00Z"},
        "elements": elements,
        "nelements": len(elements),
        "elements_ratios": [symbols.count(element) / len(symbols) for element in elements],
        "chemical_formula_descriptive": atoms.get_chemical_formula(),
        "chemical_formula_reduced": atoms.get_chemical_formula("reduce"),
        "chemical_formula_anonymous": "A",
        "dimension_types": [1, 1, 1],
        "nperiodic_dimensions": 3,
        "lattice_vectors": atoms.cell.array.tolist(),
        "cartesian_site_positions": atoms.positions.tolist(),
        "nsites": len(symbols),
        "species": [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in elements],
        "species_at_sites": symbols,
        "structure_features": [],
    }
    return {"id": name, "type": "structures", "attributes": {**attributes, **changes}}


def _species(name, symbols, concentration, **more):
    return {"name": name, "chemical_symbols": symbols, "concentration": concentration, **more}


SALT = ase.Atoms("NaCl", cell=5.64 / 2 * (np.ones((3, 3)) - np.eye(3)), pbc=True, positions=[[0] * 3, [2.82, 0, 0]])
UNUSABLE = {
    "layer": _entry("layer", bulk("Cu"), dimension_types=[1, 1, 0], nelements=90),
    "apart": _entry("apart", bulk("Cu"), lattice_vectors=None, nelements=90),
    "overlap": _entry("overlap", bulk("Si"), cartesian_site_positions=[[0, 0, 0], [0, 0, 0.01]], nelements=90),
    "unknown": _entry("unknown", bulk("Cu"), species=[_species("Cu", ["X"], [1.0])], nelements=90),
    "attached": _entry(
        "attached", bulk("Cu"), species=[_species("Cu", ["Cu"], [1.0], attached=["H"], nattached=[2])], nelements=90
    ),
}
MIXED = {
    # The list of species is in another order than the sites are: what must count is the name.
    "salt": _entry("salt", SALT, species=[_species("Cl", ["Cl"], [1.0]), _species("Na", ["Na"], [1.0])]),
    "alloy": _entry(
        "alloy",
        bulk("Cu"),
        species=[_species("site", ["Cu", "Au"], [0.75, 0.25])],
        species_at_sites=["site"],
        nelements=2,
    ),
    "vacant": _entry(
        "vacant", bulk("Fe"), species=[_species("site", ["Fe", "vacancy"], [0.9, 0.1])], species_at_sites=["site"]
    ),
}


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimade")
    entries = [_entry(name, atoms) for name, (atoms, _) in SOLIDS.items()]
    lines = [{"x-optimade": {"api_version": "1.1.0"}}, *entries, *UNUSABLE.values(), *MIXED.values()]
    (folder / "entries.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    port = _free_port()
    script = Path(__file__).with_name("optimade_server.py")
    environment = {**os.environ, "OPTIMADE_CONFIG_FILE": str(folder / "none.json"), "OPTIMADE_LOG_DIR": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, script, folder / "entries.jsonl", str(port), "3"], stdout=log, stderr=log, env=environment
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/v1/info", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _fetch(url, out, **options):
    return load_optimade(url, out=out, **{"page_limit": 3, "pause": 0.0, **options})


def test_elemental_solids_become_a_data_set(server, tmp_path):
    seen = []
    fetched = _fetch(server, tmp_path / "out", filter="nelements=1", progress=lambda *counts: seen.append(counts))
    assert fetched.complete
    assert not fetched.failures
    assert fetched.written == fetched.available == len(SOLIDS) + 1  # "vacant" is elemental too
    assert seen[-1] == (8, 8)
    assert [count for count, _ in seen] == [3, 6, 8]
    dataset = datasets.load(tmp_path / "out")
    assert not dataset.failures
    truth = sorted((atoms.get_chemical_symbols()[0], label) for atoms, label in SOLIDS.values())
    found = zip(dataset.elements, (CLASS_NAMES[k] for k in dataset.labels), strict=True)
    assert sorted(found) == sorted([*truth, ("Fe", "bcc")])
    assert {path.parent for path in tmp_path.rglob("*.cif")} == {tmp_path / "out"}


def test_structures_are_those_that_the_server_has(server, tmp_path):
    _fetch(server, tmp_path / "out", filter="nelements=1")
    found = {crystal.name: crystal for crystal in datasets.load(tmp_path / "out").crystals}
    silicon = found["si-1.cif"]
    truth = SOLIDS["si-1"][0]
    volumes = abs(np.linalg.det(silicon.cell)), truth.get_volume()
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-9)
    atoms = ase.Atoms(silicon.numbers, cell=silicon.cell, positions=silicon.positions, pbc=True)
    np.testing.assert_allclose(
        np.sort(atoms.get_all_distances(mic=True), axis=None),
        np.sort(truth.get_all_distances(mic=True), axis=None),
        atol=1e-8,
    )


def test_elemental_solids_are_those_that_pymatgens_client_gets(server, tmp_path):
    from pymatgen.ext.optimade import OptimadeRester

    wanted = 'nelements=1 AND (elements HAS "Mg" OR elements HAS "Si")'
    fetched = _fetch(server, tmp_path / "out", filter=wanted)
    with OptimadeRester(server) as client:
        (theirs,) = client.get_structures_with_filter(wanted).values()
    assert fetched.written == len(theirs) == 3
    ours = [crystal for path in sorted((tmp_path / "out").glob("*.cif")) for crystal in read(path)]
    groups = first_of_each([*ours, *map(from_pymatgen, theirs.values())], tolerance=1e-6)
    assert groups[:3].tolist() == [0, 1, 2]
    assert sorted(groups[3:]) == [0, 1, 2]


def test_species_are_found_by_name_and_shares_of_a_site_are_kept(server, tmp_path):
    _fetch(server, tmp_path / "out", filter="nelements=2")
    found = {Path(c.name).stem: c for c in datasets.load(tmp_path / "out").crystals}
    salt = found["salt"]
    assert salt.numbers[np.argmin(np.linalg.norm(salt.positions, axis=1))] == 11
    alloy = found["alloy"]
    shares = dict(zip(alloy.numbers.tolist(), alloy.occupancies.tolist(), strict=True))
    assert shares == {29: 0.75, 79: 0.25}
    _fetch(server, tmp_path / "iron", filter='elements HAS "Fe"')
    (vacant,) = (c for c in datasets.load(tmp_path / "iron").crystals if c.name == "vacant.cif")
    assert vacant.numbers.tolist() == [26]
    assert vacant.occupancies.tolist() == [0.9]


def test_entries_that_make_no_structure_are_recorded(server, tmp_path):
    fetched = _fetch(server, tmp_path / "out", filter='nelements=90 OR elements HAS "Po"')
    assert fetched.written == 1
    messages = dict(fetched.failures)
    assert set(messages) == set(UNUSABLE)
    assert messages["layer"] == "expected three periods, got dimension_types [1, 1, 0]"
    assert messages["attached"] == "expected atoms, got species 'Cu' with others attached"
    assert "expected atoms apart" in messages["overlap"]
    assert "got atomic number 0" in messages["unknown"]
    with pytest.raises(OptimadeError, match="got none of 5 entries: layer: expected three periods"):
        _fetch(server, tmp_path / "bad", filter="nelements=90")


def test_a_fetch_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = _fetch(server, out, max_structures=4)
    assert (first.written, first.complete) == (4, False)
    assert len(list(out.glob("*.cif"))) == 4
    asked = []
    ask = optimade._ask

    def noted(session, url, *rest, **more):
        asked.append(url)
        return ask(session, url, *rest, **more)

    monkeypatch.setattr(optimade, "_ask", noted)
    assert _fetch(server, out, max_structures=4) == first
    assert not asked
    second = _fetch(server, out)
    assert (second.written, second.complete) == (8, True)
    assert len(asked) == 2  # the page on which the first stopped, and the last
    assert _fetch(server, out) == second
    assert len(asked) == 2
    at_once = _fetch(server, tmp_path / "once")
    assert {p.name: p.read_bytes() for p in out.glob("*.cif")} == {
        p.name: p.read_bytes() for p in at_once.folder.glob("*.cif")
    }


def test_what_was_fetched_before_an_error_is_kept(server, tmp_path, monkeypatch):
    out = tmp_path / "out"
    ask = optimade._ask

    def unplugged(session, url, *rest, **more):
        if "page_offset=3" in url:
            raise OptimadeError("expected an answer")
        return ask(session, url, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(optimade, "_ask", unplugged)
        with pytest.raises(OptimadeError, match="expected an answer"):
            _fetch(server, out)
    assert len(list(out.glob("*.cif"))) == 3
    assert _fetch(server, out).written == 8


def test_filters_that_the_server_refuses(server, tmp_path):
    for wrong in ("nelements=", "nonsense=1"):
        with pytest.raises(OptimadeError, match=f"accepts, got the filter '{wrong}'; it says: .*[a-z]"):
            _fetch(server, tmp_path / "out", filter=wrong)
    with pytest.raises(OptimadeError, match="Max allowed page_limit"):
        _fetch(server, tmp_path / "out", page_limit=100_000)
    with pytest.raises(OptimadeError, match="expected structures that pass the filter .* got none of 0 entries"):
        _fetch(server, tmp_path / "out", filter="nelements=50")


def test_the_command(server, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["fetch", *map(str, arguments)])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    code, out, err = run(server, "--out", "elements", "--max", "2")
    assert (code, err) == (0, "")
    assert out == "2 structures of 8 entries in elements; there are more\n"
    code, out, err = run(f"{server}/v1/", "--out", "elements")
    assert (code, err) == (0, "")
    assert out == "8 structures of 8 entries in elements; that is all\n"
    code, out, err = run(server, "--out", "some", "--filter", 'nelements=90 OR elements HAS "Po"')
    assert code == 1
    assert out == "1 structure of 6 entries in some; that is all\n"
    assert len(err.splitlines()) == 5
    assert all(line.startswith("jaxclear: error: ") for line in err.splitlines())
    monkeypatch.setattr(fetch, "_TOLD", 2)
    code, out, err = run(server, "--out", "some", "--filter", 'nelements=90 OR elements HAS "Po"')
    assert code == 1
    assert len(err.splitlines()) == 3
    assert err.endswith(f"3 more entries, listed in some/{ACCOUNT}\n")
    for arguments, words in (
        ((server, "--out", "x", "--filter", "nelements="), "expected a request that"),
        (("nowhere", "--out", "x"), "a provider out of aflow, "),
        ((server, "--out", "elements", "--filter", "nelements=2"), "name another"),
        ((server, "--max", "0"), "expected max_structures"),
        ((), "required: PROVIDER"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert err.startswith("jaxclear: error: ")
        assert words in err


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


PAGE = {"data": [_entry("po", bulk("Po", "sc", a=3.35))], "meta": {"data_returned": 1}}


@pytest.mark.parametrize("busy", [429, 500, 503])
def test_a_busy_server_is_asked_again_after_the_time_that_it_names(busy, scripted, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(optimade.time, "sleep", waits.append)
    scripted.answers = [(busy, {"Retry-After": "7"}, b""), (busy, {"Retry-After": "tomorrow"}, b""), (200, {}, PAGE)]
    fetched = _fetch(scripted.url, tmp_path / "out", pause=0.25)
    assert fetched.written == 1
    assert waits == [7, 1.0]
    assert len(scripted.seen) == 3
    assert scripted.seen[0]["User-Agent"].startswith("jaxclear/")


def test_requests_are_spaced(scripted, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(optimade.time, "sleep", waits.append)
    scripted.answers = [(200, {}, {**PAGE, "links": {"next": {"href": f"/v1/structures?page={k}"}}}) for k in (1, 2)]
    scripted.answers.append((200, {}, {"data": [], "links": {"next": "/v1/structures?page=3"}}))
    assert _fetch(scripted.url, tmp_path / "out", pause=0.25).complete
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
        _fetch(scripted.url, tmp_path / "out")


def test_nobody_there(tmp_path):
    with pytest.raises(OptimadeError, match="expected an answer from http://127.0.0.1:.*, got ConnectionError: .*kept"):
        _fetch(f"http://127.0.0.1:{_free_port()}", tmp_path / "out")


@pytest.mark.parametrize("name", ["nowhere", "ftp://example.org", "http://", "http://example.org?x=1", ""])
def test_providers_that_are_unknown(name, tmp_path):
    with pytest.raises(OptimadeError, match="or a provider out of aflow, .*nomad.*oqmd"):
        _fetch(name, tmp_path / "out")
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
        _fetch(scripted.url, tmp_path / "file")
    with pytest.raises(OptimadeError, match="expected an empty folder"):
        _fetch(scripted.url, tmp_path / "used")
    _fetch(scripted.url, tmp_path / "out")
    with pytest.raises(OptimadeError, match="got .*out' with 'nelements=1' at http"):
        _fetch(scripted.url, tmp_path / "out", filter="nelements=2")
    for damaged in (b"{", b"\xff", b"[]", b"{}"):
        (tmp_path / "out" / ACCOUNT).write_bytes(damaged)
        with pytest.raises(OptimadeError, match="which is damaged; remove it"):
            _fetch(scripted.url, tmp_path / "out")


@pytest.mark.parametrize("options", [{"max_structures": 0}, {"page_limit": 0}, {"pause": -1.0}, {"timeout": 0.0}])
def test_options_out_of_range(options, tmp_path):
    with pytest.raises(OptimadeError, match="expected max_structures and page_limit of at least 1"):
        _fetch("aflow", tmp_path / "out", **options)
