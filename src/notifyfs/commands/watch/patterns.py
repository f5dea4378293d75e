"""POSIX extended regular expressions, matched by the C library as in inotifywait."""

from __future__ import annotations

import ctypes
import locale
from typing import Final

_EXTENDED: Final = 1  # <regex.h>, glibc and musl alike
_ICASE: Final = 2
_NOSUB: Final = 8
_REGEX_SIZE: Final = 256  # more than any regex_t: 64 bytes in glibc, 32 in musl

_libc = ctypes.CDLL(None)


class Pattern:
    """A compiled expression; ValueError when it is not one.

    It works on bytes (the C locale's characters), so that any file name can match.
    """

    def __init__(self, text: bytes, *, ignore_case: bool = False) -> None:
        self._compiled = ctypes.create_string_buffer(_REGEX_SIZE)
        before = locale.setlocale(locale.LC_CTYPE)
        locale.setlocale(locale.LC_CTYPE, "C")  # inotifywait never leaves it; regcomp(3) keeps it in the regex_t
        try:
            code = _libc.regcomp(self._compiled, text, _EXTENDED | _NOSUB | (_ICASE if ignore_case else 0))
        finally:
            locale.setlocale(locale.LC_CTYPE, before)
        if code:
            reason = ctypes.create_string_buffer(_REGEX_SIZE)
            _libc.regerror(code, self._compiled, reason, ctypes.c_size_t(_REGEX_SIZE))
            raise ValueError(reason.value.decode(errors="replace"))

    def matches(self, path: bytes) -> bool:
        """Whether it matches anywhere in *path*."""
        code: int = _libc.regexec(self._compiled, path, ctypes.c_size_t(0), None, 0)
        return code == 0
