"""Files that are whole or absent."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

DAY = 24 * 3600  # seconds


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path to write to, beside ``path``; once the block has ended it takes the place of ``path``.

    If the block raises, or the replacement fails, what was written is removed and ``path`` is as
    it was. So a reader finds the old file or the new one, and never a part of either. What a killed
    process left beside ``path`` goes with the first write a day later.

    Args:
        path: the file to write. Its folder is made if missing. The temporary name ends as this
            one does, since some writers go by the suffix.

    Raises:
        OSError: the folder cannot be made, or the file cannot be replaced.

    Example:
        >>> with atomic_write(getfixture("tmp_path") / "runs" / "a.txt") as partial:
        ...     partial.write_text("all of it")
        9
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.stem}-{'[0-9a-f]' * 12}{path.suffix}"):
        _remove_if_old(left)
    partial = path.with_name(f".{path.stem}-{uuid4().hex[:12]}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_if_old(partial: Path) -> None:
    with suppress(OSError):  # another process may be faster
        if time.time() - partial.stat().st_mtime > DAY:
            partial.unlink()
