"""The products of frozen weights in bf16, everything else as it was: half the time where a CPU has avx512_bf16.

Knows nothing of what the layers are part of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HalfLinear(nn.Module):
    """A frozen linear layer that multiplies in bf16, whatever the type of what goes in, which comes out again."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("weight", layer.weight.detach().bfloat16(), persistent=False)
        bias = None if layer.bias is None else layer.bias.detach()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[*, in_features] -> [*, out_features]"""
        found = _Product.apply(x, self.weight)
        return found if self.bias is None else found + self.bias


class _Product(torch.autograd.Function):
    """x W' and, backwards, g W; W itself has no gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        # x [*, in], weight [out, in]
        ctx.save_for_backward(weight)
        return F.linear(x.to(weight.dtype), weight).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return (gradient.to(weight.dtype) @ weight).to(gradient.dtype), None


def halve_products(model: nn.Module) -> None:
    """Every frozen nn.Linear of `model` becomes a HalfLinear; what is trained, adapters too, stays as it is."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and not layer.weight.requires_grad:
                setattr(parent, name, HalfLinear(layer))
