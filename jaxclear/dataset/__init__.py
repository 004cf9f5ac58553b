"""Explaining a whole data set, over devices and processes, into a zarr store that others can open."""

from jaxclear.dataset.pipeline import ItemError
from jaxclear.dataset.reading import LazyArray, LazyStrings, StoredDataset, open_store
from jaxclear.dataset.run import DatasetRun, explain_dataset
from jaxclear.dataset.sources import ArraySource, ImageFiles, Item
from jaxclear.dataset.store import StoreError
from jaxclear.dataset.structure_files import StructureFiles, structure_explanation
from jaxclear.dataset.verify import Verification, verify

__all__ = [
    "ArraySource",
    "DatasetRun",
    "ImageFiles",
    "Item",
    "ItemError",
    "LazyArray",
    "LazyStrings",
    "StoreError",
    "StoredDataset",
    "StructureFiles",
    "Verification",
    "explain_dataset",
    "open_store",
    "structure_explanation",
    "verify",
]
