"""Take a model along: `python -m gptlab.export run=latest output_dir=exported`.

The folder is one that Hugging Face's transformers opens."""

from gptlab.config.cli import command
from gptlab.config.schema import ExportConfig


@command("export")
def main(config: ExportConfig) -> None:
    from gptlab.model.hf.export import export_model  # heavy imports wait

    export_model(config)


if __name__ == "__main__":
    main()
