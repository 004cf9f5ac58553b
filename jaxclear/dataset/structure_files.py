"""Crystal structures as a source: files, an ASE data base or an archive of files, prepared by worker processes.

The host reads a structure, finds its standard cell and cuts the cluster that goes into the beam; fingerprint, network
and map are the device's.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxclear.dataset.sources import Item, digests, label_of, versions_of
from jaxclear.file_tree import FileTree

if TYPE_CHECKING:
    from jaxclear.crystals import Crystal, PaddedAtoms
    from jaxclear.crystals.cells import Orientation
    from jaxclear.crystals.explain import ExplanationArrays
    from jaxclear.models import LoadedModel

__all__ = ["PreparedStructure", "StructureFiles", "structure_explanation", "structure_images"]

_OF_MANY = (".xyz", ".extxyz", ".traj")
"""Formats of files that often hold many structures; those of other files are one each."""


class _Entry(NamedTuple):
    """Where a structure is: a file, or a member of an archive, and its frame; or a row of a data base."""

    file: str
    frame: int | None


class PreparedStructure(NamedTuple):
    """A cluster that is ready for the device; a batch has the same fields with the batch first.

    Attributes:
        atoms: divided by the nearest-neighbour distance of the undamaged crystal where that is known, and else by the
            measured one.
        scaled: whether it was known.
        lost: whether axes were looked for and not found.
    """

    atoms: "PaddedAtoms"
    scaled: Bool[Any, ""]
    lost: Bool[Any, ""]


class StructureFiles:
    """Structures of a folder, a zip archive, an ASE data base or a file of many frames, each turned and cut.

    An item is a `PreparedStructure`, with the numbers `space_group` (0: none found), `lattice_found` (an answer for
    others holds only if their axes happen to be those of the standard cell) and `recovered` (the lattice had to be
    found again in a damaged structure).

    Args:
        path: of the folder, archive, data base (.db, .json of ASE) or file.
        orientation: as `jaxclear.crystals.explain` takes it.
        symprec: tolerance of the search for the standard cell, Å.
        class_names: a folder with the name of a class labels the files in it.

    Raises:
        ValueError: no such path.
    """

    reading = "processes"

    def __init__(
        self,
        path: str | Path,
        *,
        orientation: "Orientation" = "standard",
        symprec: float = 0.01,
        class_names: Sequence[str] = (),
    ) -> None:
        self._orientation: Orientation = orientation
        self._symprec = symprec
        self._classes = {name: k for k, name in enumerate(class_names)}
        self._tree = FileTree(path)
        self._database = not self._tree.packed and self._tree.path.is_file() and _is_database(self._tree.path)
        self._rows: Any = None
        self._entries = self._listed()

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def __getitem__(self, index: int) -> Item:
        from jaxclear.crystals.cells import pad
        from jaxclear.crystals.orient import orient

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the readers, about things that do not matter here
            crystal = self._read(index)
            piece = orient(crystal, orientation=self._orientation, symprec=self._symprec)
        atoms = jax.tree.map(lambda values: values[0], pad([piece.cluster], piece.d_nn))
        lost = np.bool_(piece.orientation == "not found")
        prepared = PreparedStructure(atoms, np.bool_(piece.d_nn is not None), lost)
        extra = {
            "space_group": np.uint8(piece.space_group or 0),
            "lattice_found": np.bool_(piece.orientation in ("standard", "recovered")),
            "recovered": np.bool_(piece.orientation == "recovered"),
        }
        return Item(prepared, label_of(self._entries[index].file, self._classes), self.name(index), extra)

    def name(self, index: int) -> str:
        """The path in the folder or archive, with @ and the frame where there are several."""
        file, frame = self._entries[index]
        return file if frame is None else f"{file}@{frame}"

    def identity(self) -> dict[str, str]:
        """Digests of names, sizes and content of the files, versions of what reads and turns them, the orientation."""
        found = digests(names=[self.name(k) for k in range(len(self))], sizes=self._tree.sizes)
        settings = {"contents": self._tree.content_digest(), "orientation": f"{self._orientation}, {self._symprec:g} Å"}
        return found | settings | versions_of("ase", "pymatgen", "spglib")

    def _listed(self) -> list[_Entry]:
        """All structures."""
        names = self._tree.names
        if not self._database:
            return [entry for name in names for entry in self._frames(name)]
        from ase.db import connect

        try:
            # ASE asks for one string here, and takes a list of them.
            found = connect(self._tree.path).select(columns=["id"], include_data=False)  # pyright: ignore[reportArgumentType]
            rows = sorted(row.id for row in found)
        except Exception as error:  # of sqlite, of the JSON reader, or of what ASE makes of their content
            raise ValueError(
                f"expected a data base of ASE, got {str(self._tree.path)!r}, which is none or damaged: {error}"
            ) from error
        return [_Entry(names[0], row) for row in rows]

    def _frames(self, name: str) -> list[_Entry]:
        """The structures of a file; one that cannot be read counts as one, which will fail."""
        if Path(name).suffix not in _OF_MANY:
            return [_Entry(name, None)]
        import ase.io

        try:
            with self._tree.located(name) as path:
                number = sum(1 for _ in ase.io.iread(path))
        except Exception:  # it will tell when it is read
            number = 1
        return [_Entry(name, None)] if number <= 1 else [_Entry(name, frame) for frame in range(number)]

    def _read(self, index: int) -> "Crystal":
        from jaxclear.crystals import structures

        entry = self._entries[index]
        if self._database:
            from ase.db import connect

            self._rows = self._rows or connect(self._tree.path)
            return structures.from_ase(self._rows.get(id=entry.frame).toatoms(), name=self.name(index))
        with self._tree.located(entry.file) as path:
            found = structures.read(path, index=":" if entry.frame is None else entry.frame)
        if len(found) != 1:
            raise ValueError(f"expected one structure in {entry.file}, got {len(found)}; write one a file")
        return found[0]._replace(name=self.name(index))


def structure_explanation(model: "LoadedModel", *, rule: Any = "guided") -> tuple[Callable[[Any, Any], Any], Any]:
    """Returns the explanation of prepared structures, `(variables, PreparedStructure) -> mapping`, and its variables.

    The mapping has the `ClearMap`; the calibrated class `probabilities`, (B, K); the `verdict`, (B,), by its number in
    `jaxclear.crystals.explain.VERDICTS`; and, for a network with a reference, the `outside_score`, (B,), behind it
    (:mod:`jaxclear.crystals.outside`). One forward pass serves all of them.

    Args:
        model: as `jaxclear.models.load` returns it.
        rule: a rule's name or a `jaxclear.Rule`.
    """
    from jaxclear.crystals.explain import explain_kernel, layers_for
    from jaxclear.crystals.outside import reference_for
    from jaxclear.crystals.scale import shipped_variables

    reference = reference_for(model.metadata.get("sha256"))
    kernel = explain_kernel(model.apply, rule=rule, layers=layers_for(model, reference))
    variables = {"network": model.variables}
    if reference is not None:
        variables["reference"] = jax.tree.map(jnp.asarray, reference)
    if model.metadata.get("length_scale") == "learned":
        variables["scale"] = shipped_variables()

    def explain(variables: Any, prepared: PreparedStructure) -> dict[str, Any]:
        atoms = _scaled(variables, prepared)
        found = kernel(variables["network"], atoms.positions, atoms.species, atoms.occupancies)
        return {"clear": found.clear, **_judged(variables.get("reference"), found, prepared.lost)}

    return explain, variables


def _judged(reference: Any, found: "ExplanationArrays", lost: Bool[Array, " B"]) -> dict[str, Array]:
    """Probabilities, verdict and the score behind it, as `jaxclear.crystals.explain` has them."""
    from jaxclear.crystals.explain import VERDICTS
    from jaxclear.crystals.outside import distance_to_reference

    number = {verdict: jnp.uint8(k) for k, verdict in enumerate(VERDICTS)}
    if reference is None:
        verdict = jnp.where(lost, number["no lattice"], number["unknown"])
        return {"probabilities": found.probabilities, "verdict": verdict}
    distance = distance_to_reference(found.features, reference.features)
    verdict = jnp.where(distance > reference.threshold, number["outside"], number["member"])
    return {
        "probabilities": jax.nn.softmax(found.clear.class_scores / reference.temperature),
        "verdict": jnp.where(lost, number["no lattice"], verdict),
        "outside_score": distance,
    }


def structure_images(variables: Any, prepared: PreparedStructure) -> Float[Array, "B 64 64 3"]:
    """Returns the fingerprints of prepared structures, with the variables of `structure_explanation`."""
    from jaxclear.crystals.fingerprint import fingerprint_kernel

    atoms = _scaled(variables, prepared)
    return fingerprint_kernel(atoms.positions, atoms.species, atoms.occupancies)


def _scaled(variables: Any, prepared: PreparedStructure) -> "PaddedAtoms":
    """The atoms divided by the learned length where it is not known, for a network that was trained so."""
    atoms = prepared.atoms
    if "scale" not in variables:
        return atoms
    from jaxclear.crystals.scale import length_scale_kernel

    lengths = length_scale_kernel(variables["scale"], atoms.positions, atoms.occupancies)
    return atoms._replace(positions=atoms.positions / jnp.where(prepared.scaled, 1, lengths)[:, None, None])


def _is_database(path: Path) -> bool:
    return path.suffix in (".db", ".json")
