"""The client of chat completions against a server on this machine: what is retried, what is told, what stays secret."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from gleanseg.errors import UserError
from gleanseg.text.chat import DEFAULT_URL, Endpoint, complete, is_local
from support.chat_server import Reply, failure, serving

QUESTION = [{"role": "user", "content": "What is a liver?"}]
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def endpoint(url: str, **options: object) -> Endpoint:
    return Endpoint(**{"base_url": url, "model": "writer", "wait_s": 0.001, "timeout_s": 5.0, "retries": 2, **options})


class TestAnswers:
    def test_question_and_answer(self) -> None:
        with serving([Reply("An organ.")]) as heard:
            answer = complete(endpoint(heard.url, key=KEY), QUESTION, note=pytest.fail)
        assert answer == ("An organ.", "stop", "", "writer-2")
        assert heard.bodies == [{"model": "writer", "messages": QUESTION}]
        assert heard.paths == ["/v1/chat/completions"]
        assert heard.keys == [f"Bearer {KEY}"]

    def test_no_key_is_no_header(self) -> None:
        with serving([Reply(None, refusal="No.")]) as heard:
            answer = complete(endpoint(heard.url), QUESTION, note=pytest.fail)
        assert (answer.content, answer.refusal) == ("", "No.")
        assert heard.keys == [None]

    def test_a_proxy_of_the_environment_is_not_asked_for_a_local_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.delenv("no_proxy", raising=False)
        with serving([Reply("An organ.")]) as heard:
            assert complete(endpoint(heard.url), QUESTION, note=pytest.fail).content == "An organ."


class TestRetries:
    @pytest.mark.parametrize(
        ("bad", "why"),
        [
            (failure(429, "slow down"), "HTTP 429: slow down"),
            (failure(500), "HTTP 500"),
            (failure(503, "overloaded"), "HTTP 503: overloaded"),
            (Reply(status=502, body=b"<html>"), "HTTP 502"),
            (Reply(body=b"<html>not JSON"), "malformed answer"),
            (Reply(body=b'{"choices": []}'), "malformed answer"),
            (Reply(body=b"[1]"), "malformed answer"),
            (Reply("late", silent_s=0.5), "no answer within 0.2 s"),
            (Reply(body=b"{", headers={"Content-Length": "99"}), "malformed answer"),
            (Reply(hangs_up=True), "connection lost (RemoteDisconnected)"),
        ],
    )
    def test_a_passing_failure(self, bad: Reply, why: str) -> None:
        notes: list[str] = []
        with serving([bad, Reply("An organ.")]) as heard:
            answer = complete(endpoint(heard.url, timeout_s=0.2), QUESTION, note=notes.append)
        assert answer.content == "An organ."
        assert len(heard.bodies) == 2
        (note,) = notes
        assert note.startswith(why)
        assert note.endswith("trying again in 0.001 s")

    def test_a_lasting_failure_ends(self) -> None:
        notes: list[str] = []
        with serving([failure(500, "broken")]) as heard, pytest.raises(UserError, match="HTTP 500: broken, 3 times"):
            complete(endpoint(heard.url), QUESTION, note=notes.append)
        assert len(heard.bodies) == 3
        assert [note.rpartition(" in ")[2] for note in notes] == ["0.001 s", "0.002 s"]

    def test_waits_as_long_as_the_server_asks(self) -> None:
        notes: list[str] = []
        with serving([failure(429, Retry_After="0.02"), Reply("An organ.")]) as heard:
            complete(endpoint(heard.url), QUESTION, note=notes.append)
        assert notes == ["HTTP 429; trying again in 0.02 s"]

    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_a_server_that_asks_for_too_long(self, form: str) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        asked = failure(429, "quota", Retry_After={"seconds": "3600", "date": date}[form])
        with serving([asked]) as heard, pytest.raises(UserError, match=r"it asks to wait 3[56]\d\d s, so try again"):
            complete(endpoint(heard.url), QUESTION, note=pytest.fail)
        assert len(heard.bodies) == 1

    def test_nonsense_in_its_place(self) -> None:
        notes: list[str] = []
        with serving([failure(429, Retry_After="soon"), Reply("An organ.")]) as heard:
            complete(endpoint(heard.url), QUESTION, note=notes.append)
        assert notes == ["HTTP 429; trying again in 0.001 s"]


class TestRefused:
    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            (failure(401, f"Incorrect key {KEY}"), r"HTTP 401: Incorrect key \.\.\.; the key in OPENAI_API_KEY is not"),
            (failure(403), "HTTP 403; the key in OPENAI_API_KEY may not use it"),
            (failure(404, "no model"), "HTTP 404: no model; there is no model 'writer'"),
            (failure(400, "two\nlines"), "HTTP 400: two lines; see --model and --base-url"),
            (failure(429, "no money", code="insufficient_quota"), "nothing left to spend"),
            (failure(302, Location="http://127.0.0.1:9/elsewhere"), "HTTP 302; it redirects; name the final"),
            (Reply(status=400, body=b"plain"), "HTTP 400; see"),
        ],
    )
    def test_what_no_retry_mends(self, reply: Reply, words: str) -> None:
        with serving([reply]) as heard, pytest.raises(UserError, match=words) as told:
            complete(endpoint(heard.url, key=KEY), QUESTION, note=pytest.fail)
        assert len(heard.bodies) == 1
        assert "\n" not in str(told.value)
        assert KEY not in str(told.value)

    def test_no_key_where_one_is_wanted(self) -> None:
        with serving([failure(401)]) as heard, pytest.raises(UserError, match="put a key into OPENAI_API_KEY"):
            complete(endpoint(heard.url), QUESTION, note=pytest.fail)

    def test_nobody_there(self) -> None:
        with serving([]) as heard:
            gone = heard.url
        with pytest.raises(UserError, match=r"not to be reached .* start the server, or correct --base-url"):
            complete(endpoint(gone), QUESTION, note=pytest.fail)


class TestEnvironment:
    def test_flag_then_variable_then_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
        assert Endpoint.from_environment(None, model="m").base_url == DEFAULT_URL
        monkeypatch.setenv("OPENAI_BASE_URL", "http://box:8000/v1/")
        assert Endpoint.from_environment(None, model="m").base_url == "http://box:8000/v1"
        found = Endpoint.from_environment("https://else.example/v1", model="m")
        assert (found.base_url, found.key) == ("https://else.example/v1", KEY)
        assert KEY not in repr(found)

    def test_remote_servers_need_a_key_and_encryption(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match="needs a key; put it into the environment variable OPENAI_API_KEY"):
            Endpoint.from_environment("https://else.example/v1", model="m")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with pytest.raises(UserError, match="the key would travel unencrypted"):
            Endpoint.from_environment("http://else.example/v1", model="m")

    @pytest.mark.parametrize(
        "url", ["else.example/v1", "file:///etc/passwd", "https://", "https://me:pass@else.example"]
    )
    def test_not_a_url(self, url: str) -> None:
        with pytest.raises(UserError, match="expected https://HOST/PATH") as told:
            Endpoint.from_environment(url, model="m")
        assert "pass@" not in str(told.value)

    @pytest.mark.parametrize(
        ("host", "local"),
        [
            ("localhost", True),
            ("127.0.0.1", True),
            ("::1", True),
            ("192.168.1.5", True),
            ("box.local", True),
            ("8.8.8.8", False),
            ("api.openai.com", False),
            ("local.example", False),
        ],
    )
    def test_local(self, host: str, local: bool) -> None:
        assert is_local(host) == local
