"""Training: killed and resumed equals uninterrupted, nothing bad is kept, processes agree."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from training_job import RECIPE, entry_of, run, samples_of

from frcore.io import checkpoint
from frcore.train import data, loop
from frcore.train.data import TrainingFaces

HERE = Path(__file__).resolve().parent
METHODS = (
    "fpn",
    "psfr_gan",
    "rdfr",
    "stylegan2",
    "stylegan2_encoder",
    "dl_st_degradation",
    "dl_st",
)
FACES = 18  # not a multiple of the batch: a batch reaches over the end of a pass


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Random faces, their label maps, a tiny trained parser, and uninterrupted runs by method."""
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for name in ("faces", "labels"):
        (work / name).mkdir()
    for i in range(FACES):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32), Image.BICUBIC).save(work / f"faces/{i:03d}.png")
        labels = np.kron(rng.integers(0, 4, (4, 4), dtype=np.uint8), np.ones((8, 8), np.uint8))
        Image.fromarray(labels).save(work / f"labels/{i:03d}.png")
    run(work, "parser", entry_of("fpn", images=8), [])
    run(work, "prior", entry_of("stylegan2", images=8), [])
    run(work, "twins", entry_of("dl_st_degradation", images=8), [])
    for method in METHODS:
        run(work, f"whole_{method}", entry_of(method), [])
    return work


def job(work, name, *words, launcher=(), **environment):
    command = [*launcher, HERE / "training_job.py", work, name, *words]
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def assert_same(a: Path, b: Path):
    """Weights and history of two finished runs are equal, bit for bit."""
    first, second = (checkpoint.load_weights(x / "weights.safetensors")[0] for x in (a, b))
    assert first.keys() == second.keys()
    for net in first:
        assert first[net].keys() == second[net].keys()
        for key, tensor in first[net].items():
            assert torch.equal(tensor, second[net][key]), f"{net}/{key}"
    assert (a / "history.csv").read_bytes() == (b / "history.csv").read_bytes()


def rows(folder: Path) -> list[dict]:
    with open(folder / "history.csv", newline="") as opened:
        return list(csv.DictReader(opened))


# ---- resuming


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_equals_uninterrupted(work, method):
    # at 28: between two saved states, in the second pass over the faces
    name = f"killed_{method}"
    killed = job(work, name, "--method", method, "--at", 28)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (work / name / "weights.safetensors").exists()
    lines = []
    out = run(work, name, entry_of(method), lines)
    assert "resuming at 24 of 48 images" in lines
    assert_same(out, work / f"whole_{method}")
    assert [int(row["images"]) for row in rows(out)] == list(range(4, 49, 4))


def test_rdfr_resumes_where_its_warm_up_ends(work):
    interrupted(work, "warm_up", "rdfr", at=16)
    out = run(work, "warm_up", entry_of("rdfr"), [])
    assert_same(out, work / "whole_rdfr")
    assert [bool(row["perplexity_true_8"]) for row in rows(out)] == [False] * 4 + [True] * 8
    assert (out / "codes_8.png").is_file()  # what the method's `pictures` shows


def test_sigterm_saves_and_asks_for_another_try(work):
    stopped = job(work, "term", "--at", 28, "--signal", "TERM")
    assert stopped.returncode == loop.INTERRUPTED == 75, stopped.stderr
    assert "stopped at 32 images" in stopped.stdout
    assert "Traceback" not in stopped.stderr
    lines = []
    out = run(work, "term", entry_of("fpn"), lines)
    assert "resuming at 32 of 48 images" in lines  # nothing is lost
    assert_same(out, work / "whole_fpn")


def interrupted(work, name, method="fpn", at=28):
    with pytest.raises(SystemExit) as stopped:
        run(work, name, entry_of(method), [], stop_at=at)
    assert stopped.value.code == loop.INTERRUPTED
    return only_state(work / name)


