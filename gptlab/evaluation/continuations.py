"""Continue held-out documents: the model reads the first half and generates the second."""

from tqdm import tqdm

from gptlab.evaluation.context import EvalContext
from gptlab.generation.sample import Sample
from gptlab.utils.errors import UserError

MIN_TOKENS = 8  # of a document that is worth continuing


def continue_documents(context: EvalContext) -> tuple[list[Sample], list[list[int]]]:
    """Generate a continuation of each document; return these and the real endings' tokens."""
    documents = documents_to_continue(context)
    first = [context.tokenizer.eot] if context.eot_first else []
    samples, endings = [], []
    bar = tqdm(documents, desc="generating", unit=" texts", disable=None, leave=False)
    for number, document in enumerate(bar):
        half = len(document) // 2
        samples += context.generate(first + document[:half], seed=context.seed + number)
        endings.append(document[half:][: context.max_new_tokens])
    return samples, endings


def documents_to_continue(context: EvalContext) -> list[list[int]]:
    """Read the first held-out documents that are long enough; raises UserError for fewer than 2."""
    count = context.num_samples
    if count < 2:
        raise UserError(f"num_samples={count}: must be at least 2, to compare texts to each other")
    documents = [d for d in context.documents("valid", 4 * count) if len(d) >= MIN_TOKENS][:count]
    if len(documents) < 2:
        raise UserError(
            f"{context.corpus.folder}: has fewer than 2 held-out documents of at least "
            f"{MIN_TOKENS} tokens; raise data.split, or leave bleu_rouge and memorisation out"
        )
    return documents
