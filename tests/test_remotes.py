"""Features go through a DVC remote into another clone, which trains on them; what is damaged on the way is named.

Three remotes: a folder, SSH (a real sshd, started here with keys of its own) and S3, whose server is moto's: not a real
store, but the same protocol over real HTTP, in a process of its own.
"""

import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from befa.errors import DataError
from pipelines import graph
from pipelines.verify import verify
from tests.test_pipeline import ROOT, RUN_ALL, command, edit
from tests.toy_graph import initialised

pytestmark = pytest.mark.xdist_group("remotes")

CELL, RUN = "train@demo-clip_small-bm3-befa", "data/runs/demo/clip_small/bm3/befa"
STORE = "data/features/demo/clip_small/image.parquet"


def dvc(project, *words):
    return command(project, sys.executable, "-m", "dvc", *words)


def done(ran):
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A committed project of the tiny size: features and all that training needs are in DVC, the cell is not."""
    at = tmp_path_factory.mktemp("project")
    for name in ("befa", "pipelines", ".dvc/plots"):
        shutil.copytree(ROOT / name, at / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, at / name)
    shutil.move(at / ".dvc/plots", at / "plots")
    shutil.rmtree(at / ".dvc")
    initialised(at)
    shutil.move(at / "plots", at / ".dvc/plots")
    edit(at, "{size: demo, seed: 1}", "{size: tiny, seed: 1}")
    edit(at, "      epochs: 40", "      epochs: 1")
    edit(at, "    epochs: 1000\n    batch_size: 512", "    epochs: 2\n    batch_size: 512")
    edit(at, "max_missing: 0.05", "max_missing: 0.2")
    for file in ("params.yaml", "pipelines/cells.yaml"):
        prune(at / file)
    steps = done(command(at, sys.executable, "-c", RUN_ALL, CELL)).split()
    done(dvc(at, "commit", "--quiet", "--force", *steps[:-1]))
    commit(at, "features")
    return at


def prune(path):
    """Leaves one cell of the graph: DVC takes a second more for each command where there are hundreds."""
    # Comments stay in params.yaml alone: ruamel puts those behind a block that is emptied where YAML has none.
    yaml = YAML() if path.name == "params.yaml" else YAML(typ="safe")
    params = yaml.load(path)
    lists = ("encodings", "cells", "controls", "tune", "sensitivities", "attribute", "distributions")
    for block in ("datasets", "features", "train_befa", *lists):
        for name in list(params.get(block, ())):
            if name != "demo" and name != "demo-clip_small" and not CELL.endswith(f"@{name}"):
                del params[block][name]
    yaml.dump(params, path)


def commit(project, message):
    person = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done(command(project, "git", "add", "--all"))
    done(command(project, "git", *person, "commit", "--quiet", "--message", message))


@pytest.fixture(scope="module")
def needed(project):
    """Stages whose outputs training reads."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(project)
        stages = Repo().index.graph
        [cell] = [stage for stage in stages if stage.addressing == CELL]
        return sorted(stage.addressing for stage in stages.successors(cell))


class Remote:
    """Where objects go, and how to replace a single one there."""

    def __init__(self, name, url, folder, *, options=(), secrets=()):
        self.name, self.url, self.folder, self.options, self.secrets = name, url, folder, options, secrets

    def join(self, project):
        """What docs/operations.md says: the address for Git, the credentials for this clone alone."""
        done(dvc(project, "remote", "add", "--quiet", "--force", "--default", self.name, self.url))
        done(dvc(project, "remote", "modify", self.name, "verify", "true"))
        for key, value in self.options:
            done(dvc(project, "remote", "modify", self.name, key, value))
        self.log_in(project)

    def log_in(self, project):
        for key, value in self.secrets:
            done(dvc(project, "remote", "modify", "--local", self.name, key, value))

    def replace(self, name, data):
        path = self.folder / name
        path.unlink()
        path.write_bytes(data)
        path.chmod(0o444)  # as DVC leaves it: of one that can be written it would look at the checksum


class Bucket(Remote):
    def replace(self, name, data):
        self.folder.put_object(Bucket="bucket", Key=f"befa/{name}", Body=data)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def server(words, port, log):
    """A process that listens on a port of this machine."""
    with log.open("w") as out, subprocess.Popen(words, stdout=out, stderr=out) as process:
        try:
            for _ in range(300):
                assert process.poll() is None, log.read_text()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            else:
                raise AssertionError(f"nothing listens: {log.read_text()}")
            yield
        finally:
            process.terminate()


@contextmanager
def folder(at):
    yield Remote("folder", str(at / "store"), at / "store")


@contextmanager
def s3(at):
    port = free_port()
    with server([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, at / "moto.log"):
        endpoint = f"http://127.0.0.1:{port}"
        keys = {"aws_access_key_id": "ACCESS", "aws_secret_access_key": "SECRET"}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="bucket")
        secrets = [(key.removeprefix("aws_"), value) for key, value in keys.items()]
        yield Bucket("s3", "s3://bucket/befa", client, options=[("endpointurl", endpoint)], secrets=secrets)


