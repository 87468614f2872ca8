"""What befa.devices does to the process that asks for it."""

import os
import platform
import subprocess
import sys

import pytest
import torch

import befa
from befa.devices import device_for
from befa.errors import ConfigError

PROGRAM = """
import resource, sys, torch
from befa.devices import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def steps(n):
    for _ in range(n):
        # 36 MB: more than glibc keeps by itself.
        gradients = [torch.zeros(n) for n in (9_000_000, 3_000_000, 9_000_000)]

steps(30)
before = faults()
steps(60)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_used_again():
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)
        for how in ("given back", "kept")
    )
    assert kept < given_back / 10


def test_a_gpu_that_torch_was_not_built_for_is_told_before_it_is_used(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "sm_100", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert device_for("cpu") == device_for("auto") == "cpu"
    assert "was not built for Tesla V100 (compute capability 7.0): the CPU is used" in caplog.text
    with pytest.raises(ConfigError, match=r"not built for Tesla V100 .*; take device auto or cpu, or install"):
        device_for("cuda")
    for newer in ((7, 5), (9, 0), (13, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda newer=newer: newer)
        assert device_for("auto") == device_for("cuda") == "cuda"


@pytest.mark.skipif("avx512f" not in befa._flags(), reason="no CPU with AVX-512")
@pytest.mark.parametrize(("set_by_user", "used"), [(None, "AVX2"), ("avx512", "AVX512"), ("default", "DEFAULT")])
def test_sums_are_of_one_order_on_any_x86_unless_a_user_wishes_otherwise(set_by_user, used):
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    environment |= {"ATEN_CPU_CAPABILITY": set_by_user} if set_by_user else {}
    program = "import befa, os, torch; print(torch.backends.cpu.get_cpu_capability(), os.environ['ONEDNN_MAX_CPU_ISA'])"
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"{used} AVX2"
