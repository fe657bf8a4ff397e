"""The suites of `python -m gptlab.evaluate`: each a function of a Subject, in a table."""

from collections.abc import Callable, Container, Iterator
from dataclasses import asdict
from functools import partial

from tqdm import tqdm

from gptlab.data.tokenizer import decode
from gptlab.data.toy import stories as toy_stories
from gptlab.evaluation import hellaswag as questions_of
from gptlab.evaluation.bleu_rouge import compare_continuations
from gptlab.evaluation.context import EvalContext
from gptlab.evaluation.hellaswag import HarnessQuestion, Question
from gptlab.evaluation.memorisation import measure_memorisation
from gptlab.evaluation.perplexity import bytes_of_tokens, score_documents
from gptlab.evaluation.results_store import Results
from gptlab.evaluation.text_quality import measure_text_quality, training_words
from gptlab.generation.engine import encode_prompt, generate_samples
from gptlab.generation.sample import GenerationRequest, Sample
from gptlab.model.loss import perplexity as exp_perplexity
from gptlab.utils.errors import UserError

BLOCK = 1 << 20  # tokens decoded at once


def perplexity(subject: EvalContext) -> Results:
    """Of every held-out split: each token once and weighted alike, with its standard error."""
    figures: Results = {}
    net = subject.model.net
    token_bytes = bytes_of_tokens(subject.model.tokenizer, net.config.vocab_size)
    for split in subject.corpus.splits:
        if split == "train":
            continue
        batches = subject.batches(split)
        ends = subject.corpus.ends(split)
        found = score_documents(net, batches, ends, token_bytes, subject.precision)
        subject.scored[split] = found
        figures[split] = {
            "loss": found.loss,
            "standard_error": found.standard_error(),
            "perplexity": exp_perplexity(found.loss),
            "bits_per_byte": found.bits_per_byte,
            "tokens": int(found.tokens.sum()),
            "documents": len(found.tokens),
            "perplexity_of_batch_means": exp_perplexity(found.batch_means),
        }
    return figures


def hellaswag(subject: EvalContext, style: type[Question] = Question) -> Results:
    """Four endings, one of them right; guessing is right in a quarter."""
    config = subject.config
    questions = questions_of.read_questions(config.hellaswag, subject.root / "raw", style)
    found = questions_of.answer_questions(
        *(subject.model.net, subject.model.tokenizer, questions),
        *(subject.precision, config.hellaswag.batch_size),
    )
    return found.figures() | {"chance": 0.25}


def continued(subject: EvalContext) -> tuple[list[list[int]], list[Sample]]:
    """Held-out documents, and what the model makes of the first half of each."""
    config, model = subject.config, subject.model
    documents = begun(subject)
    first = [model.tokenizer.eot] if model.eot_first else []
    samples = []
    told = tqdm(documents, desc="writing", unit=" texts", disable=None, leave=False)
    for number, document in enumerate(told):
        prompt = first + document[: len(document) // 2]
        request = GenerationRequest(
            *(model.net, model.tokenizer, prompt, config.sampling),
            max_new_tokens=config.max_new_tokens,
            seed=config.seed + number,
        )
        samples += generate_samples(request)
    return documents, samples


def overlap(subject: EvalContext) -> Results:
    """Continuations of held-out documents beside their real endings."""
    documents, samples = continued(subject)
    tokenizer, most = subject.model.tokenizer, subject.config.max_new_tokens
    real = [decode(tokenizer, d[len(d) // 2 :][:most]) for d in documents]
    found = compare_continuations([sample.text for sample in samples], real)
    return {"n": len(real)} | {name: asdict(each) for name, each in found.items()}


def memorisation(subject: EvalContext) -> Results:
    """Verbatim runs of the training text in continuations, and in as much real held-out text."""
    documents, samples = continued(subject)
    most = subject.config.max_new_tokens
    texts = {
        "written": [sample.new_tokens for sample in samples],
        "held_out": [d[len(d) // 2 :][:most] for d in documents],
    }
    figures: Results = {"n": len(documents)}
    for name, each in texts.items():
        found = measure_memorisation(subject.corpus.tokens("train"), each)
        shares = {f"{n}_grams": share for n, share in found.grams.items()}
        figures[name] = {"longest": found.longest, "mean_longest": found.mean_longest, **shares}
    return figures


def stories(subject: EvalContext) -> Results:
    """Texts from their first word on: varied, well-formed, at an end; beside real ones."""
    config, model = subject.config, subject.model
    prompt = encode_prompt(model.tokenizer, config.prompt or "", model.eot_first)
    request = GenerationRequest(
        *(model.net, model.tokenizer, prompt, config.sampling),
        num_samples=config.num_samples,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    samples = generate_samples(request, progress_label="stories")
    known = training_words(training_text(subject))
    of_grammar = subject.data.source == "toy_stories" and subject.data.path is None
    log_probability = toy_stories.log_probability if of_grammar else None
    written = [(config.prompt or "") + sample.text for sample in samples]
    ended = [sample.finish_reason == "end_of_text" for sample in samples]
    documents = subject.documents("valid", config.num_samples)
    real = [decode(model.tokenizer, document) for document in documents]
    return {
        "written": asdict(measure_text_quality(written, ended, known, log_probability)),
        "held_out": asdict(measure_text_quality(real, [True] * len(real), known, log_probability)),
    }


def training_text(subject: EvalContext) -> Iterator[str]:
    """The training documents, some at a time."""
    stream, ends = subject.corpus.tokens("train"), subject.corpus.ends("train")
    begin = 0
    while begin < len(stream):
        behind = ends[ends > min(begin + BLOCK, int(ends[-1]) - 1)]
        end = int(behind[0])
        yield decode(subject.model.tokenizer, stream[begin:end].tolist())
        begin = end


SUITES: dict[str, Callable[[EvalContext], Results]] = {
    "perplexity": perplexity,
    "hellaswag": hellaswag,
    "hellaswag_harness": partial(hellaswag, style=HarnessQuestion),
    "overlap": overlap,
    "memorisation": memorisation,
    "stories": stories,
}
WITHOUT_TEXT = {"hellaswag", "hellaswag_harness"}  # these need no corpus
CONTINUING = {"overlap", "memorisation"}


def check_suites(subject: EvalContext, chosen: Container[str]) -> None:
    """Raises UserError for what would stop a suite, before any is begun."""
    config = subject.config
    for name, style in (("hellaswag", Question), ("hellaswag_harness", HarnessQuestion)):
        if name in chosen:
            questions = questions_of.read_questions(config.hellaswag, subject.root / "raw", style)
            try:
                questions_of.sequences(questions, subject.model.tokenizer, 1)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
    if any(name in chosen for name in CONTINUING):
        if config.num_samples < 2:
            raise UserError(
                "num_samples: must be at least 2, as texts are compared with each other's"
            )
        begun(subject)
    if "perplexity" in chosen:
        subject.batches("valid")


def begun(subject: EvalContext) -> list[list[int]]:
    """Held-out documents to go on from; raises UserError if there are too few."""
    most = subject.config.num_samples
    found = [d for d in subject.documents("valid", 4 * most) if len(d) >= 8][:most]
    if len(found) < 2:
        raise UserError("suite: too few held-out documents of eight tokens and more")
    return found
