"""From crystal structures to class and CLEAR map: fingerprint, network and back-projection in one compiled call.

Array contract: clusters as :class:`~jaxclear.crystals.PaddedAtoms` in, images ``(B, 64, 64, 3)`` in [0, 1] out. Nothing
leaves the device between the atoms and the coloured map.

The function :func:`explain` has the name of its module; import the module's other names from
``jaxclear.crystals.explain``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxclear.class_backprop import scores_of
from jaxclear.clear import ClearMap, clear_map, to_rgb
from jaxclear.crystals.batching import run_batched
from jaxclear.crystals.beam import PUBLISHED, Beam
from jaxclear.crystals.cells import Orientation, nearest_neighbour_distance
from jaxclear.crystals.fingerprint import fingerprint_kernel
from jaxclear.crystals.orient import FoundOrientation, OrientedCluster, orient
from jaxclear.crystals.outside import (
    Reference,
    calibrated,
    feature_function,
    reference_for,
    scores_of_features,
)
from jaxclear.crystals.scale import length_scales
from jaxclear.crystals.structures import Crystal, read
from jaxclear.palettes import legible
from jaxclear.responses import with_rule
from jaxclear.rules import Rule, resolve

if TYPE_CHECKING:
    from jaxclear.models import Layer, LoadedModel

Kernel = Callable[..., "ExplanationArrays"]
"""`(variables, positions, species, occupancies) -> ExplanationArrays`, arrays as `PaddedAtoms` has them."""


class ExplanationArrays(NamedTuple):
    """What the compiled call returns."""

    fingerprint: Float[Array, "B 64 64 3"]
    """Diffraction fingerprints in [0, 1]."""
    probabilities: Float[Array, "B K"]
    """Softmax of the class scores."""
    clear: ClearMap
    """The CLEAR map; `clear.class_scores` are the network's logits."""
    rgb: Float[Array, "B 64 64 3"]
    """The CLEAR map in colour, as :func:`jaxclear.to_rgb` draws it."""
    features: Float[Array, "B F"]
    """What goes into the class layer, unit vectors, for the verdict; F is 0 where no layers were given."""


Verdict = Literal["member", "outside", "no lattice", "unknown"]
"""Whether a structure belongs to the class that is named: "outside" when it is like none that the network has learnt,
"no lattice" when its axes were looked for and not found, "unknown" for a network without a reference."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""By the numbers that are stored for them."""


class CrystalExplanation(NamedTuple):
    """Explanations of structures, in their order; host arrays.

    Attributes:
        fingerprint: (B, 64, 64, 3), diffraction fingerprints in [0, 1].
        class_scores: (B, K), the network's logits.
        probabilities: (B, K), softmax of the logits over the calibrated temperature, where the network has one.
        predicted_class: (B,), the most probable class.
        clear: the CLEAR maps.
        rgb: (B, 64, 64, 3), the CLEAR maps in colour.
        colours: (K, 3), each class's colour in them.
        class_names: one name a class.
        names: where each structure came from.
        verdicts: whether the class can be believed, see `Verdict`.
        outside_scores: (B,), distance of each from what the network has learnt (:mod:`jaxclear.crystals.outside`); NaN
            for a network without a reference.
        orientations: how the axes were found, as `jaxclear.crystals.orient.OrientedCluster` has it.
        space_groups: of the averaged cells; None where none was looked for or found.
        clusters: the finite pieces that were put in the beam, unscaled (Å).
        d_nn: (B,), the length by which each was divided, Å.
        cells: the standard cells that they are made of, where one was found.
    """

    fingerprint: Float[np.ndarray, "B 64 64 3"]
    class_scores: Float[np.ndarray, "B K"]
    probabilities: Float[np.ndarray, "B K"]
    predicted_class: Int[np.ndarray, " B"]
    clear: ClearMap
    rgb: Float[np.ndarray, "B 64 64 3"]
    colours: Float[np.ndarray, "K 3"]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    outside_scores: Float[np.ndarray, " B"]
    orientations: tuple[FoundOrientation, ...]
    space_groups: tuple[int | None, ...]
    clusters: tuple[Crystal, ...]
    d_nn: Float[np.ndarray, " B"]
    cells: tuple[Crystal | None, ...]


