"""The folder of one evaluation: what was asked, and every dialogue from the moment it ends."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from multiattempt_trl.dialogue.episode import Ending, Episode
from multiattempt_trl.evaluation.files import write_json, write_text

PLAN_FILE = "plan.json"
EPISODES_FILE = "episodes.jsonl"
PARTS_FOLDER = "episodes.parts"
"""One file for each process of an evaluation that is not over."""

REMEDY = "Name another output_dir, or set overwrite_output_dir to lose what it holds"

Played = tuple[str, Episode]
"""An episode with the name of its run."""
Key = tuple[str, str, int, int, str]


def key(run: str, episode: Episode) -> Key:
    """What tells a dialogue from all others of an evaluation."""
    question = episode.question
    return run, question.benchmark, episode.budget, episode.sample, question.id


def to_line(run: str, episode: Episode) -> str:
    """A line of `episodes.jsonl`. Half of a surrogate pair, which UTF-8 has no bytes for, becomes `?`."""
    line = json.dumps({"run": run, **episode.to_json()}, ensure_ascii=False)
    return line.encode("utf-8", errors="replace").decode() + "\n"


def from_line(line: str) -> Played:
    """What `to_line` wrote; raises `ValueError` for anything else."""
    try:
        content = json.loads(line)
        return str(content["run"]), Episode.from_json(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not an episode: {type(error).__name__} {error}") from error


def read_episodes(path: Path) -> Iterator[Played]:
    """The episodes of a file. A last line without its end, which a killed write leaves, is passed over.

    Raises `ValueError` for any other line that is not one.
    """
    try:
        *lines, _torn = path.read_text(encoding="utf-8").split("\n")  # not `splitlines`: U+2028 is a model's to write
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            played = from_line(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}, cannot be read: {error}. Remove the line to have it played again"
            ) from error
        yield played


class EpisodeStore:
    """Keeps the episodes of one evaluation, so that it can be broken off at any time and continued.

    The main process begins it; then each process keeps its own episodes in it.

    Args:
        asked: all that decides what is played, as JSON, see `fingerprint.asked`.
        replace: what the folder holds of another evaluation is lost.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], *, replace: bool = False) -> None:
        self.folder, self.replace = folder, replace
        self.asked = json.loads(json.dumps(asked))
        self._part: FileIO | None = None

    def begin(self) -> None:
        """Makes the folder the one of this evaluation, or finds that it is.

        Raises `ValueError` where the folder holds another evaluation, naming what differs; it is left as it is.
        """
        try:
            begun = self._begun()
        except ValueError:
            if not self.replace:
                raise
            self._clear()
            begun = False
        if not begun:
            write_json(self.folder / PLAN_FILE, self.asked)

    def read(self) -> dict[Key, Played]:
        """All that was kept so far, but for dialogues that failed: those are to be played again."""
        places = [self.folder / EPISODES_FILE, *sorted((self.folder / PARTS_FOLDER).glob("*.jsonl"))]
        kept = (played for place in places if place.is_file() for played in read_episodes(place))
        return {key(*played): played for played in kept if played[1].ending is not Ending.FAILED}

    def append(self, played: Played, *, process: int) -> None:
        """Keeps one more, at once; each process has a file of its own."""
        if self._part is None:
            path = self.folder / PARTS_FOLDER / f"{process}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(path)
            self._part = path.open("ab", buffering=0)
        self._part.write(to_line(*played).encode())

    def finish(self, episodes: Iterable[Played]) -> None:
        """Puts all episodes, in this order, into one file."""
        if self._part is not None:
            self._part.close()
            self._part = None
        write_text(self.folder / EPISODES_FILE, "".join(to_line(*played) for played in episodes))
        shutil.rmtree(self.folder / PARTS_FOLDER, ignore_errors=True)

    def _begun(self) -> bool:
        """Whether this evaluation was begun here before."""
        path = self.folder / PLAN_FILE
        if not path.is_file():
            held = [name for name in (EPISODES_FILE, PARTS_FOLDER) if (self.folder / name).exists()]
            if held:
                raise ValueError(
                    f"{self.folder} holds {held[0]} but no {PLAN_FILE} that says what was asked. {REMEDY}"
                )
            return False
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not what an evaluation writes: {error}. {REMEDY}") from error
        if differences := list(_differences(before, self.asked)):
            raise ValueError(
                f"{self.folder} holds an evaluation that differs in {'; '.join(differences[:4])}. {REMEDY}"
            )
        return True

    def _clear(self) -> None:
        """Removes what an evaluation writes, the plan last, and nothing else."""
        shutil.rmtree(self.folder / PARTS_FOLDER, ignore_errors=True)
        for name in ("summary.json", "report.html", "report.md", EPISODES_FILE, PLAN_FILE):
            (self.folder / name).unlink(missing_ok=True)


def _cut_torn_line(path: Path) -> None:
    """Takes off what follows the last line end: a killed write's, which the next one must not be glued to."""
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)


def flat(settings: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Settings by their whole names.

    >>> flat({"budget": 3, "limits": {"attempt": 5}})
    {'budget': 3, 'limits.attempt': 5}
    """
    found: dict[str, Any] = {}
    for part, value in settings.items():
        whole = f"{name}.{part}" if name else part
        found |= flat(value, whole) if isinstance(value, dict) else {whole: value}
    return found


def _differences(before: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """Where two settings differ, in words."""
    then, now = flat(before), flat(asked)
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield f"{name} ({json.dumps(then.get(name))[:80]} there, {json.dumps(now.get(name))[:80]} asked)"
