"""Find and read a tokenizer's files, whatever form they have."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketlm.corpus.document import ACCEPTED, Document, added_token, with_added
from pocketlm.corpus.tokenizer import ROLES, Tokenizer, tokenizer_from_document
from pocketlm.errors import ParentError

Source = tuple[Document, dict[str, str]]  # parsed tokenizer.json, and its roles
Reader = Callable[[Path, Mapping[str, Any]], Source]

_NAMES = ("tokenizer.json", "tokenizer.model", "spiece.model", "*.model", "*.tiktoken")
# Classes whose ids are those of the .model plus something that only their own code knows.
_SHIFTED = (
    *("Barthez", "Camembert", "FNet", "M2M100", "MBart", "Nllb", "PLBart", "Pegasus"),
    *("Reformer", "SeamlessM4T", "Speech2Text", "XGLM", "XLMProphetNet", "XLMRoberta"),
)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a folder, `tokenizer.json`, a SentencePiece `.model` (BPE, Unigram), tiktoken ranks
    (`.tiktoken` or `.model`), `vocab.json` with `merges.txt`, or WordPiece's `vocab.txt`.

    A `tokenizer_config.json` beside the file names the special tokens and the chat template, and
    adds tokens to forms other than `tokenizer.json`. A SentencePiece file with the same pieces
    goes along. Raises `ParentError` for other families and unreadable files.
    """
    file = _tokenizer_file(Path(path))
    try:
        config = _read_config(file.parent)
        document, roles = _READERS[file.suffix](file, config)
        tokenizer = tokenizer_from_document(
            document,
            roles={**roles, **_named_roles(config)},
            chat_template=_chat_template(config, file.parent),
        )
    except ParentError as error:
        raise ParentError(f"{file}: {error}") from None
    return replace(tokenizer, sentencepiece=_twin(tokenizer, file))


def _tokenizer_file(path: Path) -> Path:
    if path.is_dir():
        found = (file for name in _NAMES for file in sorted(path.glob(name)))
        pair = [path / "vocab.json"] if (path / "merges.txt").is_file() else []
        files = (*found, *pair, path / "vocab.txt")
        path = next((file for file in files if file.is_file()), path)
    if not path.is_file() or path.suffix not in _READERS:
        raise ParentError(f"{path}: no tokenizer there; accepted: {ACCEPTED}")
    return path


def _read_json_form(file: Path, config: Mapping[str, Any]) -> Source:
    table = _read_json(file)
    if isinstance(table.get("model"), dict) or file.name != "vocab.json":
        return table, {}
    from pocketlm.corpus.merges import convert_merges

    document, roles = convert_merges(file, table, config)
    return with_added(document, _configured(document, config)), roles


def _read_model(file: Path, config: Mapping[str, Any]) -> Source:
    """Llama 3 calls its ranks tokenizer.model, so the content decides."""
    from pocketlm.corpus.ranks import convert_ranks, holds_ranks
    from pocketlm.corpus.sentencepiece import convert_model

    if holds_ranks(file):
        document, roles = convert_ranks(file)
    else:
        name = str(config.get("tokenizer_class") or "")
        if name.startswith(_SHIFTED) or file.name == "sentencepiece.bpe.model":
            raise ParentError(
                f"{name or 'XLM-RoBERTa'} does not number its pieces as the .model does; "
                "convert it to tokenizer.json"
            )
        document, roles = convert_model(file, config)
    return with_added(document, _configured(document, config)), roles


def _read_vocab_txt(file: Path, config: Mapping[str, Any]) -> Source:
    from pocketlm.corpus.wordpiece import convert_vocab_txt

    document, roles = convert_vocab_txt(file, config)
    return with_added(document, _configured(document, config)), roles


_READERS: Mapping[str, Reader] = {
    ".json": _read_json_form,
    ".model": _read_model,
    ".tiktoken": _read_model,
    ".txt": _read_vocab_txt,
}


def _configured(document: Document, config: Mapping[str, Any]) -> Iterator[Document]:
    """Added tokens that `config` names and `document` has not: by id, and T5's sentinels."""
    there = {(token["id"], token["content"]) for token in document["added_tokens"]}
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        if (int(number), token["content"]) not in there:
            flags = {key: bool(token.get(key)) for key in ("lstrip", "rstrip", "single_word")}
            special = bool(token.get("special", True))
            yield added_token(token["content"], int(number), special=special, **flags)
    num_extra = int(config.get("extra_ids") or 0)
    if num_extra and not config.get("added_tokens_decoder"):
        last = len(document["model"]["vocab"]) + num_extra - 1
        for i in reversed(range(num_extra)):
            yield added_token(f"<extra_id_{i}>", last - i, special=True)


def _twin(tokenizer: Tokenizer, file: Path) -> bytes | None:
    """The SentencePiece file of the same pieces by id: itself, or one beside a tokenizer.json."""
    from pocketlm.corpus.ranks import holds_ranks
    from pocketlm.corpus.sentencepiece import piece_names, read_proto

    if tokenizer.family not in ("sentencepiece-bpe", "unigram"):
        return None
    pieces = tokenizer.backend.get_vocab(with_added_tokens=True)
    for path in [file] if file.suffix == ".model" else sorted(file.parent.glob("*.model")):
        if holds_ranks(path):
            continue
        try:
            names = piece_names(read_proto(content := path.read_bytes()))
        except ParentError:
            continue
        if pieces == {name: i for i, name in enumerate(names)}:
            return content
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParentError(f"{path.name} cannot be read as JSON ({error})") from None
    if not isinstance(table, dict):
        raise ParentError(f"{path.name}: a JSON object is expected")
    return table


def _read_config(folder: Path) -> dict[str, Any]:
    """What the small files beside a tokenizer say; `added_tokens.json` counts where nothing else
    gives ids to added tokens."""
    names = ("special_tokens_map.json", "tokenizer_config.json")
    tables = (_read_json(folder / name) for name in names if (folder / name).is_file())
    config = {key: value for table in tables for key, value in table.items()}
    added = folder / "added_tokens.json"
    if added.is_file() and not config.get("added_tokens_decoder"):
        ids = _read_json(added)
        config["added_tokens_decoder"] = {i: {"content": token} for token, i in ids.items()}
    return config


def _named_roles(config: Mapping[str, Any]) -> dict[str, str]:
    """`{"content": "<s>", ...}` or `"<s>"` or null -> the token. Where neither bos nor eos is
    named, BERT's cls and sep are."""
    keys = dict(zip(ROLES, ROLES, strict=True))
    if not config.get("bos_token") and not config.get("eos_token"):
        keys |= {"bos_token": "cls_token", "eos_token": "sep_token"}
    values = {role: config.get(key) for role, key in keys.items()}
    contents = {r: v["content"] if isinstance(v, dict) else v for r, v in values.items()}
    return {role: content for role, content in contents.items() if content}


def _chat_template(config: Mapping[str, Any], folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named ones
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None
