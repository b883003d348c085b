"""A shape: an architecture in numbers, and its way in and out of a transformers config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pocketlm.errors import ParentError, RecipeError
from pocketlm.model.family import Family, Keys, load_family


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
    flipped: tuple[str, ...] = ()
    """The family's switches that are not at their default, e.g. attention_bias: on in a llama, off
    in a gpt_neox. They decide which tensors there are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "flipped", tuple(sorted(self.flipped)))  # JSON has lists only

    def with_vocab(self, vocab_size: int) -> "Shape":
        """The same body on another vocabulary."""
        return replace(self, vocab_size=vocab_size)

    def __str__(self) -> str:
        tied = "tied" if self.tied else "untied"
        flipped = "".join(f", {key} flipped" for key in self.flipped)
        return (
            f"{self.layers} layers x {self.hidden}, {self.heads}/{self.kv_heads} heads of "
            f"{self.head_dim}, ffn {self.ffn}, {self.vocab_size} tokens {tied}{flipped}"
            + (f", {self.series} activations, shortcut {self.shortcut}" if self.series else "")
        )


_PANGU_PI_KEYS = {"series": "num_activations", "shortcut": "shortcut_width"}


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Read the shape out of a transformers `config.json`; raises `ParentError` naming the key.

    What the file does not say is what transformers would take, by the family's [defaults].
    """
    try:
        family = load_family(str(config["model_type"]))
        keys, said = family.keys, {**family.defaults, **config}
        heads, hidden = int(said[keys.heads]), int(said[keys.hidden])
        return Shape(
            family=str(config["model_type"]),
            vocab_size=int(said[keys.vocab_size]),
            layers=int(said[keys.layers]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(said.get(keys.kv_heads) or heads),
            head_dim=int(said.get(keys.head_dim) or hidden // heads),
            ffn=int(said[keys.ffn]),
            tied=bool(said.get(keys.tied, False)),
            flipped=tuple(k for k, usual in family.switches.items() if bool(said[k]) != usual),
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


def config_with(
    config: Mapping[str, Any], shape: Shape, kept_L: Sequence[int] | None = None
) -> dict[str, Any]:
    """A copy of `config` that describes `shape`; everything the shape does not say is kept.

    `kept_L`: layer of `config` by layer of `shape`, for settings of single layers (attention types,
    layers without rotary position). By default the first ones, over again in a deeper shape.
    """
    family = load_family(shape.family)
    sizes = {key: getattr(shape, name) for name, key in family.keys if key}
    switches = {key: (key in shape.flipped) != usual for key, usual in family.switches.items()}
    modules = {key: getattr(shape, name) for name, key in _PANGU_PI_KEYS.items() if shape.series}
    num_layers = config.get(family.keys.layers) or shape.layers
    if kept_L is None:
        kept_L = [layer % num_layers for layer in range(shape.layers)]
    of_layers = _of_layers(config, family, kept_L, num_layers)
    return {**config, **sizes, **switches, **modules, **of_layers}


def _of_layers(
    config: Mapping[str, Any], family: Family, kept_L: Sequence[int], num_layers: int
) -> dict[str, Any]:
    """The settings of single layers for the layers in `kept_L`."""
    lists = {k: config[k] for k in family.per_layer if config.get(k) is not None}
    counts = {k: config[k] for k in family.layer_counts if config.get(k) is not None}
    return {
        **{key: [value[layer] for layer in kept_L] for key, value in lists.items()},
        **{
            key: sum(layer < value for layer in kept_L)
            for key, value in counts.items()
            if value < num_layers  # else it holds for any number of layers
        },
    }


_SIZES = tuple(name for name in Keys.model_fields if name != "tied")


def check_shape(shape: Shape, parent_shape: Shape | None = None) -> None:
    """Raise `RecipeError` with one line unless `shape` can be built, and cut out of the parent.

    hidden is a multiple of heads because transformers refuses anything else; head_dim stays the
    parent's so that rotary frequencies keep their meaning; groups of query heads may lose members
    but not gain any. Of all sizes only layers may exceed the parent's: they can be repeated.
    Raises `ParentError` for an unknown family.
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
    _check_family(shape)
    if parent_shape is not None:
        _check_within(shape, parent_shape)


def _check_family(shape: Shape) -> None:
    """What this family's config cannot say."""
    family = load_family(shape.family)
    if not family.keys.kv_heads and shape.kv_heads != shape.heads:
        raise RecipeError(
            f"kv_heads = {shape.kv_heads}: {shape.family} has one for each of its "
            f"{shape.heads} heads"
        )
    if not family.keys.head_dim and shape.hidden != shape.heads * shape.head_dim:
        raise RecipeError(
            f"hidden = {shape.hidden}: in {shape.family} it is heads x head_dim = "
            f"{shape.heads} x {shape.head_dim} = {shape.heads * shape.head_dim}"
        )
    for key in set(shape.flipped) - set(family.switches):
        raise RecipeError(f"flipped = {key!r}: {shape.family} has {', '.join(family.switches)}")


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
        # Depth may grow: inherit repeats layers.
        if name != "layers" and getattr(shape, name) > getattr(parent, name):
            raise RecipeError(
                f"{name} = {getattr(shape, name)}: the parent has {getattr(parent, name)}; "
                "a child is cut out of it, so choose that or less; only layers may be more"
            )
    group, parent_group = shape.heads // shape.kv_heads, parent.heads // parent.kv_heads
    if group > parent_group:
        raise RecipeError(
            f"heads = {shape.heads} over kv_heads = {shape.kv_heads} is {group} per group; "
            f"the parent has {parent_group}"
        )
    if shape.tied and not parent.tied:
        raise RecipeError("tied = true: the parent's head is a matrix of its own; set tied = false")
    for key in set(shape.flipped) ^ set(parent.flipped):
        raise RecipeError(f"{key}: keep it as it is in the parent, whose tensors depend on it")
