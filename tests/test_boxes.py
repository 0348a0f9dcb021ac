"""What counts as an answer: grading.md's "Verdicts", and the matcher that reads a text piece by piece."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multiattempt_trl.dialogue.boxes import BoxMatcher, last_boxed

# Texts made of what boxes are made of, so that closed, unclosed, nested and escaped ones all turn up.
TEXTS = st.lists(
    st.sampled_from(["\\boxed", "\\box", "boxed", "\\", "{", "}", "\\{", "\\}", " ", "\n", "5", "\\frac", "é", "x"]),
    max_size=25,
).map("".join)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{5} and \boxed{6}", "6"),
        (r"\boxed {5}", "5"),
        (r"\boxed   {5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed{a \\}", r"a \\"),  # an escaped backslash does not escape the brace
        (r"\boxed{a}} {", "a"),
        (r"\boxed 4 \boxed{5}", "5"),
        (r"\boxed{5 \boxed{6}", "6"),  # the last \boxed is closed, whatever the one before
        ("\\boxed{1\n2}", "1\n2"),
    ],
)
def test_well_formed(text: str, content: str) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "boxed{5}",
        r"\boxed 5",
        r"\boxed",
        r"\boxed  ",
        r"\fbox{5}",
        r"\boxed{5",
        r"\boxed{\}",
        r"\boxed{{5}",
        r"\boxed{}",
        r"\boxed{  }",
        r"\boxed{{}}",
        r"\boxed{1} and \boxed{2",  # a complete box followed by an unclosed one
        r"\boxed{1} and \boxed{}",
        r"\boxed{1} and \boxed 2",
        "\\boxed\n{5}",  # "optional spaces", and a newline is none
        r"\boxedtext{5}",
        r"\Boxed{5}",
    ],
)
def test_not_well_formed(text: str) -> None:
    assert last_boxed(text) is None


@settings(deadline=None)
@given(TEXTS | st.text(max_size=60))
def test_never_raises_and_never_gives_an_empty_or_unstripped_answer(text: str) -> None:
    answer = last_boxed(text)
    assert answer is None or (answer and answer == answer.strip())


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="\\{}"), min_size=1).filter(str.strip), TEXTS)
def test_finds_what_was_boxed_last(content: str, before: str) -> None:
    assert last_boxed(f"{before} \\boxed{{{content}}} done") == content.strip()


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(0, 150)))
@example(r"\boxed{5}", [1, 2, 3, 4, 5, 6, 7, 8])
def test_pieces_equal_the_whole(text: str, cuts: list[int]) -> None:
    whole = BoxMatcher()
    expected = whole.feed(text)

    pieces = BoxMatcher()
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    ends = [pieces.feed(text[start:stop]) for start, stop in pairwise(bounds)]

    assert ends[-1] == expected
    assert (pieces.closed, pieces.content_start) == (whole.closed, whole.content_start)
    # Each piece answers with what is known so far: nothing until the box closes, and that offset from then on.
    assert ends == [expected if expected is not None and stop >= expected else None for stop in bounds[1:]]


@settings(deadline=None)
@given(TEXTS)
def test_the_matcher_stops_at_the_first_box_with_something_in_it(text: str) -> None:
    end = BoxMatcher().feed(text)
    shorter = [cut for cut in range(len(text)) if BoxMatcher().feed(text[:cut]) is not None]
    if end is None:
        assert not shorter
    else:
        assert text[end - 1] == "}"
        assert shorter == list(range(end, len(text)))


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (r"\boxed{5} \boxed{6}", 9),
        (r"\boxed{} \boxed{6}", 18),  # an empty box does not end an attempt
        (r"\boxed {\frac{1}{2}}!", 20),
        (r"\\boxed{5}", 10),
        (r"\bo\boxed{5}", 12),
        (r"\boxed\boxed{5}", 15),
        (r"\boxed{5", None),
    ],
)
def test_offset_after_the_closing_brace(text: str, end: int | None) -> None:
    assert BoxMatcher().feed(text) == end


def test_a_long_hostile_text_is_read_in_one_pass() -> None:
    # A quadratic scan would take 10^11 steps on each of these.
    for text in (
        "\\boxed{" * 300_000,
        "\\boxed" * 300_000 + "{" * 300_000,
        "{" * 300_000 + "\\boxed{5" + "{}" * 300_000,
    ):
        assert last_boxed(text) is None
        BoxMatcher().feed(text)
    assert last_boxed("\\boxed{" * 300_000 + "5" + "}" * 300_000) == "5"
