"""A larger model as judge of responses: any server that speaks OpenAI's chat completions."""

import json
import os
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from gptlab.config.schema import JudgeConfig
from gptlab.utils.errors import UserError

QUESTION = """Instruction: {instruction}
Input: {input}
Correct output: {output}
Response to be judged: {response}

How good is the response, from 0 (useless) to 100 (as good as the correct output)? Answer with one
whole number and nothing else."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nowhere: the key is for the server that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(NoRedirect)


def judge_response(record: dict[str, str], config: JudgeConfig) -> int:
    """The judge's points, 0 to 100, for a record with its response; raises UserError."""
    content = {
        "model": config.model,
        "messages": [{"role": "user", "content": QUESTION.format(**record)}],
        "temperature": 0,
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(config.api_key_env, "").strip():
        if not key.isascii() or not key.isprintable():  # and must not be shown
            raise UserError(f"judge.api_key_env={config.api_key_env}: holds no key")
        headers["Authorization"] = f"Bearer {key}"
    url = f"{config.url.rstrip('/')}/chat/completions"
    try:
        request = urllib.request.Request(url, json.dumps(content).encode(), headers)
        with OPENER.open(request, timeout=config.timeout) as answer:
            reply = json.loads(answer.read())
        return parse_points(reply)
    except urllib.error.HTTPError as error:
        told = " ".join(error.read(300).decode(errors="replace").split())
        raise UserError(f"judge.url={config.url}: {url} answers {error.code} ({told})") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"judge.url={config.url}: no answer from {url} ({reason})") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"judge.url={config.url}: no judgement in its answer ({error})") from None


def parse_points(reply: Any) -> int:
    """The first number that the judge says; raises ValueError where it is none from 0 to 100."""
    said = reply["choices"][0]["message"]["content"]
    number = re.search(r"\d+", said)
    if number is None or not 0 <= int(number[0]) <= 100:
        raise ValueError(f"it says {said!r:.80}")
    return int(number[0])
