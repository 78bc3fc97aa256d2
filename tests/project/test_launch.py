"""The launch files: read by the tools they are for, and their command lines run with two processes on the CPU."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

sys.path.append(str(Path(__file__).parents[1] / "distributed"))
from launched import (
    QUICK,
    ROOT,
    TORCHRUN,
    TWO_RANKS,
    last_step,
    launch,
    metrics,
    saved_steps,
    wait_for,
    write_pictures,
)
from linters import checked, tool

LAUNCH, DOCKER = ROOT / "launch", ROOT / "docker"
JOB, TRAIN_JOB = LAUNCH / "kubernetes-job.yaml", LAUNCH / "kubeflow-trainjob.yaml"
CONFIGS = sorted(set(LAUNCH.glob("*.yaml")) - {JOB, TRAIN_JOB})
PROCESSES = {"cpu": 1, "cpu_many": 2, "gpu": 1, "gpu_8": 8, "two_nodes": 16}


def test_there_is_a_configuration_for_each_kind_of_machine() -> None:
    assert [path.stem for path in CONFIGS] == list(PROCESSES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration(path: Path) -> None:
    keys = yaml.safe_load(path.read_text()).keys()
    assert keys <= ClusterConfig.__dataclass_fields__.keys()

    config = load_config_from_file(str(path))

    assert config.mixed_precision == "no", "precision is the plan's"
    assert config.use_cpu == path.stem.startswith("cpu")
    assert config.num_processes == PROCESSES[path.stem]
    assert config.num_machines == (2 if path.stem == "two_nodes" else 1)


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.[ys]*")), ids=lambda path: path.stem)
def test_the_readme_shows_the_file(path: Path) -> None:
    assert f"launch/{path.name}" in (LAUNCH / "README.md").read_text()


def test_the_slurm_script_is_sound() -> None:
    checked("bash", "-n", LAUNCH / "slurm.sbatch")
    checked(tool("shellcheck"), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run")


def test_kubernetes_knows_every_field_of_the_job() -> None:
    checked(tool("kubernetes-validate"), "--strict", JOB)


def test_kubeflow_knows_every_field_of_the_train_job() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    written = yaml.safe_load(TRAIN_JOB.read_text())
    read = models.TrainerV1alpha1TrainJob.from_dict(written)
    assert json.loads(read.to_json()) == written, "a field it doesn't know is left out"


def test_the_images_pass_the_linter() -> None:
    checked(tool("hadolint"), *sorted(DOCKER.glob("Dockerfile.*")))


def accelerate() -> tuple[str, ...]:
    return sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "cpu_many.yaml")


def pod(index: int = 0, pods: int = 1, processes: int = 2, port: int = 29873) -> tuple[str, ...]:
    """The container's command up to the script, as Kubernetes fills it in for a pod, on this machine without GPUs."""
    _, job = yaml.safe_load_all(JOB.read_text())
    program, *options = job["spec"]["template"]["spec"]["containers"][0]["command"]
    here = {"--nnodes=2": f"--nnodes={pods}", "--nproc-per-node=8": f"--nproc-per-node={processes}"}
    here["--node-rank=$(JOB_COMPLETION_INDEX)"] = f"--node-rank={index}"
    here |= {
        "--master-addr=fastdcgan-0.fastdcgan": "--master-addr=localhost",
        "--master-port=29500": f"--master-port={port}",
    }
    assert program == "torchrun" and here.keys() <= set(options)
    return *TORCHRUN, *(here.get(option, option) for option in options[: options.index("/app/train.py")])


def kubernetes() -> tuple[str, ...]:
    return pod()


def kubeflow() -> tuple[str, ...]:
    """What the TrainJob runs, in the environment that Kubeflow Trainer gives it."""
    trainer = yaml.safe_load(TRAIN_JOB.read_text())["spec"]["trainer"]
    assert trainer["command"] == ["torchrun"] and trainer["args"][0] == "/app/train.py"
    environment = {"NNODES": 1, "NPROC_PER_NODE": 2, "NODE_RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": 29871}
    return "env", *(f"PET_{name}={value}" for name, value in environment.items()), *TORCHRUN


def test_pods_are_found_by_the_name_of_the_service() -> None:
    service, job = yaml.safe_load_all(JOB.read_text())
    names = service["metadata"]["name"], job["spec"]["template"]["spec"]["subdomain"]
    assert names == (job["metadata"]["name"],) * 2 and job["spec"]["completionMode"] == "Indexed"
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--master-addr={first}" in command
    assert (
        f"--nnodes={job['spec']['completions']}" in command and job["spec"]["parallelism"] == job["spec"]["completions"]
    )


