"""BeCAM's masked passes, against the bare tower on batches of the same size in the same run.

    python benchmarks/bench_attribute.py                # the first 256 masks of one picture; minutes on one core
    python benchmarks/bench_attribute.py --masks 2048   # all of them: 768 in ViT-B/32, 2048 in RN50

On a GPU where there is one, else on one CPU thread, as the stage `attribute` runs. A whole picture takes as many masks
as the target layer has channels, whatever part of them is timed. Weights are random and pictures generated: neither
changes the time.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from befa.attribution.activations import maps
from befa.attribution.becam import through_maps
from befa.encoders import clip_model

ARCHITECTURES = ("ViT-B-32-quickgelu", "RN50-quickgelu")
BATCHES = (64, 256)


def seconds(device: str, function: Callable[..., object], *arguments: object) -> float:
    """Of one CPU thread, its own time, which other processes do not lengthen; of a GPU, the clock's."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    function(*arguments)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


@torch.no_grad()
def attribute(architecture: str, device: str, pictures: int, limit: int) -> None:
    model = clip_model.build(clip_model.model_config(architecture)).to(device).eval().requires_grad_(False)
    pixels_P3HW = torch.randn(pictures, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    maps_PKhw, _ = maps(model, pixels_P3HW)
    channels = maps_PKhw.shape[1]
    masks = min(limit, channels)
    print(f"\n{architecture}, {masks} of {channels} masks a picture, pictures: {pictures}", flush=True)
    for batch in BATCHES:
        whole_B3HW = pixels_P3HW[:1].repeat(min(batch, masks), 1, 1, 1)
        seconds(device, model.encode_image, whole_B3HW)  # the first call of a size is slow
        masked = bare = 0.0
        for pixels_3HW, maps_Khw in zip(pixels_P3HW, maps_PKhw[:, :masks], strict=True):
            for part_khw in maps_Khw.split(batch):
                # By turns: the machine may be faster now than later.
                masked += seconds(device, through_maps, model, pixels_3HW, part_khw, "unit", batch)
                bare += seconds(device, model.encode_image, whole_B3HW[: len(part_khw)])
        rate = pictures * masks / masked
        print(
            f"  batches of {batch:3d}: {rate:8.1f} masks/s, {rate / channels:.4f} pictures/s ({channels / rate:.1f} s "
            f"each); the bare tower {pictures * masks / bare:.1f}/s: {bare / masked:.0%} of it",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--masks", type=int, default=256, help="of each picture, at most")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(torch.cuda.get_device_name() if device == "cuda" else "one CPU thread")
    for architecture in ARCHITECTURES:
        attribute(architecture, device, arguments.pictures, arguments.masks)


if __name__ == "__main__":
    main()
