"""Speed up training on a CPU (optional): compile the step, run Lightning's loop in fewer calls.

Both need private names of torch and Lightning. A version without them trains in the ordinary way.
"""

from lightning.pytorch import Trainer

from gptlab.config.schema import TrainerConfig
from gptlab.model.gpt import GPT
from gptlab.training.fast.compiled_step import CompiledStep, resolve_compile_mode
from gptlab.training.run_plan import RunPlan
from gptlab.utils.console import print_status


def compile_training(settings: TrainerConfig, plan: RunPlan, net: GPT) -> CompiledStep | None:
    """Apply trainer.compile, and store the mode in the plan; return a step to compile, if any."""
    plan.compile = resolve_compile_mode(settings, plan, net)
    if plan.compile == "model":
        net.compile()  # in place: torch.compile(net) would rename every weight
    return CompiledStep(net, plan.precision) if plan.compile == "step" else None


def use_fast_loop(trainer: Trainer) -> None:
    """Replace the Trainer's loop; keep Lightning's if it has changed."""
    try:
        from gptlab.training.fast.fast_loop import FastLoop

        loop = FastLoop(trainer, trainer.min_steps, trainer.max_steps)
    except (ImportError, AttributeError) as error:
        print_status(f"trainer.fast_loop is off (slower, with the same result): {error}")
    else:
        trainer.fit_loop.epoch_loop = loop
