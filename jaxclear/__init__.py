"""Class-wise explanations of neural networks as transformations of pure functions."""

__version__ = "0.1.0"
__all__ = ["__version__"]
