"""Speed up training on a CPU (optional): compile the step, run Lightning's loop in fewer calls."""

from lightning.pytorch import Trainer

from gptlab.config.schema import TrainerConfig
from gptlab.model.gpt import GPT
from gptlab.training.fast.compiled_step import CompiledStep, resolve_compile_mode
from gptlab.training.fast.fast_loop import FastLoop
from gptlab.training.run_plan import RunPlan


def compile_training(settings: TrainerConfig, plan: RunPlan, net: GPT) -> CompiledStep | None:
    """Apply trainer.compile, and store the mode in the plan; return a step to compile, if any."""
    plan.compile = resolve_compile_mode(settings, plan, net)
    if plan.compile == "model":
        net.compile()  # in place: torch.compile(net) would rename every weight
    return CompiledStep(net, plan.precision) if plan.compile == "step" else None


def use_fast_loop(trainer: Trainer) -> None:
    trainer.fit_loop.epoch_loop = FastLoop(trainer, trainer.min_steps, trainer.max_steps)
