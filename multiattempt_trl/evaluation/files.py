"""Files that appear whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside `path`, then renames: a write that is killed leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8; half of a surrogate pair, which a model may write and UTF-8 has no bytes for, becomes `?`."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON; raises `ValueError` for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
