"""What a run takes from outside: the corpus, the parent, the tokenizer, each with its fingerprint.

Paths never enter a fingerprint, contents do; a parent that a recipe makes is known by the keys of
its own artifacts before it exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pocketlm.artifact import HashCache, Store, key_of
from pocketlm.corpus.documents import Corpus, load_corpus
from pocketlm.corpus.mixture import check_weights
from pocketlm.errors import ParentError, RecipeError
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.model.shape import check_shape
from pocketlm.recipe import Recipe, TrainTokenizer

_NOT_READ = (".md", ".bin", ".pt", ".pth", ".gguf")
_READ_BESIDE_A_TOKENIZER = (
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "config.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything outside the recipe that decides a run's result."""

    corpus: Corpus
    corpus_key: str
    parent: Path | None
    """Folder of the parent; it may not exist yet if a recipe makes it."""
    parent_key: str | None
    tokenizer: Path | TrainTokenizer
    tokenizer_key: str


def find_inputs(
    recipe: Recipe, store: Store, parent_keys: Mapping[str, str] | None = None
) -> Inputs:
    """Find and fingerprint what `recipe` names.

    `parent_keys` are the artifact keys of the parent's own recipe, where it has one. Raises
    `CorpusError`, `ParentError` and, for weights of sources that are not there, `RecipeError`.
    """
    table = recipe.corpus
    corpus = load_corpus(table.files, text_field=table.text_field, max_bytes=table.max_bytes)
    if table.weights:
        check_weights(table.weights, tuple(dict.fromkeys(file.source for file in corpus.files)))
    parent, parent_key = _parent(recipe, store, parent_keys)
    tokenizer, tokenizer_key = _tokenizer(recipe, store.hashes, parent, parent_key)
    return Inputs(
        corpus=corpus,
        corpus_key=_corpus_key(corpus, store.hashes),
        parent=parent,
        parent_key=parent_key,
        tokenizer=tokenizer,
        tokenizer_key=tokenizer_key,
    )


def check_parent(recipe: Recipe, inputs: Inputs) -> None:
    """Refuse a parent that cannot be used, read in blocks this long, or tied, before any work.

    Raises `ParentError` and `RecipeError`.
    """
    if inputs.parent is None:
        return
    parent = open_checkpoint(inputs.parent)
    if recipe.design.tied is not None:
        check_shape(replace(parent.shape, tied=recipe.design.tied), parent.shape)
    config = parent.config
    limit = int(config.get("max_position_embeddings", recipe.train.seq_len))
    if recipe.train.seq_len > limit:
        raise RecipeError(
            f"[train] seq_len = {recipe.train.seq_len}: the parent reads at most {limit} tokens"
        )


def max_positions(recipe: Recipe) -> int:
    """Longest context of a child without a parent, in tokens."""
    return max(2048, recipe.train.seq_len)


def _corpus_key(corpus: Corpus, hashes: HashCache) -> str:
    files = [[file.source, hashes.sha256(file.path)] for file in corpus.files]
    return key_of({"files": files, "field": corpus.text_field, "max_bytes": corpus.max_bytes})


def _parent(
    recipe: Recipe, store: Store, parent_keys: Mapping[str, str] | None
) -> tuple[Path | None, str | None]:
    if recipe.parent is None:
        return None, None
    if parent_keys is not None:
        key = parent_keys["export"]
        return store.folder / f"export-{key}" / "huggingface", key
    folder = Path(str(recipe.parent))
    if not folder.is_dir():
        raise ParentError(
            f"parent = {folder}: no such folder; give a model folder with config.json and "
            'safetensors, or { recipe = "..." }'
        )
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix not in _NOT_READ]
    return folder, key_of({path.name: store.hashes.sha256(path) for path in files})


def _tokenizer(
    recipe: Recipe, hashes: HashCache, parent: Path | None, parent_key: str | None
) -> tuple[Path | TrainTokenizer, str]:
    if parent is not None and parent_key is not None:
        return parent, parent_key
    wanted = recipe.tokenizer
    if isinstance(wanted, TrainTokenizer):
        return wanted, key_of({"train": wanted.train})
    path = Path(str(wanted))
    if not path.exists():
        raise ParentError(
            f"tokenizer = {path}: no such file; give tokenizer.json, a SentencePiece .model, a "
            "folder with one of them, or { train = N }"
        )
    folder = path.parent if path.is_file() else path
    beside = [folder / name for name in _READ_BESIDE_A_TOKENIZER]
    files = [path, *beside] if path.is_file() else sorted(path.iterdir())
    files = [p for p in files if p.is_file()]
    return path, key_of({file.name: hashes.sha256(file) for file in files})