@contextmanager
def ssh(at):
    binary = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        pytest.skip("sshd is not installed")
    with privilege_separation_folder():
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at / name], check=True)
        port = free_port()
        (at / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/key.pub\nPidFile none\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
            f"AllowUsers {getpass.getuser()}\nSubsystem sftp internal-sftp\n"
        )
        with server([binary, "-D", "-e", "-f", str(at / "sshd_config")], port, at / "sshd.log"):
            url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{at}/store"
            yield Remote("ssh", url, at / "store", secrets=[("keyfile", str(at / "key"))])


@contextmanager
def privilege_separation_folder():
    """sshd started by root wants this one, and has no option for another; the system's own service makes it too."""
    path = Path("/run/sshd")
    if os.getuid() != 0 or path.exists():
        yield
        return
    path.mkdir(mode=0o755)
    try:
        yield
    finally:
        path.rmdir()


@pytest.fixture(scope="module", params=[folder, s3, ssh], ids=lambda kind: kind.__name__)
def remote(request, project, needed, tmp_path_factory):
    """A remote that holds what training needs."""
    with request.param(tmp_path_factory.mktemp(request.param.__name__)) as found:
        found.join(project)
        commit(project, f"remote {found.name}")
        done(dvc(project, "push", *needed))
        yield found


@pytest.fixture
def clone(project, remote, tmp_path):
    """Another clone, with the remote's credentials and nothing else."""
    at = tmp_path / "clone"
    done(command(tmp_path, "git", "clone", "--quiet", str(project), str(at)))
    remote.log_in(at)
    return at


def object_of(project, path):
    """Name of a file's object, in remotes and caches alike."""
    checksum = hashlib.md5((project / path).read_bytes()).hexdigest()
    return f"files/md5/{checksum[:2]}/{checksum[2:]}"


def damaged(data):
    return data[:500] + bytes([data[500] ^ 1]) + data[501:]


def test_a_clone_without_raw_data_and_weights_trains_on_pulled_features_to_the_same_bytes(
    project, clone, remote, needed
):
    assert needed == [  # what docs/operations.md names
        *("code_train", "encode_images@demo-clip_small", "encode_texts@demo-clip_small"),
        *("filter@demo", "media@demo", "split@demo"),
    ]
    assert not (clone / "data").exists()
    assert all(value not in (clone / ".dvc/config").read_text() for _, value in remote.secrets)
    done(dvc(clone, "pull", *needed))
    for path in (STORE, STORE.replace("image", "text")):
        assert (clone / path).read_bytes() == (project / path).read_bytes()
    assert not (clone / "data/raw").exists()
    assert not (clone / "data/weights").exists()
    assert f"Running stage '{CELL}'" in done(dvc(clone, "repro", "--single-item", CELL))
    for name in ("checkpoints/1.safetensors", "history.csv", "config.json"):
        assert (clone / RUN / name).read_bytes() == (project / RUN / name).read_bytes()


def test_a_damaged_object_in_the_remote_is_named_and_not_taken(project, clone, remote):
    name, right = object_of(project, STORE), (project / STORE).read_bytes()
    remote.replace(name, damaged(right))
    try:
        ran = dvc(clone, "pull", "encode_images@demo-clip_small")
    finally:
        remote.replace(name, right)
    assert ran.returncode == 1
    assert f"Checkout failed for following targets:\n{STORE}" in ran.stderr
    assert not (clone / STORE).exists()
    done(dvc(clone, "pull", "encode_images@demo-clip_small"))
    assert (clone / STORE).read_bytes() == right


@pytest.fixture
def copied(project, tmp_path, monkeypatch):
    """The project with its cache, to be broken."""
    at = tmp_path / "copy"
    shutil.copytree(project, at)
    monkeypatch.chdir(at)
    return at


def test_a_damaged_object_in_the_cache_is_named_and_removed(project, copied):
    right, cached = (project / STORE).read_bytes(), copied / ".dvc/cache" / object_of(project, STORE)
    assert verify().objects >= 14
    cached.chmod(0o644)
    cached.write_bytes(damaged(right))
    cached.chmod(0o444)
    # What DVC does by itself: it takes the object, and is content.
    (copied / STORE).unlink()
    done(dvc(copied, "checkout", STORE))
    assert (copied / STORE).read_bytes() == damaged(right)
    assert graph.plan(["encode_images"]).steps == ()

    verify(["encode_texts@demo-clip_small"])
    with pytest.raises(DataError, match=rf"damaged in DVC's cache, and removed: {STORE} in .*; `dvc pull` brings"):
        verify(["encode_images"])
    # What a run makes again.
    assert not cached.exists()
    assert not (copied / STORE).exists()
    assert [step.name for step in graph.plan(["encode_images"]).steps] == ["encode_images@demo-clip_small"]

    [stage] = Repo().stage.collect("download@demo")
    listing = copied / ".dvc/cache/files/md5" / stage.outs[0].hash_info.value[:2] / stage.outs[0].hash_info.value[2:]
    listing.chmod(0o644)
    listing.write_bytes(listing.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"damaged in DVC's cache, and removed: data/raw/demo in "):
        verify()
