"""The run's device computes what the CPU computes, or the run says so."""

from types import SimpleNamespace

import pytest
import torch

from gptlab.config.schema import TrainerConfig
from gptlab.model.gpt import GPT
from gptlab.training import device_check
from gptlab.training.device_check import check_device
from gptlab.utils import device
from gptlab.utils.errors import UserError
from tests.conftest import TINY
from tests.training.test_preflight import net

IDS = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(0))
BATCH = {"input": IDS[:, :-1], "target": IDS[:, 1:]}


def plan(accelerator: str, precision: str = "32-true", world_size: int = 1) -> SimpleNamespace:
    shape = SimpleNamespace(world_size=world_size)
    return SimpleNamespace(accelerator=accelerator, precision=precision, shape=shape)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A GPU that is the CPU, but multiplies its loss and a third of its gradient by factors."""
    real, errors = device_check.loss_and_gradient, {"loss": 1.0, "gradient": 1.0}

    def compute(model: GPT, batch, name: str, precision: str):
        loss, gradient = real(model, batch, "cpu", precision)
        if name != "cpu":
            loss *= errors["loss"]
            gradient[: len(gradient) // 3] *= errors["gradient"]
        return loss, gradient

    monkeypatch.setattr(device_check, "loss_and_gradient", compute)
    return errors


@pytest.mark.fast
def test_a_device_that_agrees_is_kept(fake_gpu) -> None:
    model, gpu_plan = net(), plan("mps")
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    check = check_device(model, BATCH, gpu_plan, TrainerConfig())
    assert check.passed and "mps 32-true agrees with the CPU" in check.result
    assert gpu_plan.accelerator == "mps"
    assert all(weights[name].equal(weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert check_device(model, BATCH, plan("cpu"), TrainerConfig()) is None
    check = check_device(model, BATCH, plan("cpu", "bf16-mixed"), TrainerConfig())
    assert check.passed and "cpu bf16-mixed agrees" in check.result


@pytest.mark.fast
@pytest.mark.parametrize("error", [{"loss": 1.02}, {"gradient": 1.1}, {"gradient": 0.0}])
@pytest.mark.parametrize("accelerator", ["mps", "cuda"])
def test_a_device_that_computes_wrongly_is_left_or_refused(
    fake_gpu, capsys, accelerator: str, error: dict[str, float]
) -> None:
    """Also if only the gradient is wrong."""
    fake_gpu.update(error)
    auto = plan(accelerator)
    assert check_device(net(), BATCH, auto, TrainerConfig()) is None
    assert (auto.accelerator, auto.precision) == ("cpu", "32-true")
    line = capsys.readouterr().err
    assert "training on the CPU" in line and line.count("\n") == 1
    for settings, gpu_plan in (
        (TrainerConfig(accelerator=accelerator), plan(accelerator)),
        (TrainerConfig(devices=2), plan(accelerator, world_size=2)),
    ):
        with pytest.raises(UserError, match=f"accelerator={accelerator}: its results differ"):
            check_device(net(), BATCH, gpu_plan, settings)


def fail_with(error: Exception, monkeypatch) -> None:
    """Let the device fail in its first computation."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(device_check, "loss_and_gradient", fail)


@pytest.mark.fast
def test_an_operation_that_a_device_lacks_is_one_line(fake_gpu, monkeypatch, capsys) -> None:
    error = NotImplementedError("The operator 'aten::x' is missing\nfor MPS")  # as torch raises it
    fail_with(error, monkeypatch)
    auto = plan("mps")
    assert check_device(net(), BATCH, auto, TrainerConfig()) is None
    assert auto.accelerator == "cpu" and "aten::x" in capsys.readouterr().err


@pytest.mark.fast
def test_a_gpu_without_memory_is_left_on_a_mac_and_retried_elsewhere(monkeypatch, capsys) -> None:
    fail_with(RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes)"), monkeypatch)
    auto = plan("mps")
    assert check_device(net(), BATCH, auto, TrainerConfig()) is None
    assert auto.accelerator == "cpu" and "out of memory" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="out of memory"):
        check_device(net(), BATCH, plan("cuda"), TrainerConfig())


@pytest.mark.fast
def test_a_large_model_is_checked_on_fewer_tokens_but_never_on_a_prompt_alone(monkeypatch) -> None:
    assert device_check.small_batch(net(), BATCH)[0].shape == (4, 16)
    monkeypatch.setattr(device_check, "CHECK_OPERATIONS", 1)
    long = {name: ids.repeat(1, 3) for name, ids in BATCH.items()}
    assert device_check.small_batch(net(), long)[0].shape == (1, 16)
    long["target"][:, :40] = device_check.IGNORE_INDEX
    assert device_check.small_batch(net(), long)[1].shape == (1, 48)


@pytest.mark.fast
def test_only_a_large_step_goes_to_an_apple_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "mps_is_available", lambda: True)
    many, few = device.MIN_MPS_OPERATIONS, device.MIN_MPS_OPERATIONS - 1
    assert device.resolve_accelerator("auto", operations=many) == "mps"
    assert device.resolve_accelerator("auto", operations=few) == "cpu"
    for name in ("mps", "gpu"):
        assert device.resolve_accelerator(name, operations=few) == "mps"
    assert device.resolve_precision("auto", "mps") == "32-true"
    with pytest.raises(UserError, match="needs CUDA"):
        device.resolve_precision("16-mixed", "mps")


def test_a_small_run_on_a_mac_trains_and_generates_on_the_cpu(command, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    result = command("train", *TINY, "profile=smoke", "trainer.max_steps=1")
    assert result.code == 0, result.err
    assert "device     CPU" in result.out and "trainer.accelerator=mps" in result.out
    assert command("generate", "prompt=Once", "max_new_tokens=1").code == 0
