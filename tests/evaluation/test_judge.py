"""A larger model judges the responses of a run."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gptlab.config.schema import EvaluateConfig, JudgeConfig
from gptlab.evaluation.judge import judge_responses
from gptlab.utils.errors import UserError

RECORD = {"instruction": "Say hi.", "input": "{x}", "output": "hi", "response": "ho"}
NOBODY = "http://127.0.0.1:9"


class JudgeServer(BaseHTTPRequestHandler):
    """Answers like a server with OpenAI's API; an empty reply becomes an error 500."""

    replies: list[str]
    requests: list[dict]

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({"path": self.path, "key": self.headers["Authorization"], **content})
        reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
        body = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
        self.send_response(200 if reply else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def start_judge(replies: list[str]) -> tuple[HTTPServer, type[JudgeServer]]:
    handler = type("Handler", (JudgeServer,), {"replies": replies, "requests": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server, handler


def test_the_judge_reads_every_response_and_continues_after_an_error(
    command, trained: Path, monkeypatch
) -> None:
    monkeypatch.setenv("SECRET", "abc")
    path = trained / "responses.json"
    path.write_text(json.dumps([RECORD, RECORD, RECORD]), encoding="utf-8")
    server, judge = start_judge(["Score: 80", "", "60"])
    arguments = [
        *("gptlab.evaluate", f"run={trained}", "judge.model=some", "judge.api_key_env=SECRET"),
        f"judge.url=http://127.0.0.1:{server.server_address[1]}/v1/",
    ]
    result = command(*arguments)
    assert result.code == 2 and "answers 500" in result.err
    assert [r.get("points") for r in json.loads(path.read_text(encoding="utf-8"))] == [
        80,
        None,
        None,
    ]
    result = command(*arguments)
    assert result.code == 0 and "66.7 of 100 points" in result.out, result.err
    assert len(judge.requests) == 4
    first = judge.requests[0]
    expected = ("/v1/chat/completions", "Bearer abc", "some")
    assert (first["path"], first["key"], first["model"]) == expected
    assert all(text in first["messages"][0]["content"] for text in ("Say hi.", "{x}", "hi", "ho"))
    server.shutdown()
    server.server_close()
    path.write_text(json.dumps([RECORD]), encoding="utf-8")
    result = command(*arguments)
    assert result.code == 2 and "no answer from" in result.err


def error_of(run: Path, url: str) -> str:
    config = EvaluateConfig(run=str(run), judge=JudgeConfig(url=url))
    with pytest.raises(UserError) as caught:
        judge_responses(config, url)
    return str(caught.value)


def test_an_answer_without_valid_points_is_an_error(trained: Path) -> None:
    (trained / "responses.json").write_text(json.dumps([RECORD]), encoding="utf-8")
    for reply in ("none at all", "130 points"):
        server, _ = start_judge([reply])
        assert "no points in" in error_of(trained, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


def test_missing_and_damaged_responses_are_an_error(trained: Path) -> None:
    assert "eval_after=perplexity,responses" in error_of(trained, NOBODY)
    damaged = ["[]", "{}", "[[1]]", '[{"instruction": "a"}]', "[" * 100_000, "\xff", "null"]
    for content in damaged:
        (trained / "responses.json").write_text(content, encoding="latin-1")
        assert "has no responses" in error_of(trained, NOBODY), content


def test_errors_never_show_the_api_key(trained: Path, monkeypatch) -> None:
    (trained / "responses.json").write_text(json.dumps([RECORD]), encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-se\ncret")
    assert "cret" not in error_of(trained, NOBODY)
