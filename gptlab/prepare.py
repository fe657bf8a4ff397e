"""Tokenize a corpus before training, or verify one: `python -m gptlab.prepare data=tinystories`."""

from gptlab.config.cli import command
from gptlab.config.schema import PrepareConfig
from gptlab.utils.console import plural


@command("prepare")
def main(config: PrepareConfig) -> None:
    from gptlab.data.build import open_corpus  # heavy imports: after validation

    corpus = open_corpus(
        config.data, config.tokenizer, config.seed, config.corpus_root, verify_all=config.verify
    )
    print(corpus.folder)
    for name, split in corpus.splits.items():
        print(
            f"  {name:<6} {plural(split.documents, 'document'):>20} "
            f"{plural(split.tokens, 'token'):>21} {split.bytes:>14,} bytes of text"
        )
    meta = corpus.meta
    for line in meta.get("read", []):
        print(f"  read: {line}")
    print(f"  split: {meta['split_rule']}")
    print(f"  held-out documents also in the training text: {meta['duplicates_across_splits']:,}")
    if meta["mojibake"]:
        state = "repaired" if meta["repaired"] else "kept; repair with data.repair_encoding=true"
        print(f"  damaged encoding in {meta['mojibake']:,} places: {state}")
    if config.verify:
        print("  every block matches its checksum")


if __name__ == "__main__":
    main()
