"""Config and tensors -> a transformers model, strictly."""

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pocketlm.errors import ParentError, StageError
from pocketlm.model.family import load_family
from pocketlm.model.token_ids import fill_token_ids

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

_NOT_FOR_THE_CLASS = ("model_type", "dtype", "torch_dtype", "auto_map", "transformers_version")


def build_network(
    config: Mapping[str, Any],
    tensors: Mapping[str, "torch.Tensor"],
    *,
    attention: str = "sdpa",
) -> "PreTrainedModel":
    """A transformers model holding copies of `tensors`, float32, in eval mode.

    No weight is drawn first, so the global random state stays as it was. Raises `StageError`
    unless every key and shape matches; only the head of a tied model may be absent.
    """
    # Modules are made on the real device: rotary frequencies are computed there and not stored.
    network = _undrawn(config, attention)
    network.tie_weights()
    try:
        keys = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise StageError(f"weights do not fit their config: {_last_line(error)}") from None
    missing = sorted(set(keys.missing_keys) - set(network.all_tied_weights_keys))
    if missing or keys.unexpected_keys:
        raise StageError(
            f"weights do not fit their config: missing {_few(missing)}, "
            f"left over {_few(sorted(keys.unexpected_keys))}"
        )
    return network.eval()


def register_own_class(model_type: str) -> None:
    """Make transformers' Auto classes know a family whose class is ours; others are theirs."""
    if model_type == "pangu_pi":
        from pocketlm.model.pangu_pi import register

        register()


def model_config(config: Mapping[str, Any]) -> "PretrainedConfig":
    """A `config.json` as transformers reads it, everything filled in that it does not say.

    Raises `ParentError` with one line for what transformers does not take.
    """
    from transformers import AutoConfig

    register_own_class(config["model_type"])
    # The class writes into nested tables (rotary parameters); the caller's stay as they were.
    settings = deepcopy({k: v for k, v in config.items() if k not in _NOT_FOR_THE_CLASS})
    try:
        built: PretrainedConfig = AutoConfig.for_model(config["model_type"], **settings)
    except Exception as error:  # each family has its own ways of not liking a config
        reason = " ".join(str(error).split())[:200]
        raise ParentError(f"config.json: transformers does not take it: {reason}") from None
    return built


def explicit_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the token ids and the settings of single layers that it leaves to its class.

    Both would be derived anew, and differently, from a smaller vocabulary or fewer layers.
    """
    full = model_config(config).to_dict()
    per_layer = load_family(config["model_type"]).per_layer
    derived = {key: full[key] for key in per_layer if config.get(key) is None and key in full}
    return {**fill_token_ids(config, full), **derived}


def hollow_network(config: Mapping[str, Any]) -> "PreTrainedModel":
    """The same model without any weight: parameters are on the meta device and take no memory.

    Only rotary frequencies are real; they follow from the config.
    """
    import torch

    with torch.device("meta"):
        network = _undrawn(config, "sdpa")
    base = network.base_model
    base.rotary_emb = type(base.rotary_emb)(config=network.config)
    return network.eval()


def layers_of(network: "PreTrainedModel", family: str) -> Any:
    """The list of the network's layers, whose entries may be replaced."""
    row = next(row for row in load_family(family).tensors if row.per_layer)
    return network.get_submodule(row.name.partition(".{layer}")[0])


def pass_through() -> "torch.nn.Module":
    """A layer that hands the stream on, whatever else it is given."""
    import torch

    class PassThrough(torch.nn.Module):
        passes = True

        def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return hidden_states

    return PassThrough()


def _undrawn(config: Mapping[str, Any], attention: str) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        network: PreTrainedModel = AutoModelForCausalLM.from_config(
            model_config(config), dtype=torch.float32, attn_implementation=attention
        )
    return network


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "none") + more
