"""Files that are whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path to write to, beside ``path``; once the block has ended it takes the place of ``path``.

    If the block raises, or the replacement fails, what was written is removed and ``path`` is as
    it was. So a reader finds the old file or the new one, and never a part of either.

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
    partial = path.with_name(f".{path.stem}-{uuid4().hex[:12]}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