def only_state(folder: Path) -> Path:
    """The folder of the one state that a run has left."""
    [state] = (folder / "state").iterdir()
    return state


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_state_falls_back_to_the_one_before(work, damage, capsys):
    state = interrupted(work, f"damaged_{damage}") / "state.pt"
    content = state.read_bytes()
    noise = bytes(reversed(content))
    state.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": noise}[damage])
    lines = []
    out = run(work, state.parents[2].name, entry_of("fpn"), lines)
    assert "resuming at 24 of 48 images" in lines
    assert "cannot be read" in capsys.readouterr().out
    assert_same(out, work / "whole_fpn")


def test_two_damaged_states_start_over(work):
    state = interrupted(work, "both_damaged")
    for name in ("state.pt", "previous.pt"):
        (state / name).write_bytes(b"not a state")
    lines = []
    out = run(work, "both_damaged", entry_of("fpn"), lines)
    assert not [line for line in lines if "resuming" in line]
    assert_same(out, work / "whole_fpn")


def test_history_ahead_of_the_state_is_written_again(work):
    # the history is written before the state: a kill between the two leaves rows too many
    state = interrupted(work, "ahead", at=24)
    with open(state / "history.csv", "a") as opened:
        opened.write("28,0.3,0.2\n32,0.3,0.2\n")
    assert_same(run(work, "ahead", entry_of("fpn"), []), work / "whole_fpn")


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({"learning_rate": 1e-3}, True),
        ({"batch": 2}, True),
        ({"save_images": 4, "gpus": 0, "minutes": 5}, False),
    ],
)
def test_other_settings_start_over_other_hardware_does_not(work, change, restarts):
    name = "changed_" + "_".join(change)
    interrupted(work, name, at=16)
    settings = {k: v for k, v in change.items() if k == "learning_rate"}
    entry = entry_of("fpn", **{k: v for k, v in change.items() if k != "learning_rate"})
    entry = entry.model_copy(update={"settings": {**entry.settings, **settings}})
    lines = []
    out = run(work, name, entry, lines)
    said = [line for line in lines if "starting over" in line or "resuming" in line]
    assert len(said) == 1
    assert ("starting over" in said[0]) == restarts
    if not restarts:
        assert_same(out, work / "whole_fpn")
    else:
        first = int(rows(out)[0]["images"])
        assert first == entry.train.batch  # the history too begins anew
        # the state of before is still there, and found again
        lines = []
        assert_same(run(work, name, entry_of("fpn"), lines), work / "whole_fpn")
        assert "resuming at 16 of 48 images" in lines


def test_other_code_starts_over_and_the_old_one_is_found_again(work):
    interrupted(work, "code", at=16)
    lines = []
    with pytest.raises(SystemExit):
        run(work, "code", entry_of("fpn"), lines, code="another", stop_at=8)
    assert any("starting over" in line for line in lines)
    assert len(list((work / "code" / "state").iterdir())) == 2
    lines = []
    assert_same(run(work, "code", entry_of("fpn"), lines), work / "whole_fpn")
    assert "resuming at 16 of 48 images" in lines


def test_longer_training_goes_on_and_shorter_starts_over(work):
    interrupted(work, "longer", at=28)
    lines = []
    out = run(work, "longer", entry_of("fpn", images=56), lines)
    assert "resuming at 28 of 56 images" in lines
    assert len(rows(out)) == 14
    # a state that saw more than what is asked for is not passed off as it
    interrupted(work, "shorter", at=28)
    lines = []
    out = run(work, "shorter", entry_of("fpn", images=16), lines)
    assert any("starting over" in line for line in lines)
    assert len(rows(out)) == 4
    assert json.loads((out / "weights.json").read_text())["images_seen"] == 16
    # and the longer run loses nothing by it
    lines = []
    assert_same(run(work, "shorter", entry_of("fpn"), lines), work / "whole_fpn")
    assert "resuming at 28 of 48 images" in lines


def test_card_counts_whole_batches(work):
    out = run(work, "uneven", entry_of("fpn", images=10), [])
    assert json.loads((out / "weights.json").read_text())["images_seen"] == 12
    assert [row["images"] for row in rows(out)] == ["4", "8", "12"]


def test_finished_run_leaves_no_state(work):
    state = only_state(work / "whole_fpn")
    assert not list(state.glob("*.pt*")) and (state / "history.csv").is_file()
    assert (work / "whole_fpn" / "samples.png").stat().st_size > 500


