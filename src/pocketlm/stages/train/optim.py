"""The optimizer: AdamW with the paper's betas, decay on matrices only."""

from collections.abc import Mapping

import torch


def adamw(network: torch.nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW, betas 0.9 and 0.95, eps 1e-8 (paper's release); gains are not decayed."""
    matrices = [p for p in network.parameters() if p.dim() >= 2]
    gains = [p for p in network.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, network: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """Both moments of every parameter, by the parameter's name."""
    tensors = {}
    for name, parameter in network.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu()
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    network: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    num_updates: int,
) -> None:
    """Put saved moments back, as after `num_updates` updates."""
    for name, parameter in network.named_parameters():
        if f"exp_avg.{name}" not in tensors:
            continue
        optimizer.state[parameter] = {
            "step": torch.tensor(float(num_updates), device=parameter.device),
            "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
        }
