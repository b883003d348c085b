"""A shape: an architecture in numbers, and its way in and out of a transformers config."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pocketlm.errors import ParentError, RecipeError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One uniform decoder: every layer alike, one width per axis."""

    family: str
    """Name of a file in model/families."""
    vocab_size: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    tied: bool
    series: int = 0
    """Activations summed in the FFN's gate, PanGu-π only; 0 where it is a plain one."""
    shortcut: int = 0
    """Width inside the shortcut beside attention, PanGu-π only; 0 where there is none."""

    def with_vocab(self, vocab_size: int) -> "Shape":
        """The same body on another vocabulary."""
        return replace(self, vocab_size=vocab_size)

    def __str__(self) -> str:
        tied = "tied" if self.tied else "untied"
        return (
            f"{self.layers} layers x {self.hidden}, {self.heads}/{self.kv_heads} heads of "
            f"{self.head_dim}, ffn {self.ffn}, {self.vocab_size} tokens {tied}"
            + (f", {self.series} activations, shortcut {self.shortcut}" if self.series else "")
        )


_PANGU_PI_KEYS = {"series": "num_activations", "shortcut": "shortcut_width"}


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Read the shape out of a transformers `config.json`; raises `ParentError` naming the key."""
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return Shape(
            family=str(config["model_type"]),
            vocab_size=int(config["vocab_size"]),
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            ffn=int(config["intermediate_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            **_modules_of(config),
        )
    except KeyError as missing:
        raise ParentError(
            f"config.json has no {missing}; is it a decoder language model?"
        ) from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ParentError(f"config.json: a size is not a positive whole number ({error})") from None


def _modules_of(config: Mapping[str, Any]) -> dict[str, int]:
    if config["model_type"] != "pangu_pi":
        return {}
    return {name: int(config[key]) for name, key in _PANGU_PI_KEYS.items()}


def config_with(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """A copy of `config` that describes `shape`; everything the shape does not say is kept."""
    modules = {key: getattr(shape, name) for name, key in _PANGU_PI_KEYS.items() if shape.series}
    return {
        **config,
        "vocab_size": shape.vocab_size,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "tie_word_embeddings": shape.tied,
        **modules,
    }


_SIZES = ("vocab_size", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn")


def check_shape(shape: Shape, parent_shape: Shape | None = None) -> None:
    """Raise `RecipeError` with one line unless `shape` can be built, and cut out of the parent.

    hidden is a multiple of heads because transformers refuses anything else; head_dim stays the
    parent's so that rotary frequencies keep their meaning; groups of query heads may lose members
    but not gain any.
    """
    for name in _SIZES:
        if getattr(shape, name) < 1:
            raise RecipeError(f"{name} = {getattr(shape, name)}: it must be at least 1")
    if (shape.family == "pangu_pi") != (shape.series > 0) or shape.shortcut < 0:
        raise RecipeError(
            f"series = {shape.series}, shortcut = {shape.shortcut}: a pangu_pi has at least 1 and "
            "0, any other family has neither"
        )
    if shape.heads % shape.kv_heads:
        raise RecipeError(f"heads = {shape.heads} is not a multiple of kv_heads = {shape.kv_heads}")
    if shape.hidden % shape.heads:
        raise RecipeError(f"hidden = {shape.hidden} is not a multiple of heads = {shape.heads}")
    if shape.head_dim % 2:
        raise RecipeError(f"head_dim = {shape.head_dim}: rotary position needs an even width")
    if parent_shape is not None:
        _check_within(shape, parent_shape)


def _check_within(shape: Shape, parent: Shape) -> None:
    if shape.family != parent.family:
        raise RecipeError(f"a {shape.family} child cannot be cut out of a {parent.family} parent")
    if shape.head_dim != parent.head_dim:
        raise RecipeError(
            f"head_dim = {shape.head_dim}: the parent's is {parent.head_dim}; keep it"
        )
    if shape.series != parent.series:
        raise RecipeError(f"series = {shape.series}: the parent has {parent.series}; keep it")
    for name in (*_SIZES, "shortcut"):
        if getattr(shape, name) > getattr(parent, name):
            raise RecipeError(
                f"{name} = {getattr(shape, name)}: the parent has {getattr(parent, name)}; "
                "a child is cut out of it, so choose that or less"
            )
    group, parent_group = shape.heads // shape.kv_heads, parent.heads // parent.kv_heads
    if group > parent_group:
        raise RecipeError(
            f"heads = {shape.heads} over kv_heads = {shape.kv_heads} is {group} per group; "
            f"the parent has {parent_group}"
        )
    if shape.tied and not parent.tied:
        raise RecipeError("tied = true: the parent's head is a matrix of its own; set tied = false")
