"""Any value as bounded, strict JSON: for log lines and history entries, which hold texts from peers."""

import json
import math
from typing import Any

__all__ = ["as_json"]

_TEXT_LIMIT = 4096
"""Characters kept of a text. A peer's reason may be as long as a control message, 1 MiB."""

_ITEM_LIMIT = 256
"""Items kept of a list or map; a migration has at most that many regions."""

_DEPTH_LIMIT = 8


def as_json(value: Any) -> str:
    """``value`` on one line. What JSON has no word for becomes its text; an infinite number becomes null."""
    return json.dumps(_plain(value, _DEPTH_LIMIT), ensure_ascii=False, separators=(", ", ": "))


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth and isinstance(value, dict):
        items = list(value.items())[:_ITEM_LIMIT]
        return {_text(key): _plain(each, depth - 1) for key, each in items}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(each, depth - 1) for each in list(value)[:_ITEM_LIMIT]]
    return _text(value)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    if len(text) > _TEXT_LIMIT:
        text = text[: _TEXT_LIMIT - 3] + "..."
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates, as in undecodable file names
