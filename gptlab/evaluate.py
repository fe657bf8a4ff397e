"""Try a trained model: `python -m gptlab.evaluate run=latest text="You won a prize"`."""

from gptlab.commands import EvaluateConfig
from gptlab.launcher import command


@command("evaluate")
def main(config: EvaluateConfig) -> None:
    from gptlab.evaluation.command import evaluate  # heavy imports wait

    evaluate(config)


if __name__ == "__main__":
    main()