@pytest.mark.slow
def test_two_pods_train_together(tmp_path: Path) -> None:
    """An agent each, as in two pods: had they not found each other, each would write a run of its own."""
    photos, out = write_pictures(tmp_path / "photos"), tmp_path / "run"
    command = ("--data", photos, "--out", out, *QUICK, "--images", 24, "--log-every", 1, "--checkpoint-every", 3)
    pods = [launch(*command, launcher=pod(index, pods=2, processes=1, port=29875)) for index in (1, 0)]
    ended = [running.ended() for running in pods]
    assert [code for code, _ in ended] == [0, 0], ended
    assert json.loads((out / "config.json").read_text())["conditions"]["processes"] == 2
    assert [record["step"] for record in metrics(out)] == [1, 2, 3]


def alone() -> tuple[str, ...]:
    return sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "cpu.yaml")


def torchrun() -> tuple[str, ...]:
    return TWO_RANKS


LAUNCHERS = {alone: 1, torchrun: 2, accelerate: 2, kubernetes: 2, kubeflow: 2}
"""How many processes each starts here."""


@pytest.mark.parametrize(
    "launcher",
    [alone, torchrun, *(pytest.param(other, marks=pytest.mark.slow) for other in (accelerate, kubernetes, kubeflow))],
    ids=lambda launcher: launcher.__name__,
)
def test_processes_train_together(launcher: Callable[[], tuple[str, ...]], tmp_path: Path) -> None:
    """Three steps of 8 images. Had the processes not found each other, each would write a run of its own there."""
    photos, out, processes = write_pictures(tmp_path / "photos"), tmp_path / "run", LAUNCHERS[launcher]
    options = ("--images", 24, "--log-every", 1, "--checkpoint-every", 3)

    code, said = launch("--data", photos, "--out", out, *QUICK, *options, launcher=launcher()).ended()

    assert code == 0, said
    assert said.count("Done.") == 1, said
    assert json.loads((out / "config.json").read_text())["conditions"]["processes"] == processes
    assert [path.name for path in tmp_path.rglob("metrics.jsonl")] == ["metrics.jsonl"]
    assert [(record["step"], record["images"]) for record in metrics(out)] == [(1, 8), (2, 16), (3, 24)]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    logs = [f"rank-{rank}.log" for rank in range(1, processes)]
    assert [path.name for path in out.glob("logs/*")] == logs
    for name in logs:
        assert "rank 1 of 2 on " in (out / "logs" / name).read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Slurm's script is for Linux")
@pytest.mark.parametrize("told", ["the script", pytest.param("the processes alone", marks=pytest.mark.exhaustive)])
def test_a_preempted_slurm_job_saves_and_is_queued_again(told: str, tmp_path: Path) -> None:
    """With stand-ins for srun and scontrol: one machine, two processes."""
    when = "2026-11-22T12:00:00" if told == "the processes alone" else "None"
    job = f"JobId=7\n   PreemptEligibleTime=2026-11-22T11:00:00 PreemptTime={when}"
    programs = {
        "srun": f'echo $$ > {tmp_path}/srun.txt; [ "$1" = --kill-on-bad-exit=1 ] && shift; exec "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "scontrol": f"""case "$1 $2" in
            "show hostnames") echo localhost;;
            "show job") echo "{job}";;
            *) echo "$@" >> {tmp_path}/scontrol.txt;;
        esac""",
    }
    (tmp_path / "bin").mkdir()
    for name, does in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    told_by_slurm = {"JOB_ID": "7", "JOB_NODELIST": "localhost", "JOB_NUM_NODES": "1", "SUBMIT_DIR": str(ROOT)}
    environment = {f"SLURM_{name}": value for name, value in told_by_slurm.items()}
    environment |= {"FASTDCGAN_RANKS": "2", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    photos, out = write_pictures(tmp_path / "photos"), tmp_path / "run"
    command = ("--data", photos, "--out", out, *QUICK, "--images", 160 * 8, "--log-every", 5)
    command = (*command, "--checkpoint-every", 1000)

    running = launch(*command, launcher=("bash",), script="launch/slurm.sbatch", **environment)
    wait_for(lambda: last_step(out) >= 10, running)
    if told == "the script":
        running.send(signal.SIGUSR1)
    else:
        os.kill(int((tmp_path / "srun.txt").read_text()), signal.SIGTERM)
    code, said = running.ended(within=30)

    assert code == 0, said
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"
    stopped = last_step(out)
    assert saved_steps(out) == [stopped] and stopped < 160
    code, said = launch(*command, launcher=("bash",), script="launch/slurm.sbatch", **environment).ended()
    assert code == 0 and f"resuming  after step {stopped:,}" in said, said
    assert saved_steps(out) == [stopped, 160]
