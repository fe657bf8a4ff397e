"""Generate text with a trained model: `gptlab generate`, the same as `python generate.py`."""

from gptlab.config.cli import command
from gptlab.config.schema import GenerateConfig


@command("generate")
def main(config: GenerateConfig) -> None:
    from gptlab.generation.cli import run_generate  # heavy imports: after validation

    run_generate(config)


if __name__ == "__main__":
    main()
