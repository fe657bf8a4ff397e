"""Export a model for Hugging Face transformers.

`python -m gptlab.export run=latest output_dir=exported`
"""

from gptlab.config.cli import command
from gptlab.config.schema import ExportConfig


@command("export")
def main(config: ExportConfig) -> None:
    from gptlab.model.hf.export import export_model  # heavy imports: after validation

    export_model(config)


if __name__ == "__main__":
    main()
