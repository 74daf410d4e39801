"""Texts that a language model writes: what is asked, how answers are read, and what makes it ask again."""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gleanseg.cli.main import main
from gleanseg.errors import UserError
from gleanseg.text.chat import Endpoint
from gleanseg.text.generate import generate_text, parse
from gleanseg.text.texts import Text, prompt_for
from support.chat_server import Reply, failure, serving

WORDS = ["atrium", "vein", "septum", "valve", "wall", "blood", "signal", "slice", "border", "roof"]
SECRET = "sk-very-secret"


def response(n: int, words: int = 12) -> str:
    """Distinct for each n: its words differ."""
    return " ".join(["Left atrium", *(f"{WORDS[(n + i) % 10]}{n}" for i in range(words - 2))])


GOOD = [response(n) for n in range(4)]
ASKED = {"structure": "left atrium", "modality": "MRI", "num": 4, "min_words": 12}


def ask(
    replies: list[Reply], notes: list[str] | None = None, *, retries: int = 2, **asked: object
) -> tuple[Text, list]:
    with serving(replies) as heard:
        endpoint = Endpoint(base_url=heard.url, model="writer", retries=retries, wait_s=0.001, timeout_s=5.0)
        note = pytest.fail if notes is None else notes.append
        return generate_text(endpoint, **{**ASKED, **asked}, note=note), heard.bodies


def json_reply(responses: list[str]) -> Reply:
    return Reply(json.dumps(responses))


class TestPrompt:
    def test_it_is_the_published_one(self) -> None:
        prompt = prompt_for("left atrium", "MRI", hints="crescent shape, left auricle")
        assert prompt.startswith(
            "Generate 15 descriptive crucial features, each of a minimum of 60 words for effectively segmenting the"
            " left atrium from 3D MRI images, offering detailed insights into organ shape, structure,"
        )
        assert "Consider including structural features such as crescent shape, left auricle. Each description" in prompt
        assert prompt.endswith("distinctive to provide comprehensive guidance for successful segmentation.")

    def test_no_hints(self) -> None:
        assert "contextual information. Each description" in prompt_for("liver", "CT")