def explain_kernel(
    apply: Callable[[Any, Any], Any],
    *,
    rule: str | Rule = "guided",
    palette: Any = None,
    beam: Beam = PUBLISHED,
    layers: "tuple[Layer, ...] | None" = None,
) -> Kernel:
    """Returns the pure function `(variables, positions, species, occupancies) -> ExplanationArrays`.

    It is not compiled: under `jax.jit`, `jax.export` or `shard_map` all of it is one program, from atoms to colours.

    Args:
        apply: the network, `(variables, images (B, 64, 64, 3))` -> class maps or logits.
        rule: a rule's name or a `jaxclear.Rule`.
        palette: of :func:`jaxclear.to_rgb`.
        beam: the simulated experiment.
        layers: of the network, where its features are wanted; its forward pass is not run again for them.

    Raises:
        ValueError: for an unknown rule; when called, for arrays whose shapes do not belong together.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def network(weights, images):
        ...     return images.reshape(len(images), -1) @ weights
        >>> kernel = jax.jit(explain_kernel(network))
        >>> found = kernel(jnp.ones((64 * 64 * 3, 7)), jnp.eye(3)[None], jnp.full((1, 3), 29), jnp.ones((1, 3)))
        >>> found.rgb.shape, found.probabilities.shape
        ((1, 64, 64, 3), (1, 7))
    """
    explained = clear_map(apply, rule=rule)
    features = with_rule(_features(layers), rule)

    def kernel(
        variables: Any,
        positions: Float[Array, "B atoms 3"],
        species: Int[Array, "B atoms"],
        occupancies: Float[Array, "B atoms"],
    ) -> ExplanationArrays:
        images = fingerprint_kernel(positions, species, occupancies, beam=beam)
        clear = explained(variables, images)
        probabilities, colours = jax.nn.softmax(clear.class_scores), to_rgb(clear, palette=palette)
        # The compiler sees that these layers, traced alike, are those of the explanation, and keeps them once.
        return ExplanationArrays(images, probabilities, clear, colours, features(variables, images))

    return kernel


def _features(layers: "tuple[Layer, ...] | None") -> Callable[[Any, Array], Float[Array, "B F"]]:
    return (lambda _, images: jax.numpy.zeros((len(images), 0))) if layers is None else feature_function(layers)


@functools.lru_cache(maxsize=16)
def compiled_kernel(
    apply: Callable[[Any, Any], Any], rule: Rule, num_classes: int, layers: "tuple[Layer, ...] | None" = None
) -> Kernel:
    """Returns the compiled :func:`explain_kernel` in legible colours, the same one for the same network and rule."""
    return jax.jit(explain_kernel(apply, rule=rule, palette=legible(num_classes), layers=layers))


@functools.cache
def shipped_model() -> "LoadedModel":
    """Returns the crystal network with the weights that ship with the package, loaded once."""
    from jaxclear import models

    return models.load("crystal")


def explain(
    structures: Any,
    *,
    rule: str | Rule = "guided",
    orientation: Orientation = "standard",
    model: "LoadedModel | None" = None,
    symprec: float = 0.01,
) -> CrystalExplanation:
    """Returns class, fingerprint and CLEAR map of structures, computed in one compiled call for each 32 of a size.

    Args:
        structures: anything :func:`~jaxclear.crystals.read` takes: files, ``ase.Atoms``, pymatgen structures, or many.
        rule: a rule's name or a `jaxclear.Rule`. The published crystal maps are guided.
        orientation: "standard" looks for the lattice of each structure, whatever its cell, its axes and its damage, and
            turns it to its standard conventional cell; "as given" keeps its axes.
        model: another network than the shipped one, as `jaxclear.models.load` returns it.
        symprec: tolerance of the symmetry search in structures as given, Å.

    Raises:
        StructureError: when a structure cannot be used.
        ValueError: for an unknown rule or orientation, no structures, or no shipped weights.

    Example:
        >>> from ase.build import bulk
        >>> import jaxclear.crystals
        >>> found = jaxclear.crystals.explain(bulk("Cu"))
        >>> found.class_names[found.predicted_class[0]]
        'fcc'

    Source: D. Kumar, Class Based Strategies for Understanding Neural Networks, University of Waterloo (2020), 3.4 and
    5.2; A. Ziletti et al., Nat. Commun. 9, 2775 (2018).
    """
    resolve(rule)
    pieces = [orient(crystal, orientation=orientation, symprec=symprec) for crystal in read(structures)]
    return explain_oriented(pieces, rule=rule, model=model)


