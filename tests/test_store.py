"""Evaluations that are broken off, continued, and refused where the folder holds another one."""

import json
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import QUESTIONS, SCRIPT, CharTokenizer, plan, play_script

from multiattempt_trl.dialogue.episode import Ending, Episode
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.evaluation.fingerprint import asked, weights_of
from multiattempt_trl.evaluation.store import EPISODES_FILE, PARTS_FOLDER, EpisodeStore, read_episodes

ASKED = {"budget": 3, "limits": {"attempt": 5, "episode": 9}, "probes": ()}


def begun(folder: Path, content: dict[str, Any] = ASKED, **options: Any) -> EpisodeStore:
    store = EpisodeStore(folder, content, **options)
    store.begin()
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_is_what_was_played(tmp_path: Path) -> None:
    played, _ = play_script(plan(), store=begun(tmp_path))
    kept = list(read_episodes(tmp_path / EPISODES_FILE))
    assert [name for name, _ in kept] == ["main"] * 4 + ["independent"] * 12
    assert [one for _, one in kept] == [one for episodes in played.episodes["toy"].values() for one in episodes]
    assert sorted(path.name for path in tmp_path.iterdir()) == [EPISODES_FILE, "plan.json"]


def test_what_is_over_is_not_played_again(tmp_path: Path) -> None:
    first, opened = play_script(plan(), store=begun(tmp_path), shard_size=2)
    assert len(opened) == 2 + 6
    before = contents(tmp_path)
    again, opened = play_script(plan(), store=begun(tmp_path), shard_size=2)
    assert opened == []
    assert again == first
    assert contents(tmp_path) == before


class Broken(Exception):
    pass


class BreaksAfter(EpisodeStore):
    """Keeps some episodes, and dies in the middle of the next line."""

    def __init__(self, folder: Path, left: int) -> None:
        super().__init__(folder, ASKED)
        self.left = left

    def append(self, played: Any, *, process: int) -> None:
        if self.left == 0:
            assert self._part is not None
            self._part.write(b'{"run": "main", "bench')
            raise Broken
        self.left -= 1
        super().append(played, process=process)


@pytest.mark.parametrize("process", [0, 3])
def test_broken_off_and_continued_is_as_if_nothing_had_been(tmp_path: Path, process: int) -> None:
    whole, _ = play_script(plan(), store=begun(tmp_path / "whole"), shard_size=2)
    folder = tmp_path / "broken"
    for left in (1, 2, 5):
        store = BreaksAfter(folder, left)
        store.begin()
        with pytest.raises(Broken):
            play_script(plan(), store=store, shard_size=2)
        part = folder / PARTS_FOLDER / "0.jsonl"
        assert not part.read_bytes().endswith(b"\n")
        part.rename(part.with_name(f"{process}.jsonl"))  # resumed by other processes than it was begun by
    ended, opened = play_script(plan(), store=begun(folder), shard_size=2)
    assert 0 < len(opened) < 8
    assert ended == whole
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_shard_that_was_broken_off_is_played_whole(tmp_path: Path) -> None:
    store = BreaksAfter(tmp_path, 3)
    store.begin()
    with pytest.raises(Broken):
        play_script(plan(independent=0), store=store, shard_size=2)
    _, opened = play_script(plan(independent=0), store=begun(tmp_path), shard_size=2)
    assert [len(one.run.environments) for one in opened] == [4], "the second half of one run"
    assert {prompt.split("Question: ")[1][:2] for prompt in opened[0].prompts} == {"c?", "d?"}


def test_a_dialogue_that_failed_is_played_again(tmp_path: Path) -> None:
    store = begun(tmp_path)
    played, _ = play_script(plan(independent=0), store=store)
    lost = Episode(question=played.episodes["toy"]["main"][1].question, budget=3, attempts=(), ending=Ending.FAILED)
    store.finish(
        [("main", episode if episode.question.id != "b" else lost) for episode in played.episodes["toy"]["main"]]
    )
    again, opened = play_script(plan(independent=0), store=begun(tmp_path), shard_size=1)
    assert [one.run.environments[0].budget for one in opened] == [3]
    assert again == played


def test_a_folder_of_another_evaluation_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    play_script(plan(), store=begun(tmp_path))
    before = contents(tmp_path)
    other = {**ASKED, "budget": 5, "limits": {"attempt": 5, "episode": 8}}
    with pytest.raises(
        ValueError, match=r"differs in budget \(3 there, 5 asked\); limits.episode \(9 there, 8 asked\)"
    ):
        begun(tmp_path, other)
    assert contents(tmp_path) == before
    (tmp_path / "notes.txt").write_text("mine")
    begun(tmp_path, other, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "plan.json"]


