"""The JSON API and the page: which address answers what. FastAPI describes it in /openapi.json."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from gptlab.app import generate_stream, inspection, openai_api, run_history
from gptlab.app.job_queue import JobQueue
from gptlab.app.model_registry import ModelRegistry, NotFound
from gptlab.app.schemas import (
    AttentionRequest,
    GenerateRequest,
    ModelRequest,
    TextRequest,
    as_config,
    settings,
)
from gptlab.app.security import SecurityMiddleware
from gptlab.app.streaming import StreamedAnswer, WholeAnswer, explain
from gptlab.config.schema import AppConfig
from gptlab.model.checkpoint import LoadedModel
from gptlab.utils.errors import UserError

PAGE = Path(__file__).parent / "static"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def make_app(config: AppConfig, port: int, shelf: ModelRegistry, queue: JobQueue) -> FastAPI:
    """Everything that is served; no address of it names a file."""
    app = FastAPI(
        title="gptlab",
        description="Write with models, watch them learn, look inside.",
        docs_url=None,  # FastAPI's own pages fetch scripts from elsewhere: /docs is ours
        redoc_url=None,
    )
    add_page(app)
    add_runs(app, config, shelf)
    add_writing(app, config, shelf, queue)
    add_looks(app, shelf, queue)
    add_completions(app, config, shelf, queue)
    add_errors(app)
    app.add_middleware(SecurityMiddleware, host=config.host, port=port, token=config.token)
    return app


def add_page(app: FastAPI) -> None:
    """The page's files, each at an address of its own, read once."""
    for path in sorted(PAGE.iterdir()):
        if path.suffix not in KINDS:
            continue
        content, kind = path.read_bytes(), KINDS[path.suffix]
        address = {"index.html": "/", "docs.html": "/docs"}.get(path.name, f"/{path.name}")

        def give(_: Request, content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind)

        app.add_route(address, give, methods=["GET"])


def add_runs(app: FastAPI, config: AppConfig, shelf: ModelRegistry) -> None:
    @app.get("/api/settings")
    def read_settings() -> dict[str, Any]:
        """What the page begins with, and the range of every sampling setting."""
        run, checkpoint = shelf.first
        numbers = settings(config.sampling, config.max_new_tokens)
        return {"run": run, "checkpoint": checkpoint, "settings": numbers}

    @app.get("/api/runs")
    def list_runs() -> list[dict[str, Any]]:
        """All runs, the latest first."""
        return run_history.overview(shelf)

    @app.get("/api/run")
    def read_run(name: str) -> dict[str, Any]:
        """One run: configuration, curves, samples, and its checkpoints in the order of steps."""
        return run_history.details(shelf, name)


def add_writing(app: FastAPI, config: AppConfig, shelf: ModelRegistry, queue: JobQueue) -> None:
    @app.post("/api/write", responses={200: {"content": {"application/x-ndjson": {}}}})
    async def write(asked: GenerateRequest) -> Response:
        """Writes, and streams JSON, an event a line: `begin`, each `token` with its probability
        and the likeliest beside it, `end`. Close the connection to stop."""
        which = shelf.find(asked.run, asked.checkpoint)
        wanted = as_config(asked, config.max_new_tokens)

        def work() -> Generator[dict[str, Any], None, None]:
            yield from generate_stream.events(shelf.open(*which), wanted, asked.likeliest)

        return StreamedAnswer(queue, work)


def add_looks(app: FastAPI, shelf: ModelRegistry, queue: JobQueue) -> None:
    def look(asked: ModelRequest, see: Callable[[LoadedModel], dict[str, Any]]) -> Response:
        which = shelf.find(asked.run, asked.checkpoint)

        def work() -> Generator[dict[str, Any], None, None]:
            yield see(shelf.open(*which))

        return WholeAnswer(queue, work)

    @app.post("/api/attention")
    async def attention(asked: AttentionRequest) -> Response:
        """Where each head of a layer looks as the model reads the text, in thousandths."""
        return look(asked, lambda m: inspection.heads(m, asked.text, asked.unknown, asked.layer))

    @app.post("/api/lens")
    async def lens(asked: TextRequest) -> Response:
        """The next token as each layer has it."""
        return look(asked, lambda m: inspection.lens(m, asked.text, asked.unknown))

    @app.post("/api/neighbours")
    async def neighbours(asked: TextRequest) -> Response:
        """Tokens that the model holds alike: those nearest to the longest words of the text."""
        return look(asked, lambda m: inspection.neighbours(m, asked.text, asked.unknown))

    @app.post("/api/surprise")
    async def surprise(asked: TextRequest) -> Response:
        """How likely the model holds each token of the text, and what it expected instead."""
        return look(asked, lambda m: inspection.surprises(m, asked.text, asked.unknown))

    @app.post("/api/classify")
    async def classify(asked: TextRequest) -> Response:
        """Of a run that tells classes apart: how likely each is for the text."""
        return look(asked, lambda m: inspection.classes(m, asked.text, asked.unknown))


def add_completions(app: FastAPI, config: AppConfig, shelf: ModelRegistry, queue: JobQueue) -> None:
    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        """The runs as OpenAI's clients list models."""
        names = [*shelf.given, *shelf.runs()]
        data = [{"id": n, "object": "model", "created": 0, "owned_by": "gptlab"} for n in names]
        return {"object": "list", "data": data}

    @app.post("/v1/completions")
    async def complete(asked: openai_api.Completion) -> Response:
        """OpenAI's completions: `model` is a run, RUN:CHECKPOINT, or `gptlab` for the first."""
        run, _, checkpoint = asked.model.partition(":")
        which = shelf.find(None if run == "gptlab" else run, checkpoint or None)
        talk = openai_api.Talk(asked, asked.model, config.max_new_tokens)

        def work() -> Generator[Any, None, None]:
            yield from talk.work(lambda: shelf.open(*which))

        if not asked.stream:
            return WholeAnswer(queue, work, talk.whole, as_error=openai_api.as_error)
        return StreamedAnswer(
            queue, work, talk.chunks, openai_api.as_error, "text/event-stream", talk.last
        )


def add_errors(app: FastAPI) -> None:
    def told(request: Request, status: int, why: str) -> JSONResponse:
        openai = request.url.path.startswith("/v1/")
        content = openai_api.as_error(status, why) if openai else {"error": why}
        return JSONResponse(content, status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return told(request, 422, "; ".join(map(plain, error.errors()[:3])))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        why = {404: "there is nothing at this address; /docs tells what there is"}
        return told(request, error.status_code, why.get(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return told(
            request, 500, "something went wrong here; the terminal of the server shows what"
        )

    @app.exception_handler(UserError)
    @app.exception_handler(NotFound)
    async def mistaken(request: Request, error: UserError) -> JSONResponse:
        return told(request, *explain(error))


def plain(error: dict[str, Any]) -> str:
    """`sampling.temperature: must be less than or equal to 100`."""
    if error["type"] == "json_invalid":
        return "the request is not JSON"
    name = ".".join(map(str, error["loc"][1:]))
    why = {"extra_forbidden": "there is no such field", "missing": "is missing"}.get(
        error["type"], error["msg"].replace("Input should", "must").lower()
    )
    return f"{name}: {why}" if name else why