class TestParse:
    @pytest.mark.parametrize(
        "content",
        [
            '["one a", "two b"]',
            '```json\n["one a", "two b"]\n```',
            '{"features": ["one a", "two b"]}',
            "1. one a\n2. two b",
            "Here they are:\n\n1) **one** a\n\n2) two\nb\n\nI hope that this helps.",
            "**1. one** a\n**2. two** b",
            "1: one a\n7. two\n",
        ],
    )
    def test_forms(self, content: str) -> None:
        wanted = ["one a", "two b"] if "7." not in content else ["one a 7. two"]
        assert parse(content) == wanted

    def test_paragraphs_of_items_stay_together(self) -> None:
        assert parse("1. Shape\n\nIt is round.\n\n2. Size\n\nIt is small.") == [
            "Shape It is round.",
            "Size It is small.",
        ]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ('["one", "two"', "malformed JSON"),
            ("[1, 2]", "not an array of strings"),
            ('{"a": 1, "b": 2}', "not an array"),
        ],
    )
    def test_bad_json(self, content: str, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            parse(content)


class TestGenerate:
    def test_a_text_with_its_provenance(self) -> None:
        text, bodies = ask([json_reply(GOOD)], hints="left auricle")
        assert text.responses == tuple(GOOD)
        assert (text.structure, text.modality, text.roi) == ("left atrium", "MRI", "left_atrium")
        (message,) = bodies[0]["messages"]
        assert message["content"] == text.prompt
        assert text.prompt.endswith("Answer with a JSON array of 4 strings and nothing else.")
        assert text.provenance["source"] == "generated"
        assert text.provenance["model"] == "writer-2"
        assert text.provenance["prompt_sha256"] == hashlib.sha256(text.prompt.encode()).hexdigest()
        age = datetime.now(UTC) - datetime.fromisoformat(text.provenance["date_utc"])
        assert timedelta(0) <= age < timedelta(minutes=1)
        assert "127.0.0.1" not in text.model_dump_json()

    def test_an_unknown_structure_has_no_roi(self) -> None:
        text, _ = ask([json_reply([r.replace("Left atrium", "Liver bud") for r in GOOD])], structure="liver bud")
        assert text.roi is None

    @pytest.mark.parametrize(
        ("bad", "why"),
        [
            (Reply(json.dumps(GOOD)[:-9]), "malformed JSON"),
            (Reply(json.dumps(GOOD)[:-9], finish="length"), "cut off at the model's limit"),
            (json_reply(GOOD[:3]), "3 responses, expected 4"),
            (json_reply([*GOOD[:3], response(3, 11)]), "response 4 has 11 words, expected at least 12"),
            (json_reply([*GOOD[:3], GOOD[0]]), "responses 1 and 4 are nearly the same"),
            (json_reply([*GOOD[:3], "I\u2019m sorry, but as a language model I stop."]), "response 4 is a refusal"),
            (Reply("I'm sorry, I can't help with that."), "refused .*I'm sorry"),
            (Reply(None, refusal="Not medical."), "refused .Not medical"),
            (Reply(None, finish="content_filter"), "refused .content filter"),
            (json_reply([r.replace("atrium", "ear") for r in GOOD]), "no response speaks of the left atrium"),
        ],
    )
    def test_an_unusable_answer_is_asked_for_again(self, bad: Reply, why: str) -> None:
        notes: list[str] = []
        text, bodies = ask([bad, json_reply(GOOD)], notes)
        assert text.responses == tuple(GOOD)
        assert re.search(f"answer 1 cannot be used: .*{why}.*; asking again", notes[0])
        first, *rest = bodies[1]["messages"]
        assert first == bodies[0]["messages"][0]
        assert [m["role"] for m in rest] == (["assistant", "user"] if bad.content else ["user"])
        assert re.search(why, rest[-1]["content"])
        with pytest.raises(UserError, match=why) as told:
            ask([bad], [])
        assert str(told.value).startswith("writer: no usable answer in 3; the last: ")
        assert "\n" not in str(told.value)

    def test_no_retries(self) -> None:
        with pytest.raises(UserError, match=r"no usable answer in 1; .*; ask for less with --num or --min-words"):
            ask([Reply("1. a", finish="length")], retries=0)

    def test_numbers_that_ask_for_nothing(self) -> None:
        with pytest.raises(UserError, match="--num 0, --min-words 12: expected at least 1"):
            ask([Reply()], num=0)


class TestCommand:
    def run(self, url: str, out: Path, *flags: str) -> int:
        asked = ("--structure", "left atrium", "--modality", "MRI", "--num", "4", "--min-words", "12")
        return main(["text", "generate", *asked, "--base-url", url, "--model", "writer", "-o", str(out), *flags])

    def test_writes_shows_and_keeps_the_key_secret(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        out = tmp_path / "la.json"
        with serving([failure(429, Retry_After="0"), json_reply(GOOD[:2]), json_reply(GOOD)]) as heard:
            assert self.run(heard.url, out) == 0
        assert heard.keys == [f"Bearer {SECRET}"] * 3
        told = capsys.readouterr()
        assert "HTTP 429; trying again in 0 s" in told.out
        assert "2 responses, expected 4; asking again" in told.out
        assert GOOD[3] in told.out
        assert Text.load(out).responses == tuple(GOOD)
        assert SECRET not in told.out + told.err + out.read_text()
        assert [p.name for p in tmp_path.iterdir()] == ["la.json"]

    def test_mistakes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        old = tmp_path / "old.json"
        old.write_text("mine")
        for url, out, words in [
            ("http://localhost", old, "expected the name of a new .json file"),
            ("http://localhost", tmp_path / "la.txt", "expected the name of a new .json file"),
            ("https://else.example", tmp_path / "la.json", "needs a key"),
        ]:
            assert self.run(url, out) == 2
            told = capsys.readouterr().err
            assert words in told
            assert told.count("\n") == 1
        with serving([json_reply(GOOD[:2])]) as heard:
            assert self.run(heard.url, tmp_path / "la.json", "--retries", "1") == 2
        assert len(heard.bodies) == 2
        assert not (tmp_path / "la.json").exists()
        assert old.read_text() == "mine"