def test_second_process_in_the_same_state_folder_is_refused(work):
    state = interrupted(work, "taken", at=4)
    with open(state / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is training in .*taken"):
            run(work, "taken", entry_of("fpn"), [])
    run(work, "taken", entry_of("fpn", images=4), [])


# ---- numbers that are not finite


class Toy:
    """A trainer of one number; `poison(step)` may set a loss or a weight to NaN."""

    def __init__(self, poison=lambda trainer, seen, losses: losses):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 3, 1)
        self.networks = {"model": model}
        self.optimizers = {"model": torch.optim.SGD(model.parameters(), lr=0.1)}
        self.poison = poison

    def step(self, batch):
        model, optimizer = self.networks["model"], self.optimizers["model"]
        loss = (model(batch["degraded"]) - batch["truth"]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return self.poison(self, batch["images_seen"], {"l2": loss})


def toy_plan(state, **changes):
    settings = {
        "images": 32,
        "batch": 4,
        "ema_images": 10,
        "save_images": 8,
        "sample_images": 100,
        "precision": "float32",
        "seed": 0,
        "state": state,
    }
    return loop.Schedule(**{**settings, **changes})


def toy_train(work, state, trainer=None, **changes):
    faces = TrainingFaces(samples_of(work), 0, [RECIPE])
    plan = toy_plan(state, **changes)
    return loop.train(trainer or Toy(), faces, plan, torch.device("cpu"), log=lambda _: None)


def nan_loss(trainer, seen, losses):
    return {"l2": losses["l2"] * float("nan")} if seen == 20 else losses


def nan_weight(trainer, seen, losses):
    if seen == 20:  # the step before a state is written: its loss is still finite
        with torch.no_grad():
            trainer.networks["model"].weight[0] = float("nan")
    return losses


@pytest.mark.parametrize("poison", [nan_loss, nan_weight])
def test_nan_stops_with_the_last_good_state(work, tmp_path, poison):
    with pytest.raises(loop.NotFinite, match=str(tmp_path)):
        toy_train(work, tmp_path, Toy(poison))
    state = checkpoint.load_state(tmp_path)
    assert state["images_seen"] == 16
    assert all(torch.isfinite(x).all() for x in state["networks"]["model"].values())
    assert all(torch.isfinite(x).all() for x in state["average"].values())
    # cured, the run goes on from there and ends like one that was never ill
    healed = toy_train(work, tmp_path)
    whole = toy_train(work, tmp_path / "whole")
    assert all(torch.equal(healed["model"][key], whole["model"][key]) for key in whole["model"])


# ---- the average


def test_average_has_the_half_life_it_says():
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for module, value in ((model, 1.0), (average, 0.0)):
            module.weight.fill_(value)
            module.bias.fill_(value)
    for _ in range(5):  # 5 x 20 images = one half-life of 100 images
        loop._move_average(average, model, 20, 100)
    assert average.weight.item() == pytest.approx(0.5, abs=1e-6)
    for _ in range(10):  # two more, in other batches
        loop._move_average(average, model, 20, 100)
    assert average.bias.item() == pytest.approx(0.875, abs=1e-6)
    loop._move_average(average, model, 20, 0)  # no average
    assert average.weight.item() == 1.0


def test_weights_file_holds_the_average_not_the_last_step(work, tmp_path):
    averaged = toy_train(work, tmp_path / "a")["model"]["weight"]
    last = toy_train(work, tmp_path / "b", ema_images=0)["model"]["weight"]
    state = checkpoint.load_state(tmp_path / "a")
    assert torch.equal(state["networks"]["model"]["weight"], last)
    assert not torch.equal(averaged, last)


# ---- data


def test_batches_depend_on_the_position_alone(work, monkeypatch):
    device = torch.device("cpu")
    faces = TrainingFaces(samples_of(work), 5, [RECIPE])
    in_order = {p: faces.batch(p, 4, device) for p in range(0, 48, 4)}
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)  # decoded ahead instead of kept
    other = TrainingFaces(samples_of(work), 5, [RECIPE])
    for p in (44, 0, 4, 20, 24, 28, 8):
        again = other.batch(p, 4, device)
        assert again.keys() == in_order[p].keys() == {"truth", "degraded", "labels"}
        assert all(torch.equal(again[key], in_order[p][key]) for key in again), p
    assert not torch.equal(in_order[0]["degraded"], in_order[0]["truth"])
    seeded = TrainingFaces(samples_of(work), 6, [RECIPE]).batch(0, 4, device)
    assert not torch.equal(seeded["degraded"], in_order[0]["degraded"])


