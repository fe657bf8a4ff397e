"""Take a model along: `python -m gptlab.export run=latest to=exported`.

The folder is one that Hugging Face's transformers opens."""

from gptlab.commands import ExportConfig
from gptlab.launcher import command


@command("export")
def main(config: ExportConfig) -> None:
    from gptlab.model.export import export  # heavy imports wait

    export(config)


if __name__ == "__main__":
    main()
