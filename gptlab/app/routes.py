"""The HTTP routes: the page's files, the JSON API, and OpenAI's completions.

FastAPI describes them in /openapi.json; /docs shows that description.
"""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from gptlab.app import examples, inspection, openai_api, run_history
from gptlab.app.job_queue import JobQueue
from gptlab.app.model_registry import ModelRegistry
from gptlab.app.schemas import AttentionRequest, GenerateRequest, TextRequest, form_fields
from gptlab.app.security import SecurityMiddleware
from gptlab.app.streaming import (
    INTERNAL_ERROR,
    JobResponse,
    JobStreamingResponse,
    describe_error,
    error_json,
    generate_events,
)
from gptlab.config.schema import AppConfig
from gptlab.data.prompt_matching import match_prompt
from gptlab.utils.errors import UserError

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MEDIA_TYPES[".svg"] = "image/svg+xml"


def create_app(config: AppConfig, port: int, registry: ModelRegistry, queue: JobQueue) -> FastAPI:
    app = FastAPI(
        title="gptlab",
        description="Generate with models, watch them learn, inspect them.",
        docs_url=None,  # FastAPI's own pages load scripts from another site; /docs is ours
        redoc_url=None,
    )
    add_static_files(app)
    add_run_routes(app, config, registry)
    add_generate_route(app, config, registry, queue)
    add_inspection_routes(app, registry, queue)
    add_openai_routes(app, config, registry, queue)
    add_error_handlers(app)
    app.add_middleware(SecurityMiddleware, host=config.host, port=port, token=config.token)
    return app


def add_static_files(app: FastAPI) -> None:
    """Serve each file of static/ from memory, so that no address is ever used as a path."""
    for path in sorted(STATIC.iterdir()):
        if path.suffix not in MEDIA_TYPES:
            continue
        response = Response(path.read_bytes(), media_type=MEDIA_TYPES[path.suffix])
        url = {"index.html": "/", "docs.html": "/docs"}.get(path.name, f"/{path.name}")

        def serve_file(_: Request, response: Response = response) -> Response:
            return response

        app.add_route(url, serve_file, methods=["GET"])


def add_run_routes(app: FastAPI, config: AppConfig, registry: ModelRegistry) -> None:
    @app.get("/api/settings")
    def read_settings() -> dict[str, Any]:
        """The default run and checkpoint, and default, range and help of the form's numbers."""
        run, checkpoint = registry.default
        fields = form_fields(config.sampling, config.max_new_tokens)
        return {"run": run, "checkpoint": checkpoint, "fields": fields}

    @app.get("/api/runs")
    def list_runs() -> list[dict[str, Any]]:
        """All runs, the latest first."""
        return run_history.list_runs(registry)

    @app.get("/api/run")
    def read_run(name: str) -> dict[str, Any]:
        """One run: its configuration, results, curves, samples, example prompts, and checkpoints by
        step."""
        run = run_history.describe_run(registry, name)
        if name in registry.standalone:
            return run | {"examples": [examples.default_example(run["task"])]}
        return run | {"examples": examples.example_prompts(registry.run_folder(name))}

    @app.post("/api/match_prompt")
    def match(request: TextRequest) -> dict[str, Any]:
        """How a loaded model reads a prompt: parts as typed and as read. A part read as nothing is
        not in its vocabulary; no parts: the model is not loaded yet."""
        model = registry.find_loaded(*registry.resolve(request.run, request.checkpoint))
        return {"parts": match_prompt(model.tokenizer, request.text).parts if model else []}


def add_generate_route(
    app: FastAPI, config: AppConfig, registry: ModelRegistry, queue: JobQueue
) -> None:
    @app.post("/api/generate", responses={200: {"content": {"application/x-ndjson": {}}}})
    async def generate(request: GenerateRequest) -> Response:
        """Generate text, streamed as one JSON event per line: `start`, a `token` for each token
        with its probability and alternatives, `end`. Close the connection to stop."""
        selection = registry.resolve(request.run, request.checkpoint)
        generate_config = request.to_config(config.max_new_tokens)

        def job() -> Generator[dict[str, Any], None, None]:
            model = registry.load(*selection)
            yield from generate_events(model, generate_config, request.num_alternatives)

        return JobStreamingResponse(queue, job)


