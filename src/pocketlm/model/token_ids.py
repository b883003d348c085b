"""Token ids in config.json and generation_config.json, moved to a smaller vocabulary.

Ids stand in single keys, lists, lists of lists, pairs and tables, at the top and in nested configs
(text_config, ...). A nested config whose vocab_size is neither the top's nor text_config's has a
vocabulary of its own (codecs, query formers) and is left alone.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

NewIds = Mapping[int, int]

_SUFFIXES = ("_token_id", "_token_ids", "_token_index")
_KEYS = (
    "suppress_tokens", "begin_suppress_tokens",
    "pad_index", "bos_index", "eos_index", "unk_index", "mask_index",  # XLM, FlauBERT
    "im_start_id", "im_end_id", "im_newline_id", "image_start_id", "image_end_id", "image_patch_id",
    "slice_start_id", "slice_end_id",
)  # fmt: skip
_TABLES = ("lang_to_id", "task_to_id", "vocabulary_map")
# The later ones where they equal the first: Marian with shared tables, Gemma's tables per layer.
_SIZES = ("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input")


def remap_token_ids(config: Mapping[str, Any], new_ids: NewIds) -> dict[str, Any]:
    """`config` (of a model or of generation) with every token id translated by `new_ids`.

    `new_ids` maps the ids that stay to 0..V-1; vocab_size becomes V where it stood. An id that does
    not stay becomes None: leaving it out would bring back a default. Lists drop it, and become None
    rather than empty.
    """
    sizes = vocab_sizes(config)

    def change(key: str, value: Any) -> Any:
        if key in _SIZES:
            return len(new_ids) if value in sizes else value
        remap = _remapper(key)
        return value if remap is None else remap(value, new_ids)

    return _change(config, sizes, change)


def new_ids_of(kept_V: Sequence[int]) -> dict[int, int]:
    """Old id -> new id, for old ids in the order of their new ones."""
    return {int(old): new for new, old in enumerate(kept_V)}


def vocab_sizes(config: Mapping[str, Any]) -> frozenset[int]:
    """What `config` calls its vocabulary size, at the top and in text_config: one value, or two
    where only one of them counts padding. Empty for a generation config."""
    text = config.get("text_config")
    tables = [config, text] if isinstance(text, Mapping) else [config]
    named = frozenset(table["vocab_size"] for table in tables if "vocab_size" in table)
    nested = (vocab_sizes(table) for table in config.values() if isinstance(table, Mapping))
    return named or next((sizes for sizes in nested if sizes), frozenset())


def with_vocab_size(
    config: Mapping[str, Any], size: int, *, others: tuple[int, int]
) -> dict[str, Any]:
    """`config` for a vocabulary of `size`; with `others` = (least, new) every other key that counts
    a vocabulary of at least `least` entries gets the value `new`."""
    least, new = others
    sizes = vocab_sizes(config)

    def change(key: str, value: Any) -> Any:
        if key in _SIZES and value in sizes:
            return size
        is_other = "vocab_size" in key and type(value) is int and value >= least
        return new if is_other else value

    return _change(config, sizes, change)


def fill_token_ids(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`config` and the ids and vocabulary sizes that only `defaults` names, nested ones too.

    A file need not say what its class has by default, but a remapped one must.
    """
    filled = dict(config)
    for key, default in defaults.items():
        present = config.get(key)
        if not isinstance(key, str):  # of tables such as id2label
            continue
        if isinstance(default, Mapping) and isinstance(present, Mapping | None):
            nested = fill_token_ids(present or {}, default)
            if nested:
                filled[key] = nested
        elif key not in config and default is not None and (key in _SIZES or _remapper(key)):
            filled[key] = default
    return filled


def _change(
    table: Mapping[str, Any], sizes: frozenset[int], change: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """`table` with every entry of our vocabulary changed, nested tables too."""
    changed: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and _remapper(key) is None:
            own = value.get("vocab_size") in {None, *sizes}
            changed[key] = _change(value, sizes, change) if own else value
        else:
            changed[key] = change(key, value)
    return changed


def _remapper(key: str) -> Callable[[Any, NewIds], Any] | None:
    if key.endswith(_SUFFIXES) or key in _KEYS:
        return _ids
    if key in _TABLES:
        return _named_ids
    others = {
        "bad_words_ids": _phrases,
        "force_words_ids": _phrases,
        "forced_decoder_ids": _placed_ids,
        "sequence_bias": _biases,
    }
    return others.get(key)


def _ids(value: Any, new_ids: NewIds) -> Any:
    if isinstance(value, list | tuple):
        return _or_none([new for v in value if (new := _ids(v, new_ids)) is not None], value)
    return new_ids.get(value) if type(value) is int else value


def _phrases(value: Any, new_ids: NewIds) -> Any:
    """Lists of ids, however deep; a list that names a dropped id can never occur and goes."""
    if not isinstance(value, list | tuple):
        return value
    if all(type(v) is int for v in value):
        return [new_ids[v] for v in value] if _all_stay(value, new_ids) else None
    return _or_none([new for v in value if (new := _phrases(v, new_ids)) is not None], value)


def _placed_ids(value: Any, new_ids: NewIds) -> Any:
    """[position, id] pairs; an id of None leaves the choice to the model."""
    if not isinstance(value, list | tuple):
        return value
    pairs = [
        [position, None if i is None else new_ids[i]]
        for position, i in value
        if i is None or i in new_ids
    ]
    return _or_none(pairs, value)


def _biases(value: Any, new_ids: NewIds) -> Any:
    """[[ids], bias] pairs, or a table whose keys are tuples of ids or look like them."""
    if isinstance(value, Mapping):
        table = dict(_bias_entries(value, new_ids))
        return table or None
    if not isinstance(value, list | tuple):
        return value
    pairs = [[[new_ids[i] for i in ids], bias] for ids, bias in value if _all_stay(ids, new_ids)]
    return _or_none(pairs, value)


def _bias_entries(table: Mapping[Any, float], new_ids: NewIds) -> Iterator[tuple[Any, float]]:
    for key, bias in table.items():
        ids = [int(i) for i in re.findall(r"\d+", key)] if isinstance(key, str) else list(key)
        if _all_stay(ids, new_ids):
            moved = tuple(new_ids[i] for i in ids)
            yield (str(moved) if isinstance(key, str) else moved), bias


def _named_ids(value: Any, new_ids: NewIds) -> Any:
    """Names -> ids; a name whose id does not stay goes."""
    if not isinstance(value, Mapping):
        return value
    return {name: new_ids[i] for name, i in value.items() if i in new_ids}


def _all_stay(ids: Sequence[int], new_ids: NewIds) -> bool:
    return all(i in new_ids for i in ids)


def _or_none(kept: list[Any], before: Sequence[Any]) -> list[Any] | None:
    return kept if kept or not before else None
