"""Names of files that are written beside their target and renamed, and what killed processes have left of them."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import time
import zlib
from pathlib import Path

_NAME = re.compile(r"\.mixcoder-(?:(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-)?[0-9a-f]{16}\.tmp")

# Seconds after which nobody can still be writing a file that does not tell its process.
_DAY = 86400.0


def draft_beside(target: Path) -> Path:
    """Return a name beside a target that no other writer has, and that tells machine and process."""
    return target.with_name(f".mixcoder-{_host()}-{os.getpid()}-{secrets.token_hex(8)}.tmp")


def remove_stale_drafts(folder: Path) -> None:
    """Delete the files that writers who are no more have left in a folder; whatever fails is left as it is.

    A process of this machine is asked for; the file of any other must be a day old.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            named = _NAME.fullmatch(entry.name)
            if named is None or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                if _is_stale(named, entry.stat(follow_symlinks=False).st_mtime):
                    os.unlink(entry.path)


def _is_stale(named: re.Match[str], written: float) -> bool:
    if os.name == "posix" and named["host"] == _host():
        return not _is_alive(int(named["pid"]))
    return time.time() - written > _DAY


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


__all__ = ["draft_beside", "remove_stale_drafts"]
