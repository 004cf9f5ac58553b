"""Class-wise explanations of neural networks as transformations of pure functions."""

from jaxclear.clear import ClearMap, clear_map, overlay, to_rgb
from jaxclear.dataset import explain_dataset, open_store
from jaxclear.devices import place
from jaxclear.heatmaps import HeatMap, binary_map, binary_rgb, heat_map, heat_rgb
from jaxclear.responses import class_responses, coverage, layers, with_rule
from jaxclear.rules import RULES, Rule
from jaxclear.trace import Coverage, CoverageEntry, UnmatchedNonlinearity, UnmatchedNonlinearityWarning
from jaxclear.units import UnitResponses, unit_responses

__version__ = "0.1.0"
__all__ = [
    "RULES",
    "ClearMap",
    "Coverage",
    "CoverageEntry",
    "HeatMap",
    "Rule",
    "UnitResponses",
    "UnmatchedNonlinearity",
    "UnmatchedNonlinearityWarning",
    "__version__",
    "binary_map",
    "binary_rgb",
    "class_responses",
    "clear_map",
    "coverage",
    "explain_dataset",
    "heat_map",
    "heat_rgb",
    "layers",
    "open_store",
    "overlay",
    "place",
    "to_rgb",
    "unit_responses",
    "with_rule",
]