def explain_clusters(
    clusters: Sequence[Crystal],
    *,
    rule: str | Rule = "guided",
    model: "LoadedModel | None" = None,
    progress: Callable[[int], None] | None = None,
) -> CrystalExplanation:
    """Returns explanations of finite clusters that were oriented and cut already, with or without defects added.

    Args:
        clusters: as :func:`~jaxclear.crystals.cluster` cuts them.
        rule: a rule's name or a `jaxclear.Rule`.
        model: another network than the shipped one.
        progress: called with the number of clusters done.

    Raises:
        ValueError: for an unknown rule, no clusters, or no shipped weights.
    """
    as_given = [OrientedCluster(crystal.name, crystal, "as given", None) for crystal in clusters]
    return explain_oriented(as_given, rule=rule, model=model, progress=progress)


def explain_oriented(
    pieces: Sequence[OrientedCluster],
    *,
    rule: str | Rule = "guided",
    model: "LoadedModel | None" = None,
    progress: Callable[[int], None] | None = None,
) -> CrystalExplanation:
    """Returns explanations of what :func:`orient` returns; arguments and errors are those of `explain_clusters`."""
    kernel_rule = resolve(rule)
    if not pieces:
        raise ValueError("expected at least one structure, got none")
    model = shipped_model() if model is None else model
    reference = reference_for(model.metadata.get("sha256"))
    kernel = compiled_kernel(model.apply, kernel_rule, len(model.class_names), layers_for(model, reference))
    clusters = [piece.cluster for piece in pieces]
    lengths = _lengths(model, clusters, [piece.d_nn for piece in pieces])
    arrays: ExplanationArrays = run_batched(
        functools.partial(kernel, model.variables), clusters, d_nn=lengths, progress=progress
    )
    scores = np.asarray(arrays.clear.class_scores)
    distances = scores_of_features(np.asarray(arrays.features), reference)
    return CrystalExplanation(
        fingerprint=np.asarray(arrays.fingerprint),
        class_scores=scores,
        probabilities=_probabilities(scores, reference),
        predicted_class=scores.argmax(axis=1),
        clear=arrays.clear,
        rgb=np.asarray(arrays.rgb),
        colours=legible(len(model.class_names)),
        class_names=tuple(model.class_names),
        names=tuple(piece.name for piece in pieces),
        verdicts=verdicts(pieces, distances, model=model),
        outside_scores=distances,
        orientations=tuple(piece.orientation for piece in pieces),
        space_groups=tuple(piece.space_group for piece in pieces),
        clusters=tuple(clusters),
        d_nn=lengths,
        cells=tuple(None if piece.found is None else piece.found.average.crystal for piece in pieces),
    )


def layers_for(model: "LoadedModel", reference: Reference | None) -> "tuple[Layer, ...] | None":
    """The layers whose features a reference is compared with; None without one."""
    return None if reference is None else model.network.layers


def _probabilities(scores: Float[np.ndarray, "B K"], reference: Reference | None) -> Float[np.ndarray, "B K"]:
    return calibrated(scores, 1.0 if reference is None else reference.temperature)


def verdicts(
    pieces: Sequence[OrientedCluster], outside_scores: Float[np.ndarray, " B"], *, model: "LoadedModel"
) -> tuple[Verdict, ...]:
    """Returns whether each structure belongs to the class that is named.

    Args:
        pieces: as :func:`orient` returns them.
        outside_scores: of each, as `judge_clusters` returns them.
        model: the network.
    """
    reference = reference_for(model.metadata.get("sha256"))
    both = zip(pieces, outside_scores.tolist(), strict=True)
    return tuple(_verdict(piece, distance, reference) for piece, distance in both)


