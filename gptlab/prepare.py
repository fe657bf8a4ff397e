"""Tokenise ahead of training, or check a corpus: `python -m gptlab.prepare data=tinystories`."""

from gptlab.config.cli import command
from gptlab.config.schema import PrepareConfig


@command("prepare")
def main(config: PrepareConfig) -> None:
    from gptlab.data.build import open_corpus  # heavy imports wait

    corpus = open_corpus(
        config.data, config.tokenizer, config.seed, config.corpus_root, every_block=config.verify
    )
    print(corpus.folder)
    for name, split in corpus.splits.items():
        print(
            f"  {name:<6} {split.documents:>10,} documents {split.tokens:>14,} tokens "
            f"{split.bytes:>14,} bytes of text"
        )
    meta = corpus.meta
    print(f"  split: {meta['split_rule']}")
    print(
        f"  held-out documents that stand in the training text too: "
        f"{meta['duplicates_across_splits']:,}"
    )
    if meta["mojibake"]:
        state = "mended" if meta["repaired"] else "left as it is (data.repair_encoding=true mends)"
        print(f"  damaged encoding in {meta['mojibake']:,} places: {state}")
    if config.verify:
        print("  every block agrees with its checksum")


if __name__ == "__main__":
    main()
