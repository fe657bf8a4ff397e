"""Evaluate a trained model: `python -m gptlab.evaluate run=latest suite=perplexity`."""

from gptlab.config.cli import command
from gptlab.config.schema import EvaluateConfig


@command("evaluate")
def main(config: EvaluateConfig) -> None:
    from gptlab.evaluation.cli import run_evaluate  # heavy imports: after validation

    run_evaluate(config)


if __name__ == "__main__":
    main()
