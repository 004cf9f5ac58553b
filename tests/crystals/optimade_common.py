"""What the tests of OPTIMADE share: entries as servers give them, free ports, and fetching in small pages."""

import socket

from jaxclear.crystals.optimade import load_optimade


def entry(name, atoms, **changes):
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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def load_pages(url, out, **options):
    return load_optimade(url, out=out, **{"page_limit": 3, "pause": 0.0, **options})