def add_inspection_routes(app: FastAPI, registry: ModelRegistry, queue: JobQueue) -> None:
    def inspect(
        request: TextRequest, function: Callable[..., dict[str, Any]], *arguments: Any
    ) -> Response:
        selection = registry.resolve(request.run, request.checkpoint)

        def job() -> Generator[dict[str, Any], None, None]:
            yield function(registry.load(*selection), request.text, request.unknown, *arguments)

        return JobResponse(queue, job)

    @app.post("/api/attention")
    async def attention(request: AttentionRequest) -> Response:
        """The attention weights of each head in one layer, in thousandths."""
        return inspect(request, inspection.inspect_attention, request.layer)

    @app.post("/api/logit_lens")
    async def logit_lens(request: TextRequest) -> Response:
        """The next token that each layer would predict."""
        return inspect(request, inspection.inspect_logit_lens)

    @app.post("/api/nearest_tokens")
    async def nearest_tokens(request: TextRequest) -> Response:
        """The tokens with the most similar embeddings, for the longest tokens of the text."""
        return inspect(request, inspection.inspect_nearest_tokens)

    @app.post("/api/surprise")
    async def surprise(request: TextRequest) -> Response:
        """The probability of each token of the text, and the most likely alternatives."""
        return inspect(request, inspection.inspect_surprise)

    @app.post("/api/classify")
    async def classify(request: TextRequest) -> Response:
        """The probability of each class, for a model that is a classifier."""
        return inspect(request, inspection.classify)


def add_openai_routes(
    app: FastAPI, config: AppConfig, registry: ModelRegistry, queue: JobQueue
) -> None:
    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        """The runs, in the form of OpenAI's list of models."""
        names = [*registry.standalone, *registry.runs()]
        data = [{"id": n, "object": "model", "created": 0, "owned_by": "gptlab"} for n in names]
        return {"object": "list", "data": data}

    @app.post("/v1/completions")
    async def complete(request: openai_api.CompletionRequest) -> Response:
        """OpenAI's completions; `model` is RUN, RUN:CHECKPOINT, or `gptlab` for the default."""
        run, _, checkpoint = request.model.partition(":")
        selection = registry.resolve(None if run == "gptlab" else run, checkpoint or None)
        completion = openai_api.CompletionJob(request, config.max_new_tokens)

        def job() -> Generator[openai_api.CompletionEvent, None, None]:
            yield from completion.events(registry.load(*selection))

        if not request.stream:
            return JobResponse(queue, job, completion.response, openai_api.openai_error)
        encode, end = completion.encode_chunks, completion.final_chunk
        media_type = "text/event-stream"
        return JobStreamingResponse(queue, job, encode, openai_api.openai_error, media_type, end)


def add_error_handlers(app: FastAPI) -> None:
    def respond(request: Request, status: int, message: str) -> JSONResponse:
        openai = request.url.path.startswith("/v1/")
        format_error = openai_api.openai_error if openai else error_json
        return JSONResponse(format_error(status, message), status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        messages = [describe_validation_error(each) for each in error.errors()[:3]]
        return respond(request, 422, "; ".join(messages))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        not_found = error.status_code == 404
        message = "no such address; /docs lists them" if not_found else str(error.detail)
        return respond(request, error.status_code, message)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        return respond(request, 500, INTERNAL_ERROR)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        return respond(request, *describe_error(error))


def describe_validation_error(error: dict[str, Any]) -> str:
    """Return for example `sampling.temperature: must be less than or equal to 100`."""
    if error["type"] == "json_invalid":
        return "the request is not JSON"
    field = ".".join(map(str, error["loc"][1:]))
    messages = {"extra_forbidden": "there is no such field", "missing": "is missing"}
    message = messages.get(error["type"], error["msg"].replace("Input should", "must").lower())
    return f"{field}: {message}" if field else message
