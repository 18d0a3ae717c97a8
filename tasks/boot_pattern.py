"""The pattern that a booted guest's console shows, where one is configured.

A regular expression can take for ever on a text that was made for it, and the text comes from the guest. Python's
engine knows no time limit and holds the interpreter's lock meanwhile, so that the lease would not be renewed. It runs in
a process of its own, which can be ended.
"""

from __future__ import annotations

import re
import subprocess
import sys

LONGEST = 500  # characters
LIMIT_S = 2.0
_SEEN, _NOT_SEEN = 10, 11
_PROGRAM = (
    "import re, sys; found = re.search(sys.argv[1], sys.stdin.buffer.read().decode(errors='replace'), re.MULTILINE);"
    f"sys.exit({_SEEN} if found else {_NOT_SEEN})"
)


class PatternError(Exception):
    """The console could not be searched; the message says why."""


def check_pattern(pattern: str) -> str:
    """``pattern`` if it can be used. Raises: ValueError, which says why not."""
    if not pattern or len(pattern) > LONGEST or "\0" in pattern:
        raise ValueError(f"must be a regular expression of 1 to {LONGEST} characters")
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if compiled.search(""):
        raise ValueError("matches an empty console, so every guest would count as booted at once")
    return pattern


def is_seen(pattern: str, console: str, *, limit_s: float = LIMIT_S) -> bool:
    """Whether the console shows the pattern; ``^`` and ``$`` also stand for the ends of a line. Raises: PatternError."""
    if not console:
        return False
    # Every word is ours but the pattern, which is one argument; no shell. -S and -I: starts in some 20 ms.
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, pattern]
    try:
        done = subprocess.run(
            command, input=console.encode(errors="replace"), capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise PatternError(f"boot_pattern takes more than {limit_s:g} s on this console; use a simpler one") from None
    except OSError as error:
        raise PatternError(f"the console could not be searched for boot_pattern: {error.strerror or error}") from None
    if done.returncode not in (_SEEN, _NOT_SEEN):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise PatternError(
            f"the console could not be searched for boot_pattern: {last[0] if last else done.returncode}"
        )
    return done.returncode == _SEEN
