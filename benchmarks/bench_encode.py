"""Encoding and the feature store, against bounds that are measured in the same run.

    python benchmarks/bench_encode.py            # all that this machine has; about 7 minutes on two cores
    python benchmarks/bench_encode.py --help

On the CPU (one thread for the tower, as the stages run): the end-to-end rate from JPEG files, against the forward pass
alone on the same batch shape; texts cut at fixed lengths, against the full context; a second run after 1 % of the
pictures changed, against the first. On a GPU: ViT-B/32 and ViT-H/14 from decoded input and from JPEG files, as shares
of the card's measured bf16 matrix rate and of the decode limit. Weights are random and pictures generated: neither
changes the time.
"""

import argparse
import dataclasses
import io
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from befa import config, features, tables
from befa.encoders import clip_model
from befa.encoders.clip_config import OpenClipConfig
from befa.encoders.open_clip import OpenClipEncoder
from befa.encoding import LocalEngine
from befa.feature_store import FeatureStore, schema, vector_column
from befa.images import ImageFiles, decode

ROOT = Path(__file__).parents[1]
NAMED = {"dataset": "bench", "encoder_name": "clip"}
GFLOP = {"ViT-B-32-quickgelu": (8.8, 6.0), "ViT-H-14": (335.0, 47.0)}
"""Of a picture and of a text of 77 tokens."""
WORDS = "cotton dress with long sleeves and a round neck in soft jersey printed stripes blue red wide fit"


def encoder(architecture: str | None, *, device: str = "cpu", precision: str = "fp32") -> OpenClipEncoder:
    """A CLIP with random weights; None: the demo's small one."""
    if architecture is None:
        params = config.read_params(ROOT / "params.yaml")
        architecture = config.load(params, "encoders.clip_small", OpenClipConfig).architecture
    description = clip_model.model_config(architecture)
    model = clip_model.build(description)
    preprocessing = clip_model.preprocess_config({}, model)
    return OpenClipEncoder(model, description, preprocessing, precision=precision, device=device)


def jpeg(seed: int, width: int, height: int) -> bytes:
    """A picture as smooth and as detailed as a photograph, in a file of about its size."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = (smooth + rng.integers(-12, 13, smooth.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def archive(path: Path, pictures: int, width: int, height: int, changed: int = 0) -> pa.Table:
    """Writes a zip of pictures, the first `changed` of them others than without; its item table."""
    with zipfile.ZipFile(path, "w") as file:
        for number in range(pictures):
            file.writestr(f"{number}.jpg", jpeg(number + (10**6 if number < changed else 0), width, height))
    names = [f"{path.name}/{number}.jpg" for number in range(pictures)]
    return pa.table({"item": [f"{number:06d}" for number in range(pictures)], "image": names})


def titles(count: int) -> pa.Table:
    """As long as H&M's: 8 to 40 words."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS.split(), rng.integers(8, 41))) + f" {number}" for number in range(count)]
    return pa.table({"item": [f"{number:06d}" for number in range(count)], "text": texts})


