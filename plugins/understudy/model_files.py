"""The files of a registered version: what they hash to, and that they are those that were recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from understudy.errors import FilesChanged

__all__ = ["files_digest", "refuse_changed"]


def files_digest(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the digest of a version's downloaded files, and that of each file by its path.

    Args:
        folder: Where they lie. What MLflow itself adds on download is left out.

    Returns:
        SHA-256 over every path and content in the order of the paths, and SHA-256 of each content; both in hex digits.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "registered_model_meta":
            with path.open("rb") as stream:
                files[str(path.relative_to(folder))] = hashlib.file_digest(stream, "sha256").hexdigest()
    whole = "".join(f"{name}\0{sha}\n" for name, sha in files.items())
    return hashlib.sha256(whole.encode()).hexdigest(), files


def refuse_changed(model: str, version: str, digest: str, expected: str | None, source: str) -> None:
    """Refuse a version whose files are not those that are expected; where nothing is expected, nothing is refused.

    Args:
        model: The model.
        version: The version.
        digest: What its files hash to.
        expected: What they must hash to, if that is known.
        source: Who knows that, for the message.

    Raises:
        FilesChanged: They hash to something else.
    """
    if expected not in (None, digest):
        raise FilesChanged(
            f"The files of {model} version {version} hash to {digest[:12]}, but {source} has {str(expected)[:12]}. Files of a "
            "registered version must not change: put them back, or log the model again and register it as a new version."
        )
