"""How gradients become updates: AdamW with the paper's betas, or Muon for the layers' matrices.

A method returns one or more torch optimizers, each parameter in exactly one. All of them leave a
step out where their `found_inf`, a tensor on the device, is one, so nobody has to ask the device
first whether a gradient is finite.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pocketlm.method import Method

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")


def adamw(
    network: "PreTrainedModel", *, weight_decay: float
) -> tuple["torch.optim.Optimizer", ...]:
    """AdamW, betas 0.9 and 0.95, eps 1e-8 (paper's release); gains are not decayed."""
    return (_adamw(list(network.parameters()), weight_decay),)


def muon(network: "PreTrainedModel", *, weight_decay: float) -> tuple["torch.optim.Optimizer", ...]:
    """Muon for the matrices inside the layers, AdamW for embedding, head and vectors."""
    from pocketlm.stages.train.muon import Muon

    ends = {id(m.weight) for m in (network.get_input_embeddings(), network.get_output_embeddings())}
    inner = [p for p in network.parameters() if p.dim() == 2 and id(p) not in ends]
    taken = {id(p) for p in inner}
    rest = [p for p in network.parameters() if id(p) not in taken]
    return Muon(inner, weight_decay=weight_decay), _adamw(rest, weight_decay)


OPTIMIZERS = {
    "adamw": Method(adamw, paper="arXiv 2402.02791, public configuration; arXiv 1711.05101"),
    "muon": Method(muon, paper="Jordan 2024; step size of arXiv 2502.16982 (Moonlight)"),
}


def optimizer_tensors(
    optimizers: Sequence["torch.optim.Optimizer"], network: "torch.nn.Module"
) -> dict[str, "torch.Tensor"]:
    """Every moment of every parameter, by the parameter's name."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment].cpu()
        for optimizer, name, parameter in _owned(optimizers, network)
        for moment in _MOMENTS
        if moment in optimizer.state.get(parameter, {})
    }


def restore_optimizer(
    optimizers: Sequence["torch.optim.Optimizer"],
    network: "torch.nn.Module",
    tensors: Mapping[str, "torch.Tensor"],
    num_updates: int,
) -> None:
    """Put saved moments back, as after `num_updates` updates."""
    import torch

    for optimizer, name, parameter in _owned(optimizers, network):
        moments = {m: tensors[f"{m}.{name}"] for m in _MOMENTS if f"{m}.{name}" in tensors}
        if not moments:
            optimizer.state.pop(parameter, None)
            continue
        state = {m: tensor.to(parameter.device) for m, tensor in moments.items()}
        if "exp_avg" in state:
            state["step"] = torch.tensor(float(num_updates), device=parameter.device)
        optimizer.state[parameter] = state


def _adamw(parameters: "list[torch.nn.Parameter]", weight_decay: float) -> "torch.optim.AdamW":
    import torch

    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)


def _owned(
    optimizers: Sequence["torch.optim.Optimizer"], network: "torch.nn.Module"
) -> "Iterator[tuple[torch.optim.Optimizer, str, torch.nn.Parameter]]":
    """Every parameter with its name and the optimizer that moves it."""
    owner = {
        id(parameter): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in network.named_parameters():
        yield owner[id(parameter)], name, parameter
