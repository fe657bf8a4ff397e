"""Have a larger model judge responses, through any server with OpenAI's chat completions API."""

import json
import os
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from tqdm import tqdm

from gptlab.config.schema import EvaluateConfig, JudgeConfig
from gptlab.evaluation.responses import RESPONSES_FILE
from gptlab.evaluation.results_store import to_json_bytes
from gptlab.utils import run_dir
from gptlab.utils.atomic_io import write_files_atomically
from gptlab.utils.errors import UserError

QUESTION = """Instruction: {instruction}
Input: {input}
Correct output: {output}
Response to be judged: {response}

How good is the response, from 0 (useless) to 100 (as good as the correct output)? Answer with one
whole number and nothing else."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the API key is for the named server only."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(NoRedirect)


def judge_responses(config: EvaluateConfig, url: str) -> None:
    """Add the judge's points to responses.json one by one; skip records that have points."""
    path = run_dir.find_checkpoint(config.run, config.run_root).parent.parent / RESPONSES_FILE
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if not records or not all(map(is_response, records)):
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: has no responses to judge; a run writes them with "
            "eval_after=perplexity,responses"
        ) from None
    remaining = [record for record in records if "points" not in record]
    for record in tqdm(remaining, desc="judge", disable=None, leave=False):
        record["points"] = judge_response(record, config.judge, url)
        write_files_atomically(path.parent, {path.name: to_json_bytes(records)})
    points = [record["points"] for record in records]
    print(f"{path}: {sum(points) / len(points):.1f} of 100 points on average, {len(points)} judged")


def is_response(record: Any) -> bool:
    """Whether this is a record of responses.json, judged or not."""
    texts = (record.get(name) for name in ("instruction", "input", "output", "response"))
    return all(isinstance(t, str) for t in texts) and isinstance(record.get("points", 0), int)


def judge_response(record: dict[str, str], config: JudgeConfig, url: str) -> int:
    """Ask the judge for 0 to 100 points; raises UserError if no valid answer comes."""
    messages = [{"role": "user", "content": QUESTION.format(**record)}]
    content = {"model": config.model, "messages": messages, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(config.api_key_env, "").strip():
        if not key.isascii() or not key.isprintable():  # never show the key itself
            raise UserError(f"judge.api_key_env={config.api_key_env}: its value is no API key")
        headers["Authorization"] = f"Bearer {key}"
    endpoint = f"{url.rstrip('/')}/chat/completions"
    try:
        request = urllib.request.Request(endpoint, json.dumps(content).encode(), headers)
        with OPENER.open(request, timeout=config.timeout) as response:
            answer = json.loads(response.read())["choices"][0]["message"]["content"]
        number = re.search(r"\d+", answer)
        if number is None or int(number[0]) > 100:
            raise ValueError(f"it answers {answer!r:.80}")
        return int(number[0])
    except urllib.error.HTTPError as error:
        body = " ".join(error.read(300).decode(errors="replace").split())
        raise UserError(f"judge.url={url}: {endpoint} answers {error.code} ({body})") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"judge.url={url}: no answer from {endpoint} ({reason})") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"judge.url={url}: no points in the judge's answer ({error})") from None
