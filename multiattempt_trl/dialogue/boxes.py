r"""What counts as an answer: the content of the last `\boxed{...}` of an attempt, in one linear pass."""

BOX = "\\boxed"


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` in `text`, stripped, or None where the attempt is not well formed.

    None when the *last* `\boxed` is not followed by optional spaces and a balanced `{...}` (escaped `\{ \}` do not
    count), or when its content is empty. Linear in the length of the text.

    >>> last_boxed(r"so \boxed{1}, no: \boxed {\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> last_boxed(r"\boxed{\boxed{5}}")
    '5'
    >>> last_boxed(r"\boxed{1} and \boxed{2") is None
    True
    """
    start = text.rfind(BOX)
    if start < 0:
        return None
    matcher = BoxMatcher()
    end = matcher.feed(text[start:])
    return None if end is None else text[start:][matcher.content_start : end - 1].strip()


class BoxMatcher:
    r"""Finds the first closed, non-empty `\boxed{...}` in a text that arrives piece by piece.

    Costs O(1) per character and keeps no text. Once closed it stays closed.
    """

    __slots__ = ("_depth", "_escaped", "_filled", "_matched", "_seen", "closed", "content_start")

    def __init__(self) -> None:
        self._matched = 0  # characters of "\boxed" seen so far; len(BOX) while waiting for "{"
        self._depth = 0  # open braces; > 0 inside the box
        self._escaped = False
        self._filled = False  # the box holds something other than space and braces of an inner box
        self._seen = 0
        self.content_start = 0
        """Offset of the first character inside the box that is open or was closed last."""
        self.closed = False

    def feed(self, piece: str) -> int | None:
        """Reads `piece`; returns the offset just after the closing brace, over all pieces, or None until then."""
        if self.closed:
            return self._seen
        for char in piece:
            self._seen += 1
            if self._depth:
                self._inside(char)
                if self.closed:
                    return self._seen
            else:
                self._outside(char)
        return None

    def _inside(self, char: str) -> None:
        if self._escaped:
            self._escaped, self._filled = False, True
        elif char == "\\":
            self._escaped, self._filled = True, True
        elif char == "{":
            self._depth += 1
        elif char == "}":
            self._depth -= 1
            self.closed = self._depth == 0 and self._filled
        elif not char.isspace():
            self._filled = True

    def _outside(self, char: str) -> None:
        if self._matched == len(BOX):
            if char == "{":
                self._depth, self._filled, self._escaped = 1, False, False
                self.content_start = self._seen
                self._matched = 0
                return
            if char == " ":
                return
            self._matched = 0
        # "\boxed" does not overlap itself, so a mismatch restarts at most with its first character.
        self._matched = self._matched + 1 if char == BOX[self._matched] else int(char == BOX[0])
