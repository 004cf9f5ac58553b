"""Tracing any JAX function and putting a rule into it: alone in knowing jaxprs.

`jaxprs` owns the names that differ between JAX versions, `graph` turns a jaxpr into a data-flow graph that looks
through `jit`, `remat` and the like, `patterns` recognises rectifiers and max-poolings in that graph, `program`
evaluates the jaxpr again with a rule in their place, `head` cuts off the class layer, `coverage` reports,
`independence` sees whether images are left apart. `loops` makes the back-projection ready for a loop over classes,
`two_parts` cuts it, `convolutions`, `transposed`, `thin` and `all_threads` make its convolutions.
"""

from jaxclear.trace.coverage import (
    Coverage,
    CoverageEntry,
    OnUnmatched,
    UnmatchedNonlinearity,
    UnmatchedNonlinearityWarning,
    act_on,
)
from jaxclear.trace.head import ClassHead, per_image, split_head
from jaxclear.trace.independence import keeps_images_apart
from jaxclear.trace.layers import Layer
from jaxclear.trace.leaves import FixedLeaves, is_array, split_leaves
from jaxclear.trace.loops import loop_body
from jaxclear.trace.program import Program
from jaxclear.trace.two_parts import TwoParts, cut

__all__ = [
    "ClassHead",
    "Coverage",
    "CoverageEntry",
    "FixedLeaves",
    "Layer",
    "OnUnmatched",
    "Program",
    "TwoParts",
    "UnmatchedNonlinearity",
    "UnmatchedNonlinearityWarning",
    "act_on",
    "cut",
    "is_array",
    "keeps_images_apart",
    "loop_body",
    "per_image",
    "split_head",
    "split_leaves",
]
