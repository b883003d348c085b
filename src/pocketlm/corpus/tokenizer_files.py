"""Find and read a tokenizer's files: `tokenizer.json`, or a SentencePiece `.model`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketlm.corpus.tokenizer import ACCEPTED, ROLES, Tokenizer, tokenizer_from_document
from pocketlm.errors import ParentError


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a folder, a `tokenizer.json` or a SentencePiece BPE `.model`.

    A `tokenizer_config.json` beside the file names the special tokens and the chat template.
    Raises `ParentError` for other families and unreadable files.
    """
    file = _tokenizer_file(Path(path))
    config = _read_config(file.parent)
    if file.suffix == ".model":
        from pocketlm.corpus.sentencepiece import convert_model

        document, roles = convert_model(file)
        if not config.get("add_bos_token", True):
            document["post_processor"] = None
    else:
        document = _read_json(file)
        roles = {}
    try:
        return tokenizer_from_document(
            document,
            roles={**roles, **_named_roles(config)},
            chat_template=_chat_template(config, file.parent),
        )
    except ParentError as error:
        raise ParentError(f"{file}: {error}") from None


def _tokenizer_file(path: Path) -> Path:
    if path.is_dir():
        names = [path / "tokenizer.json", path / "tokenizer.model", *sorted(path.glob("*.model"))]
        path = next((name for name in names if name.is_file()), path)
    if not path.is_file() or path.suffix not in (".json", ".model"):
        raise ParentError(f"{path}: no tokenizer there; accepted: {ACCEPTED}")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParentError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(table, dict):
        raise ParentError(f"{path}: a JSON object is expected")
    return table


def _read_config(folder: Path) -> dict[str, Any]:
    names = ("special_tokens_map.json", "tokenizer_config.json")
    tables = (_read_json(folder / name) for name in names if (folder / name).is_file())
    return {key: value for table in tables for key, value in table.items()}


def _named_roles(config: Mapping[str, Any]) -> dict[str, str]:
    """`{"content": "<s>", ...}` or `"<s>"` or null -> the token."""
    values = {role: config.get(role) for role in ROLES}
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