def test_replacing_loses_nothing_of_the_same_evaluation(tmp_path: Path) -> None:
    play_script(plan(), store=begun(tmp_path))
    before = contents(tmp_path)
    begun(tmp_path, replace=True)
    assert contents(tmp_path) == before


def test_folders_that_say_nothing_of_themselves_are_refused(tmp_path: Path) -> None:
    (tmp_path / EPISODES_FILE).write_text("")
    with pytest.raises(ValueError, match=r"holds episodes.jsonl but no plan.json"):
        begun(tmp_path)
    for content in ("{", "[1]"):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(ValueError, match=r"plan.json is not what an evaluation writes"):
            begun(tmp_path)


def test_line_ends_that_only_a_model_writes_end_no_line(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\x85d\x0be\ud800 \\boxed{1}"
    script = {**SCRIPT, "a?": [odd]}
    whole, _ = play_script(plan(), script=script, store=begun(tmp_path))
    kept = list(read_episodes(tmp_path / EPISODES_FILE))
    assert len(kept) == 16
    assert kept[0][1].attempts[0].response == odd.replace("\ud800", "?")
    again, opened = play_script(plan(), script=script, store=begun(tmp_path))
    assert opened == []
    assert again == whole


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / EPISODES_FILE).write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"episodes.jsonl is not UTF-8"):
        list(read_episodes(tmp_path / EPISODES_FILE))


def test_a_line_that_was_changed_is_named(tmp_path: Path) -> None:
    play_script(plan(), store=begun(tmp_path))
    path = tmp_path / EPISODES_FILE
    lines = path.read_text().splitlines(keepends=True)
    for bad, message in (("{}\n", "KeyError"), ("[1]\n", "not an episode"), ('{"run"\n', "Expecting ':'")):
        path.write_text("".join([lines[0], bad, *lines[2:]]))
        with pytest.raises(ValueError, match=rf"episodes.jsonl, line 2, cannot be read.*{message}"):
            begun(tmp_path).read()


def test_the_fingerprint_tells_plans_questions_and_weights_apart(tmp_path: Path) -> None:
    def of(a_plan: Any, questions: Any = QUESTIONS, **changes: Any) -> dict[str, Any]:
        given = {
            "renderer": Renderer(CharTokenizer()),
            "backend": "transformers",
            "weights": "w",
            "base_weights": None,
        }
        return json.loads(json.dumps(asked(a_plan, {"toy": questions}, **(given | changes))))

    same = of(plan())
    assert of(plan(model="moved")) == same, "a folder may be moved"
    for other in (
        of(plan(seed=1)),
        of(plan(), QUESTIONS[1:]),
        of(plan(), weights="x"),
        of(plan(probes=("announced",))),
    ):
        assert other != same
    template = CharTokenizer()
    template.chat_template = "another"
    others = [of(plan(), renderer=Renderer(template)), of(plan(), renderer=Renderer(CharTokenizer(), [7]))]
    others += [of(plan(), dtype="bfloat16"), of(plan(), batch_size=5)]
    assert same not in others
    model = tmp_path / "model"
    model.mkdir()
    weights = bytearray(random.Random(0).randbytes(6_000_000))
    (model / "model.safetensors").write_bytes(weights)
    before = weights_of(str(model))
    assert before == weights_of(str(model))
    (model / "README.md").write_text("words")
    assert before == weights_of(str(model))
    weights[5_999_999] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert before != weights_of(str(model))


SLOW_MODEL = textwrap.dedent(
    """
    import sys, time
    sys.path[:0] = [{tests!r}]
    from pathlib import Path
    import scripted
    from multiattempt_trl.evaluation.store import EpisodeStore
    answer = scripted.ScriptedBackend.answer
    scripted.ScriptedBackend.answer = lambda self, request: (time.sleep(0.01), answer(self, request))[1]
    store = EpisodeStore(Path(sys.argv[1]), {{"budget": 3}})
    store.begin()
    print("begun", flush=True)
    scripted.play_script(scripted.plan(), store=store, shard_size=1)
    """
)


def test_killed_three_times_at_random_and_continued(tmp_path: Path) -> None:
    whole, _ = play_script(plan(), store=begun(tmp_path / "whole", {"budget": 3}), shard_size=1)
    assert whole.episodes
    script = SLOW_MODEL.format(tests=str(Path(__file__).parent))
    wait = random.Random(1)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(wait.uniform(0.02, 0.08))
        process.kill()
        process.wait()
        assert not (tmp_path / "killed" / EPISODES_FILE).exists(), "it was not done"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed")], check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
