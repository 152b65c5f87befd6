"""Muon: momentum whose step is made orthogonal, for matrices and convolutions, and Adam for all other parameters.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with its coefficients.
`torch.optim.Muon` takes matrices alone, and half of these networks' parameters are convolutions.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial that drives singular values towards 1
STEPS = 5


def orthogonalised(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """About U V^T of each matrix U S V^T, by Newton-Schulz iteration; singular values end between 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    X = matrices.mT if tall else matrices
    X = X / (torch.linalg.matrix_norm(X, keepdim=True) + 1e-7)
    for _ in range(STEPS):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two or more axes, Adam for the rest; one state for both, that a checkpoint holds.

    A convolution's kernel is taken as the matrix (out, in x height x width). The step of a matrix is scaled by
    sqrt(max(1, rows / columns)), so that one rate serves all shapes. Each group's `lr` can be a tensor on the device.

    Args:
        matrices: parameters that Muon changes.
        others: parameters that Adam changes: biases, single vectors, tables.
        lr: Muon's rate.
        adam_lr: Adam's rate.
        momentum: Muon's, with Nesterov's look ahead.
        betas: Adam's.
        weight_decay: decoupled, of the matrices: each step takes lr x weight_decay of them away.
        capturable: for a CUDA graph, as in `torch.optim.Adam`.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        lr: float | Tensor,
        adam_lr: float | Tensor,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        capturable: bool = False,
    ) -> None:
        muon: dict[str, Any] = {"params": list(matrices), "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        rest: dict[str, Any] = {"params": list(others), "lr": adam_lr, "betas": betas}
        super().__init__([muon, rest], {"fused": True, "capturable": capturable})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update. Where `found_inf` is set and 1, as `torch.optim.Adam` has it, nothing changes."""
        muon, rest = self.param_groups
        self._muon(muon)
        self._adam(rest)

    def _muon(self, group: dict[str, Any]) -> None:
        stopped = getattr(self, "found_inf", None)
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffer = self.state[p]["momentum_buffer"]
            mean = buffer.lerp(p.grad, 1 - group["momentum"])
            buffer.copy_(mean if stopped is None else torch.where(stopped > 0, buffer, mean))
            ahead = p.grad.lerp(buffer, group["momentum"]).flatten(1)
            alike.setdefault((ahead.shape[0], ahead.shape[1]), []).append((p, ahead))
        for (rows, columns), pairs in alike.items():  # matrices of one shape share their products
            steps = orthogonalised(torch.stack([ahead for _, ahead in pairs])) * max(1, rows / columns) ** 0.5
            for (p, _), step in zip(pairs, steps, strict=True):
                change = group["lr"] * (step.view_as(p) + group["weight_decay"] * p)
                p.sub_(change if stopped is None else torch.where(stopped > 0, 0.0, change))

    def _adam(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device if group["capturable"] else "cpu")
                self.state[p] |= {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        if params:
            states = [self.state[p] for p in params]
            beta1, beta2 = group["betas"]
            adam(
                params,
                [p.grad for p in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                capturable=group["capturable"],
                found_inf=getattr(self, "found_inf", None),
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
