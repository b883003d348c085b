"""PanGu-π for transformers: a Llama with two cheap modules against feature collapse.

Paper: PanGu-π, arXiv 2312.17276, which chooses n = 2 activations and a shortcut of width D / 32.
Where its text is silent we read it in the nearest way that stays cheap, as marked below.

Series informed activation, in place of SiLU in the FFN's gate (open in the paper: how it meets
SwiGLU; one gate matrix is shared by all terms, since a matrix per term would double the FFN):
    FFN(x) = W_down (phi(W_gate x) * W_up x)       phi(g) = sum_i SiLU(c_i (a_i g + b_i))
    a_i, b_i: learned, one per FFN neuron, so they are cut with it. c = 1, 1, 2, 3, ...: ours. It
    only renames a_i and b_i, but without it the third and later terms would get the gradients of
    the second and stay equal to it.
Augmented shortcut, beside attention (open in the paper: how many, and whether they read before or
after the norm; here one, and it reads what attention reads, after the norm):
    y = x + Attention(norm x) + W_out GELU(W_in norm x)      W_in: D -> W, W_out: W -> D

Neutral start, which a Llama's weights may be put into without changing a bit of its logits:
a_1 = 1 and all other a, b = 0, since SiLU(0) = 0; W_out = 0. No term is dead there: SiLU has slope
1/2 at zero, so a and b learn at the first step, as does W_out; W_in follows at the second.

Config keys besides Llama's: `num_activations` (n >= 1) and `shortcut_width` (W; 0 for no shortcut;
by default hidden_size // 32, at least 1). Always SiLU in the gate; `hidden_act` is not read.

A checkpoint carries this file for `trust_remote_code=True`, so it imports torch and transformers
alone. The forward pass without a cache traces with `torch.export.export`, batch and length left
free, and so goes to ONNX by `torch.onnx.export(..., dynamo=True)`, which needs onnx and onnxscript
(extra onnx; a test holds onnxruntime's logits to torch's at other sizes). GGUF cannot hold it:
llama.cpp has no such architecture.
Shapes: B sequences, T tokens, D hidden, F FFN neurons, W shortcut width.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)


class PanguPiConfig(LlamaConfig):
    """A Llama's config and the sizes of the two modules; raises `ValueError` for sizes below 0."""

    model_type = "pangu_pi"
    base_model_tp_plan = None  # Llama's would split the FFN's neurons but not their a and b

    num_activations: int = 2
    shortcut_width: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.shortcut_width is None:
            self.shortcut_width = max(1, self.hidden_size // 32)
        if self.num_activations < 1:
            raise ValueError(f"num_activations = {self.num_activations}: it must be at least 1")
        if self.shortcut_width < 0:
            raise ValueError(f"shortcut_width = {self.shortcut_width}: it must be at least 0")
        super().__post_init__(**kwargs)


class SeriesTerm(nn.Module):
    """SiLU(c (a g + b)), a and b per neuron; the first term of a series starts as SiLU(g)."""

    def __init__(self, width: int, *, index: int) -> None:
        super().__init__()
        self.is_first = index == 0
        self.gain = float(max(1, index))
        self.scale = nn.Parameter(torch.empty(width))
        self.shift = nn.Parameter(torch.empty(width))

    def forward(self, gate_BTF: torch.Tensor) -> torch.Tensor:
        """Same shape and dtype."""
        # In the gate's dtype: under autocast the FFN stays as narrow as a Llama's.
        scale_F = (self.gain * self.scale).to(gate_BTF.dtype)
        shift_F = (self.gain * self.shift).to(gate_BTF.dtype)
        return functional.silu(torch.addcmul(shift_F, gate_BTF, scale_F))


class SeriesActivation(nn.ModuleList):
    """The sum of n terms."""

    def __init__(self, width: int, num_activations: int) -> None:
        super().__init__(SeriesTerm(width, index=i) for i in range(num_activations))

    def forward(self, gate_BTF: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        first, *rest = self
        total_BTF: torch.Tensor = sum((term(gate_BTF) for term in rest), start=first(gate_BTF))
        return total_BTF


class ZeroLinear(nn.Linear):
    """A matrix that starts at zero; a class of its own, since transformers starts each by class."""


class AugmentedShortcut(nn.Module):
    """W_out GELU(W_in x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(hidden, width, bias=False)
        self.out_proj = ZeroLinear(width, hidden, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        added_BTD: torch.Tensor = self.out_proj(functional.gelu(self.in_proj(x_BTD)))
        return added_BTD


class PanguPiDecoderLayer(GradientCheckpointingLayer):
    """One block: attention and shortcut side by side, then the FFN."""

    def __init__(self, config: PanguPiConfig, layer_idx: int) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.shortcut_width
        self.self_attn = LlamaAttention(config=config, layer_idx=layer_idx)
        self.shortcut = AugmentedShortcut(hidden, width) if width else None
        self.mlp = LlamaMLP(config)
        self.mlp.act_fn = SeriesActivation(config.intermediate_size, config.num_activations)
        self.input_layernorm = LlamaRMSNorm(hidden, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(hidden, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Residual stream in and out [B, T, D]; `kwargs` are those of Llama's attention."""
        normed_BTD = self.input_layernorm(hidden_states)
        attended_BTD, _ = self.self_attn(hidden_states=normed_BTD, **kwargs)
        hidden_states = hidden_states + attended_BTD
        if self.shortcut is not None:
            hidden_states = hidden_states + self.shortcut(normed_BTD)
        fed_BTD: torch.Tensor = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + fed_BTD


class PanguPiPreTrainedModel(LlamaPreTrainedModel):
    """What transformers asks of every model: its config, its parts, its first weights."""

    config_class = PanguPiConfig
    _no_split_modules = ["PanguPiDecoderLayer"]  # noqa: RUF012  (a list to transformers)
    _can_record_outputs = {  # noqa: RUF012  (transformers reads it so)
        "hidden_states": PanguPiDecoderLayer,
        "attentions": LlamaAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SeriesTerm):
            init.constant_(module.scale, 1.0 if module.is_first else 0.0)
            init.zeros_(module.shift)
        elif isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        else:
            super()._init_weights(module)


class PanguPiModel(PanguPiPreTrainedModel, LlamaModel):
    """The decoder without a head; its forward pass is Llama's over other layers."""

    def __init__(self, config: PanguPiConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)  # LlamaModel's own would build Llama's layers
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            PanguPiDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class PanguPiForCausalLM(PanguPiPreTrainedModel, LlamaForCausalLM):
    """The language model: loss, cache and generation are Llama's."""

    def __init__(self, config: PanguPiConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = PanguPiModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def register() -> None:
    """Make the Auto classes of this process know it, and `save_pretrained` write this file too."""
    AutoConfig.register(PanguPiConfig.model_type, PanguPiConfig, exist_ok=True)
    AutoModelForCausalLM.register(PanguPiConfig, PanguPiForCausalLM, exist_ok=True)
    PanguPiConfig.register_for_auto_class()
    PanguPiForCausalLM.register_for_auto_class("AutoModelForCausalLM")
