"""Fetching over OPTIMADE from the reference server on the loopback."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk

from jaxclear import cli
from jaxclear.commands import fetch
from jaxclear.crystals import datasets, from_pymatgen, optimade, read
from jaxclear.crystals.duplicates import first_of_each
from jaxclear.crystals.optimade import ACCOUNT, OptimadeError
from jaxclear.crystals.symmetry import CLASS_NAMES
from tests.crystals.optimade_common import entry, free_port, load_pages

SOLIDS = {
    "ag-1": (bulk("Ag", "fcc", a=4.09), "fcc"),
    "fe/bcc 1": (bulk("Fe", "bcc", a=2.87), "bcc"),
    "Mg_1": (bulk("Mg", "hcp", a=3.21, c=5.21), "hex/rh"),
    "mg_1": (bulk("Mg", "hcp", a=3.20, c=5.20), "hex/rh"),
    "po": (bulk("Po", "sc", a=3.35), "sc"),
    "si-1": (bulk("Si", "diamond", a=5.43) * (2, 1, 1), "diamond"),
    "../../w": (bulk("W", "bcc", a=3.16), "bcc"),
}


def _species(name, symbols, concentration, **more):
    return {"name": name, "chemical_symbols": symbols, "concentration": concentration, **more}


SALT = ase.Atoms("NaCl", cell=5.64 / 2 * (np.ones((3, 3)) - np.eye(3)), pbc=True, positions=[[0] * 3, [2.82, 0, 0]])
UNUSABLE = {
    "layer": entry("layer", bulk("Cu"), dimension_types=[1, 1, 0], nelements=90),
    "apart": entry("apart", bulk("Cu"), lattice_vectors=None, nelements=90),
    "overlap": entry("overlap", bulk("Si"), cartesian_site_positions=[[0, 0, 0], [0, 0, 0.01]], nelements=90),
    "unknown": entry("unknown", bulk("Cu"), species=[_species("Cu", ["X"], [1.0])], nelements=90),
    "attached": entry(
        "attached", bulk("Cu"), species=[_species("Cu", ["Cu"], [1.0], attached=["H"], nattached=[2])], nelements=90
    ),
}
MIXED = {
    # The list of species is in another order than the sites are: what must count is the name.
    "salt": entry("salt", SALT, species=[_species("Cl", ["Cl"], [1.0]), _species("Na", ["Na"], [1.0])]),
    "alloy": entry(
        "alloy",
        bulk("Cu"),
        species=[_species("site", ["Cu", "Au"], [0.75, 0.25])],
        species_at_sites=["site"],
        nelements=2,
    ),
    "vacant": entry(
        "vacant", bulk("Fe"), species=[_species("site", ["Fe", "vacancy"], [0.9, 0.1])], species_at_sites=["site"]
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimade")
    entries = [entry(name, atoms) for name, (atoms, _) in SOLIDS.items()]
    lines = [{"x-optimade": {"api_version": "1.1.0"}}, *entries, *UNUSABLE.values(), *MIXED.values()]
    (folder / "entries.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    port = free_port()
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


def test_elemental_solids_become_a_data_set(server, tmp_path):
    seen = []
    fetched = load_pages(server, tmp_path / "out", filter="nelements=1", progress=lambda *counts: seen.append(counts))
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
    load_pages(server, tmp_path / "out", filter="nelements=1")
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
    fetched = load_pages(server, tmp_path / "out", filter=wanted)
    with OptimadeRester(server) as client:
        (theirs,) = client.get_structures_with_filter(wanted).values()
    assert fetched.written == len(theirs) == 3
    ours = [crystal for path in sorted((tmp_path / "out").glob("*.cif")) for crystal in read(path)]
    groups = first_of_each([*ours, *map(from_pymatgen, theirs.values())], tolerance=1e-6)
    assert groups[:3].tolist() == [0, 1, 2]
    assert sorted(groups[3:]) == [0, 1, 2]


def test_species_are_found_by_name_and_shares_of_a_site_are_kept(server, tmp_path):
    load_pages(server, tmp_path / "out", filter="nelements=2")
    found = {Path(c.name).stem: c for c in datasets.load(tmp_path / "out").crystals}
    salt = found["salt"]
    assert salt.numbers[np.argmin(np.linalg.norm(salt.positions, axis=1))] == 11
    alloy = found["alloy"]
    shares = dict(zip(alloy.numbers.tolist(), alloy.occupancies.tolist(), strict=True))
    assert shares == {29: 0.75, 79: 0.25}
    load_pages(server, tmp_path / "iron", filter='elements HAS "Fe"')
    (vacant,) = (c for c in datasets.load(tmp_path / "iron").crystals if c.name == "vacant.cif")
    assert vacant.numbers.tolist() == [26]
    assert vacant.occupancies.tolist() == [0.9]


def test_entries_that_make_no_structure_are_recorded(server, tmp_path):
    fetched = load_pages(server, tmp_path / "out", filter='nelements=90 OR elements HAS "Po"')
    assert fetched.written == 1
    messages = dict(fetched.failures)
    assert set(messages) == set(UNUSABLE)
    assert messages["layer"] == "expected three periods, got dimension_types [1, 1, 0]"
    assert messages["attached"] == "expected atoms, got species 'Cu' with others attached"
    assert "expected atoms apart" in messages["overlap"]
    assert "got atomic number 0" in messages["unknown"]
    with pytest.raises(OptimadeError, match="got none of 5 entries: layer: expected three periods"):
        load_pages(server, tmp_path / "bad", filter="nelements=90")


def test_a_fetch_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = load_pages(server, out, max_structures=4)
    assert (first.written, first.complete) == (4, False)
    assert len(list(out.glob("*.cif"))) == 4
    asked = []
    ask = optimade._ask

    def noted(session, url, *rest, **more):
        asked.append(url)
        return ask(session, url, *rest, **more)

    monkeypatch.setattr(optimade, "_ask", noted)
    assert load_pages(server, out, max_structures=4) == first
    assert not asked
    second = load_pages(server, out)
    assert (second.written, second.complete) == (8, True)
    assert len(asked) == 2  # the page on which the first stopped, and the last
    assert load_pages(server, out) == second
    assert len(asked) == 2
    at_once = load_pages(server, tmp_path / "once")
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
            load_pages(server, out)
    assert len(list(out.glob("*.cif"))) == 3
    assert load_pages(server, out).written == 8


def test_filters_that_the_server_refuses(server, tmp_path):
    for wrong in ("nelements=", "nonsense=1"):
        with pytest.raises(OptimadeError, match=f"accepts, got the filter '{wrong}'; it says: .*[a-z]"):
            load_pages(server, tmp_path / "out", filter=wrong)
    with pytest.raises(OptimadeError, match="Max allowed page_limit"):
        load_pages(server, tmp_path / "out", page_limit=100_000)
    with pytest.raises(OptimadeError, match="expected structures that pass the filter .* got none of 0 entries"):
        load_pages(server, tmp_path / "out", filter="nelements=50")


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
