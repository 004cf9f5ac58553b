"""CLEAR maps by PyTorch packages, from the same weights: Captum and Zennit a class at a time, and a hand-written loop.

The seed of class `c` is the positive part of the network's class map restricted to kernel `c`. Captum only takes a
scalar a class: half the sum of that part's squares, whose gradient is that seed. All return the maximum over classes
and which it was.
"""

import warnings
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np

from benchmarks.networks import Network, torch_module

NAMES = ("captum", "zennit", "torch, one forward")
Explain = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""Images (B, C, H, W) -> dominant response and dominant class, (B, H, W)."""


class Peers:
    """One network in PyTorch, on the GPU where PyTorch sees one, and what explains it."""

    def __init__(self, network: Network, images: np.ndarray, *, rule: str, classes: Sequence[int]):
        import torch  # pyright: ignore[reportMissingImports]

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._rule, self._classes = rule, classes
        self._network = network
        self._images = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C")).to(self._device)

    def contenders(self, chosen: Container[str] = NAMES) -> dict[str, Callable[[], Any]]:
        """Returns those of the chosen that are installed, by name."""
        found: dict[str, Callable[[], Any]] = {}
        for name, make in zip(NAMES, (self._captum, self._zennit, self._by_hand), strict=True):
            if name not in chosen:
                continue
            try:
                found[name] = self._whole(make())
            except ImportError as error:
                warnings.warn(f"{name} is left out: {error}", stacklevel=2)
        return found

    def _module(self) -> Any:
        module = torch_module(self._network.layers, self._network.parameters)
        return module.to(self._device).eval().requires_grad_(False)

    def _whole(self, responses_of: Callable[[int], Any]) -> Callable[[], Any]:
        """The running maximum over the classes, waited for."""
        torch = self._torch

        def explain() -> tuple[Any, Any]:
            first, *others = self._classes
            best = responses_of(first).sum(1)
            best_class = torch.full(best.shape, first, device=self._device)
            for number in others:
                response = responses_of(number).sum(1)
                best_class = torch.where(response > best, number, best_class)
                best = torch.maximum(response, best)
            return best.cpu().numpy(), best_class.cpu().numpy()

        return explain

    def _captum(self) -> Callable[[int], Any]:
        from captum.attr import Deconvolution, GuidedBackprop  # pyright: ignore[reportMissingImports]

        torch, network = self._torch, self._module()

        class Halved(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, images: Any) -> Any:
                maps = self.network(images).clamp(min=0)
                return maps.square().flatten(2).sum(2) / 2 if maps.ndim > 2 else maps.square() / 2

        method = {"guided": GuidedBackprop, "deconvnet": Deconvolution}[self._rule](Halved())

        def respond(number: int) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it sets hooks, each time
                return method.attribute(self._images.clone().requires_grad_(), target=number)

        return respond

    def _zennit(self) -> Callable[[int], Any]:
        from zennit.attribution import Gradient  # pyright: ignore[reportMissingImports]
        from zennit.composites import DeconvNet, GuidedBackprop  # pyright: ignore[reportMissingImports]

        composite = {"guided": GuidedBackprop, "deconvnet": DeconvNet}[self._rule]()
        network, torch = self._module(), self._torch

        def respond(number: int) -> Any:
            def seed(maps: Any) -> Any:
                only = torch.zeros_like(maps)
                only[:, number] = maps[:, number].clamp(min=0)
                return only.detach()

            with Gradient(network, composite) as attributor:
                found: Any = attributor(self._images.clone().requires_grad_(), seed)
            return found[1]  # beside the output

        return respond

    def _by_hand(self) -> Callable[[int], Any]:
        """One forward pass, kept, and a backward pass a class: what one writes in PyTorch who cares for speed."""
        torch, rule = self._torch, self._rule

        class Rectify(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                if rule == "guided":
                    ctx.save_for_backward(x > 0)
                return x.clamp(min=0)

            @staticmethod
            def backward(ctx: Any, *responses: Any) -> Any:
                positive = responses[0].clamp(min=0)
                return positive * ctx.saved_tensors[0] if rule == "guided" else positive

        class Ruled(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return Rectify.apply(x)

        network = self._module()
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.ReLU):
                    setattr(module, name, Ruled())
        state: dict[str, Any] = {}

        def respond(number: int) -> Any:
            if number == self._classes[0]:
                state["images"] = self._images.clone().requires_grad_()
                state["maps"] = network(state["images"])
            maps = state["maps"]
            seed = torch.zeros_like(maps)
            seed[:, number] = maps[:, number].detach().clamp(min=0)
            return torch.autograd.grad(maps, state["images"], seed, retain_graph=True)[0]

        return respond
