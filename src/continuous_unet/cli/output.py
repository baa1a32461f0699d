"""The one function by which the command line prints, safe for any file name and any terminal."""

import sys
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a text on stdout, or on another stream; characters that the stream cannot represent are escaped.

    A file name may hold bytes that are not UTF-8, and a terminal may be limited to ASCII or cp1252. Neither may end a
    verb after its work was done.
    """
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
    except UnicodeEncodeError:
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream)
