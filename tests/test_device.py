"""Device profiles: complete, sourced, and honest about bounds."""

import sys
import typing

import pytest
from pydantic import ValidationError

from pocketlm.device import (
    THIS_MACHINE,
    Compute,
    Device,
    Quantity,
    Source,
    available_cores,
    list_devices,
    load_device,
    measure_this_machine,
    memory_bytes,
    predict_decode_tokens_per_s,
)
from pocketlm.errors import RecipeError
from pocketlm.units import MIB

PROFILES = [name for name in list_devices() if name != THIS_MACHINE]


def test_the_six_devices_are_there() -> None:
    assert list_devices() == (
        "android-4gb",
        "android-8gb",
        "iphone",
        "laptop-cpu",
        "raspberry-pi-5",
        "this-machine",
    )


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_named_like_its_file_and_possible(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.usable_memory_bytes < device.memory_bytes
    compute = device.compute
    assert compute.fp16
    assert compute.int8
    assert compute.fp32 <= compute.fp16 <= compute.int8


@pytest.mark.parametrize("name", PROFILES)
def test_every_number_has_exactly_one_source(name: str) -> None:
    named = [quantity for source in load_device(name).sources for quantity in source.of]
    assert sorted(named) == sorted(typing.get_args(Quantity))


@pytest.mark.parametrize("name", PROFILES)
def test_published_profiles_claim_no_measurement(name: str) -> None:
    assert all(source.how != "measured" for source in load_device(name).sources)


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"device = 'iphne'.*did you mean 'iphone'"):
        load_device("iphne")


def test_a_device_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_device("iphone").cores = 12


def test_decode_bound_is_bandwidth_over_bytes() -> None:
    device = _device(memory_bandwidth=17e9)
    assert predict_decode_tokens_per_s(device, 17_000_000) == pytest.approx(1000)
    assert predict_decode_tokens_per_s(device, 34_000_000) == pytest.approx(500)


def test_this_machine_is_measured_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketlm.device._COPY_BYTES", 8 * MIB)
    monkeypatch.setattr("pocketlm.device._MATMUL_WIDTH", 256)
    before = set(sys.modules)
    device = measure_this_machine(seconds=0.05)
    assert "torch" not in set(sys.modules) - before
    assert device.name == THIS_MACHINE
    # Any machine that can run the tests lies between these.
    assert 1e8 < device.memory_bandwidth < 1e13
    assert 1e8 < device.compute.fp32 < 1e15
    assert device.compute.int8 is None, "not measured, so not claimed"
    assert device.cores == available_cores() >= 1
    assert device.memory_bytes == memory_bytes() > 1e8


def test_this_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import pocketlm.device

    calls: list[None] = []

    def measure() -> Device:
        calls.append(None)
        return _device(memory_bandwidth=1e9)

    monkeypatch.setattr(pocketlm.device, "measure_this_machine", measure)
    pocketlm.device._this_machine_once.cache_clear()
    assert load_device(THIS_MACHINE) is load_device(THIS_MACHINE)
    pocketlm.device._this_machine_once.cache_clear()
    assert len(calls) == 1


def _device(*, memory_bandwidth: float) -> Device:
    return Device(
        name="x",
        kind="board",
        model="made up",
        cores=1,
        memory_bytes=2,
        usable_memory_bytes=1,
        memory_bandwidth=memory_bandwidth,
        compute=Compute(fp32=1.0),
        sources=(Source(of=("cores",), how="estimate", text="made up"),),
    )