def test_every_pass_sees_every_face_once_in_another_order(work):
    faces = TrainingFaces(samples_of(work), 5, [RECIPE])
    first, second = faces.indices(0, FACES), faces.indices(FACES, FACES)
    assert sorted(first) == sorted(second) == list(range(FACES))
    assert first != second


def test_shares_of_the_processes_make_up_the_batch(work):
    device = torch.device("cpu")
    faces = TrainingFaces(samples_of(work), 5, [RECIPE])
    for position in (0, 12, 16):
        whole = faces.batch(position, 4, device)
        shares = [faces.batch(position, 4, device, rank, 2) for rank in range(2)]
        for key in whole:
            assert torch.equal(torch.cat([share[key] for share in shares]), whole[key]), key
    with pytest.raises(ValueError, match="batch of 4 cannot be shared by 3"):
        faces.batch(0, 4, device, 0, 3)


def test_missing_training_file_is_named(work, tmp_path):
    [sample, *_] = samples_of(work)
    gone = data.Sample("x", tmp_path / "x.png")
    with pytest.raises(FileNotFoundError, match=r"x\.png"):
        TrainingFaces([sample, gone], 0, [RECIPE])
    with pytest.raises(ValueError, match="no faces to train on"):
        TrainingFaces([], 0, [RECIPE])


# ---- several processes


def test_two_processes_train_like_one(work):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = ("--method", "psfr_gan")
    # killed on the way: torchrun ends the other process too, and the same command resumes
    killed = job(work, "two", *words, "--at", 28, launcher=launcher)
    assert killed.returncode != 0
    resumed = job(work, "two", *words, launcher=launcher)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming at 24 of 48" in resumed.stdout
    two, one = work / "two", work / "whole_psfr_gan"
    # the mean of the shares' gradients is the batch's gradient up to rounding
    for ours, theirs in zip(rows(two)[:1], rows(one)[:1], strict=True):
        assert ours["images"] == theirs["images"]
    a, b = (checkpoint.load_weights(x / "weights.safetensors")[0] for x in (two, one))
    begin = torch.cat([x.flatten() for x in start_weights(work).values()])
    ours = torch.cat([x.flatten() for x in a["model"].values()])
    theirs = torch.cat([x.flatten() for x in b["model"].values()])
    moved = (theirs - begin).norm()
    assert moved > 0
    assert (ours - theirs).norm() < 0.1 * moved


def start_weights(work):
    """Weights of the tiny PSFR-GAN before its first step."""
    from frcore.registry import load_method
    from frcore.seeds import seed_for

    entry = entry_of("psfr_gan")
    module = load_method("psfr_gan")
    torch.manual_seed(seed_for(entry.seed, "entry", "init"))
    return module.build(module.Settings(**entry.settings)).state_dict()


def test_card_names_the_entry_it_started_from(work):
    start = work / "whole_fpn" / "weights.safetensors"
    entry = entry_of("fpn", images=4).model_copy(update={"init": str(start)})
    card = checkpoint.read_card(run(work, "further", entry, []) / "weights.safetensors")
    assert card["init"] == "entry, 48 images"
    assert card["images_seen"] == 52


def test_log_names_the_device(work):
    lines = []
    run(work, "device", entry_of("fpn", images=4), lines)
    assert any(line.startswith("device cpu, CUDA_VISIBLE_DEVICES=") for line in lines)


def test_signal_handlers_are_put_back(work, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    toy_train(work, tmp_path, images=4)
    assert signal.getsignal(signal.SIGTERM) == before