def _verdict(piece: OrientedCluster, distance: float, reference: Reference | None) -> Verdict:
    if piece.orientation == "not found":
        return "no lattice"
    if reference is None:
        return "unknown"
    return "outside" if distance > reference.threshold else "member"


class Judgement(NamedTuple):
    """What the network says of clusters, without the maps that take most of the time.

    Attributes:
        probabilities: (B, K), calibrated where the network has a reference.
        outside_scores: (B,), as in `CrystalExplanation`.
    """

    probabilities: Float[np.ndarray, "B K"]
    outside_scores: Float[np.ndarray, " B"]


def judge_clusters(
    clusters: Sequence[Crystal],
    *,
    d_nn: Sequence[float | None] | None = None,
    model: "LoadedModel | None" = None,
    progress: Callable[[int], None] | None = None,
) -> Judgement:
    """Returns class probabilities and outside scores of finite clusters.

    Args:
        clusters: as :func:`~jaxclear.crystals.cluster` cuts them.
        d_nn: nearest-neighbour distance of each undamaged crystal, Å, where it is known.
        model: another network than the shipped one.
        progress: called with the number of clusters done.

    Raises:
        ValueError: for no clusters, or no shipped weights.
    """
    if not clusters:
        raise ValueError("expected at least one structure, got none")
    model = shipped_model() if model is None else model
    reference = reference_for(model.metadata.get("sha256"))
    judging = _judging_kernel(model.apply, layers_for(model, reference))
    kernel = functools.partial(judging, model.variables)
    lengths = _lengths(model, clusters, [None] * len(clusters) if d_nn is None else d_nn)
    scores, features = run_batched(kernel, clusters, d_nn=lengths, progress=progress)
    probabilities = _probabilities(scores, reference)
    return Judgement(probabilities, scores_of_features(features, reference))


def judge_oriented(
    pieces: Sequence[OrientedCluster],
    *,
    model: "LoadedModel | None" = None,
    progress: Callable[[int], None] | None = None,
) -> Judgement:
    """Returns the judgement of what :func:`orient` returns; arguments and errors are those of `judge_clusters`."""
    clusters, lengths = [piece.cluster for piece in pieces], [piece.d_nn for piece in pieces]
    return judge_clusters(clusters, d_nn=lengths, model=model, progress=progress)


def class_probabilities(
    clusters: Sequence[Crystal],
    *,
    d_nn: Sequence[float | None] | None = None,
    model: "LoadedModel | None" = None,
    progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, "B K"]:
    """Returns the class probabilities of :func:`judge_clusters`, whose arguments and errors it has."""
    return judge_clusters(clusters, d_nn=d_nn, model=model, progress=progress).probabilities


def _lengths(
    model: "LoadedModel", clusters: Sequence[Crystal], known: Sequence[float | None]
) -> Float[np.ndarray, " B"]:
    """The length by which each cluster is divided, Å: what is known, or what the model was trained with."""
    lengths = np.array([np.nan if length is None else length for length in known])
    for_each = np.flatnonzero(np.isnan(lengths))
    unknown = [clusters[i] for i in for_each.tolist()]
    if model.metadata.get("length_scale") == "learned":
        lengths[for_each] = length_scales(unknown)
    else:
        lengths[for_each] = [nearest_neighbour_distance(crystal.positions) for crystal in unknown]
    return lengths


@functools.lru_cache(maxsize=16)
def _judging_kernel(apply: Callable[[Any, Any], Any], layers: "tuple[Layer, ...] | None") -> Callable[..., Any]:
    features = _features(layers)

    def kernel(variables: Any, positions: Array, species: Array, occupancies: Array) -> tuple[Array, Array]:
        images = fingerprint_kernel(positions, species, occupancies)
        return scores_of(apply(variables, images)), features(variables, images)

    return jax.jit(kernel)