def seconds(function: Callable[[], object], device: str = "cpu", repeat: int = 1) -> float:
    """The least of `repeat` times."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def encode(path: Path, items: pa.Table, engine: LocalEngine, modality: str) -> features.Outcome:
    return features.encode(path, items, engine, modality=modality, **NAMED)


def images_on_cpu(folder: Path, name: str | None, pictures: int, size: tuple[int, int], batch: int) -> None:
    network, path = encoder(name), folder / "store.parquet"
    items = archive(folder / "a.zip", pictures, *size)
    files = ImageFiles(folder)
    pixels = torch.stack([network.pixels(decode(files.read(ref))) for ref in items["image"].to_pylist()[:batch]])
    network.encode_images(pixels)  # the first call allocates
    print(f"\n{name or 'the CLIP of the demo'}, {pictures:,} JPEG files of {size[0]} x {size[1]}, batches of {batch}")
    full = 0.0
    for workers, rows in ((0, items.slice(0, max(pictures // 5, 2 * batch))), (None, items)):
        batches = -(-len(rows) // batch)
        # The machine is noisy: the bound is taken before and after, on as many batches as take a few seconds.
        forward = [per_batch(network, pixels)]
        path.unlink(missing_ok=True)
        engine = LocalEngine(network, "image", files, batch_size=batch, workers=workers)
        speed = encode(path, rows, engine, "image").speed
        forward.append(per_batch(network, pixels))
        full, bound = speed.seconds, batches * sum(forward) / 2
        reading = "by this process" if workers == 0 else "by other processes"
        print(
            f"  end to end, read {reading:19s}{len(rows) / speed.seconds:8.1f} pictures/s; forward alone "
            f"{batch / forward[0]:.1f} before, {batch / forward[1]:.1f} after: {bound / speed.seconds:.1%} of it"
        )
        print(
            f"    {speed.seconds:.1f} s: the tower {speed.tower_seconds:.1f}, saving {speed.write_seconds:.2f}; "
            f"beside it, reading {speed.read_seconds:.1f}"
        )
    changed = max(1, pictures // 100)
    items = archive(folder / "a.zip", pictures, *size, changed=changed)
    engine = LocalEngine(network, "image", ImageFiles(folder), batch_size=batch, workers=None)
    outcome = encode(path, items, engine, "image")
    assert outcome.counts["encoded"] == changed, outcome.counts
    again = outcome.speed.seconds
    print(f"  again, {changed} changed ({changed / pictures:.1%}): {again:.2f} s, {again / full:.2%} of the full run")


def per_batch(network: OpenClipEncoder, pixels: torch.Tensor) -> float:
    """Seconds of the forward pass alone: the mean over at least three batches and four seconds."""
    start, batches = time.perf_counter(), 0
    while batches < 3 or time.perf_counter() - start < 4:
        network.encode_images(pixels)
        batches += 1
    return (time.perf_counter() - start) / batches


def texts_on_cpu(folder: Path, name: str | None, texts: int, batch: int) -> None:
    network, items = encoder(name), titles(texts)
    tokens = network.tokenize(items["text"].to_pylist())[0]

    def forward() -> None:
        for part in tokens.split(batch):
            network.encode_texts(part)

    bound = seconds(forward)
    engine = LocalEngine(network, "text", batch_size=batch, workers=None)
    speed = encode(folder / "t.parquet", items, engine, "text").speed
    print(f"\n{name or 'the demo CLIP'}, {texts:,} texts of 8 to 40 words")
    print(f"  forward alone, full context {texts / bound:9.1f} texts/s")
    print(f"  end to end, cut             {texts / speed.seconds:9.1f} texts/s   {bound / speed.seconds:.2f} times")


def store(folder: Path) -> None:
    n, d = 100_000, 512
    x_Id = np.random.default_rng(0).standard_normal((n, d), np.float32)
    ids = [f"{number:010d}" for number in range(n)]
    table = pa.table(
        {
            "item": ids,
            "vector": vector_column(x_Id, np.ones(n, bool)),
            "status": ["ok"] * n,
            "reason": pa.nulls(n, pa.string()),
            "source_sha256": [f"{number:064x}" for number in range(n)],
        },
        schema=schema("image", d),
    )
    path = folder / "store.parquet"
    metadata = {"schema_version": features.SCHEMA_VERSION, "dimension": str(d), "modality": "image", "dataset": "bench"}
    metadata["encoder"] = "clip"
    write = seconds(lambda: tables.write_table(path, table, metadata, plain=("vector",)), repeat=5)
    opened = lambda: FeatureStore.open(path, dataset="bench", encoder="clip", modality="image")  # noqa: E731
    read = seconds(opened, repeat=5)
    found = opened()
    aligned = seconds(lambda: found.aligned(ids, max_missing=0.0), repeat=5)
    raw = seconds(lambda: (folder / "raw").write_bytes(x_Id.data), repeat=5)
    print(f"\nStore of {n:,} x {d} ({path.stat().st_size / 1e6:.0f} MB)")
    print(f"  written {write:.3f} s (with fsync), read {read:.3f} s; joined by id and checked {aligned:.3f} s")
    print(f"  the same bytes to a file, without fsync: {raw:.3f} s")


def on_gpu(folder: Path) -> None:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    seconds(lambda: a @ a, "cuda", repeat=3)
    rate = 2 * 8192**3 / seconds(lambda: a @ a, "cuda", repeat=10) / 1e12
    print(f"\n{torch.cuda.get_device_name()}: bf16 matrix products {rate:.0f} TFLOP/s, {os.cpu_count()} CPUs")
    for name, batch in (("ViT-B-32-quickgelu", 512), ("ViT-H-14", 128)):
        network = encoder(name, device="cuda", precision="bf16")
        pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8).pin_memory()
        tokens = network.tokenize(titles(batch)["text"].to_pylist())[0]
        for what, call, gflop in (
            ("pictures", lambda network=network, pixels=pixels: network.encode_images(pixels), GFLOP[name][0]),
            ("texts of 77 tokens", lambda network=network, tokens=tokens: network.encode_texts(tokens), GFLOP[name][1]),
        ):
            seconds(call, "cuda", repeat=3)
            speed = batch / seconds(call, "cuda", repeat=10)
            print(f"  {name}: {speed:,.0f} {what}/s decoded, {speed * gflop / 1e3 / rate:.1%} of the matrix rate")
        pictures = 20_000 if name.startswith("ViT-B") else 4_000
        items = archive(folder / "g.zip", pictures, 500, 750)
        engine = LocalEngine(network, "image", ImageFiles(folder), batch_size=batch, workers=None)
        outcome = encode(folder / f"{name}.parquet", items, engine, "image")
        report = outcome.speed.report()
        limit = report["read_per_second"] * (os.cpu_count() - 1)
        print(
            f"  {name}: {report['items_per_second']:,.0f} pictures/s from JPEG files of 500 x 750; decoding limit "
            f"{limit:,.0f}/s"
        )
        print(f"    {dataclasses.asdict(outcome.speed)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1600, help="for ViT-B/32 on the CPU (about 8 a second)")
    parser.add_argument("--small", type=int, default=10_000, help="for the demo's CLIP on the CPU")
    parser.add_argument("--texts", type=int, default=640)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store(Path(folder))
    if torch.cuda.is_available():
        with tempfile.TemporaryDirectory() as folder:
            on_gpu(Path(folder))
    else:
        print("\nno GPU: its part is left out")
    with tempfile.TemporaryDirectory() as folder:
        images_on_cpu(Path(folder), "ViT-B-32-quickgelu", arguments.pictures, (500, 750), 32)
    with tempfile.TemporaryDirectory() as folder:
        images_on_cpu(Path(folder), None, arguments.small, (128, 128), 64)
    with tempfile.TemporaryDirectory() as folder:
        texts_on_cpu(Path(folder), "ViT-B-32-quickgelu", arguments.texts, 64)


if __name__ == "__main__":
    main()
