"""An operator of torch with kernels in Python, which does not import torch's compiler."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def operator(schema: str, device: str = "default") -> Callable[[Callable[..., Any]], "Operator"]:
    """A decorator of a function: an operator of its name, which it computes on a type of device, or on all.

    Args:
        schema: Arguments and results. It changes no argument.
        device: Such as "cpu"; "default" is all that have no kernel of their own.
    """

    def make(function: Callable[..., Any]) -> Operator:
        made = Operator(function.__name__, schema)
        made.__doc__ = function.__doc__
        made.kernel(device)(function)
        return made

    return make


class Operator:
    """What torch.library.custom_op makes, except that a call does not import torch's compiler.

    That takes seconds, and serves only to keep the compiler out of kernels: until it is imported, nothing has to.

    Args:
        name: In the namespace crfrnn.
        schema: Arguments and results.

    Attributes:
        kernels: What computes it on each type of device, and on all others ("default").
        overload: What torch has registered.
    """

    def __init__(self, name: str, schema: str) -> None:
        self.name, self.kernels = f"crfrnn::{name}", dict[str, Callable[..., Any]]()
        torch.library.define(self.name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.overload = getattr(torch.ops.crfrnn, name).default

    def __call__(self, *arguments: Any) -> Any:
        return self.overload(*arguments)

    def kernel(self, device: str) -> Callable[[Function], Function]:
        """A decorator of what computes it on a type of device, or on all others ("default")."""

        def call(*arguments: Any) -> Any:
            kernel = self.kernels[device]
            if "torch._dynamo" in sys.modules:
                kernel = torch.compiler.disable(kernel)  # type: ignore[no-untyped-call]
            return kernel(*arguments)

        def register(kernel: Function) -> Function:
            self.kernels[device] = kernel
            torch.library.impl(self.name, device, call)
            return kernel

        return register

    def fake(self, function: Function) -> Function:
        """A decorator of what makes results without numbers."""
        torch.library.register_fake(self.name, function)
        return function

    def differentiate(self, backward: Callable[..., Any], save: Callable[..., None] | None = None) -> None:
        """Give it a backward pass, and what saves tensors for it."""
        torch.library.register_autograd(self.name, backward, setup_context=save)

    def batch(self, batched: Callable[..., Any]) -> None:
        """Give it a rule for torch.vmap."""
        torch.library.register_vmap(self.name, batched)
