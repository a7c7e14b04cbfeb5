"""StyleGAN2 files of other projects become ours: the same images, or one line that says why not."""

import argparse
import os
import re

import pytest
import stylegan2_reference as reference
import torch

from frcore.cli import common, main
from frcore.io import checkpoint
from frcore.io.checkpoint import WeightsError
from frcore.methods import stylegan2 as helper
from frcore.restore import convert

WIDTHS = (16, 16, 8)  # channels at the sides 4, 8, 16
W_DIM = 12
LAYERS = 3
SETTINGS = {"size": 16, "w_dim": W_DIM, "mapping_layers": LAYERS, "c_base": 128, "c_max": 16}


def generator(**changes):
    return reference.random_generator(WIDTHS, W_DIM, LAYERS, **changes)


def basicsr(state):
    """rosinality's names -> those of StyleGAN2Generator and StyleGAN2Discriminator."""
    critic = "final_conv.0.weight" in state
    renames = (
        (r"^convs\.", "conv_body."),
    ) if critic else (
        (r"^style\.", "style_mlp."),
        (r"^input\.input$", "constant_input.weight"),
        (r"^conv1\.", "style_conv1."),
        (r"^convs\.", "style_convs."),
        (r"\.conv\.", ".modulated_conv."),
        (r"\.noise\.weight$", ".weight"),
        (r"^noises\.noise_", "noises.noise"),
    )  # fmt: skip
    renamed = {}
    for key, value in state.items():
        if not key.endswith(".kernel"):  # plain attributes there
            for pattern, text in renames:
                key = re.sub(pattern, text, key)
            renamed[key] = value
    return renamed


def files(folder, layout, dtype=torch.float64):
    """(arguments of the converter, state of the generator, of the discriminator)."""
    state, critic = generator(dtype=dtype), reference.random_discriminator(WIDTHS, dtype=dtype)
    mean = torch.linspace(-1, 1, W_DIM, dtype=dtype)
    if layout == "rosinality":
        torch.save(
            {"g": generator(seed=9), "d": critic, "g_ema": state, "latent_avg": mean,
             "g_optim": {"state": {}, "param_groups": [{"lr": 0.1}]}},
            folder / "a.pt",
        )  # fmt: skip
        return (folder / "a.pt",), state, critic
    other = basicsr(generator(seed=9))
    torch.save({"params": other, "params_ema": basicsr(state)}, folder / "g.pth")
    torch.save({"params": basicsr(critic)}, folder / "d.pth")
    return (folder / "g.pth", folder / "d.pth"), state, critic


def networks(settings, states):
    """Both networks with strictly loaded weights, in the type of these."""
    checked = helper.Settings(**settings)
    built = helper.build(checked), helper.build_discriminator(checked)
    for network, name in zip(built, ("model", "discriminator")):
        network.to(next(iter(states[name].values())).dtype)
        checkpoint.load_strict(network, states[name], name)
    return built


def test_names_of_basicsr():
    """A few names as they stand in its files, so that this file's renaming is checked too."""
    names = basicsr(generator()).keys()
    assert {
        "style_mlp.3.bias", "constant_input.weight", "style_conv1.weight",
        "style_conv1.modulated_conv.weight", "style_conv1.modulated_conv.modulation.bias",
        "style_conv1.activate.bias", "style_convs.3.modulated_conv.modulation.weight",
        "to_rgb1.modulated_conv.weight", "to_rgbs.1.bias", "noises.noise4",
    } <= names  # fmt: skip
    names = basicsr(reference.random_discriminator(WIDTHS)).keys()
    assert {"conv_body.0.1.bias", "conv_body.2.conv2.1.weight", "conv_body.2.skip.1.weight",
            "final_conv.1.bias", "final_linear.1.weight"} <= names  # fmt: skip


@pytest.mark.parametrize("layout", ["rosinality", "basicsr"])
def test_images_and_logits_are_the_same(layout, tmp_path):
    arguments, state, critic_state = files(tmp_path, layout)
    settings, states = convert.read_foreign(*arguments)
    assert settings == SETTINGS
    model, critic = networks(settings, states)
    z = torch.randn(4, W_DIM, dtype=torch.float64)
    ws = model.to_rows(reference.mapping(state, z))
    image = reference.generator(state, ws)
    torch.testing.assert_close(model(z, noise="fixed"), image, rtol=0, atol=1e-9)
    logits = reference.discriminator(critic_state, image)
    assert image.std() > 0.1 and logits.std() > 1e-3
    torch.testing.assert_close(critic(image), logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("layout", ["rosinality", "basicsr"])
def test_a_converted_file_is_one_of_ours(layout, tmp_path):
    arguments, state, critic_state = files(tmp_path, layout, torch.float32)
    out = tmp_path / "own.safetensors"
    critics = arguments[1:]
    convert.convert_file(arguments[0], out, *critics)
    states, card = checkpoint.load_weights(out)
    model, critic = networks(card["settings"], states)
    z = torch.randn(4, W_DIM)
    image = reference.generator(state, model.to_rows(reference.mapping(state, z)))
    torch.testing.assert_close(model(z, noise="fixed"), image, rtol=0, atol=1e-4)
    logits = reference.discriminator(critic_state, image)
    torch.testing.assert_close(critic(image), logits, rtol=0, atol=1e-4)

    expected = {
        "name": "own",
        "method": "stylegan2",
        "settings": SETTINGS,
        "size": 16,
        "parameters": sum(p.numel() for p in model.parameters()),
        "images_seen": None,
        "source": arguments[0].name,
        "source_sha256": checkpoint.file_digest(arguments[0]),
        "source_layout": layout,
        "source_network": "g_ema" if layout == "rosinality" else "params_ema",
        "licence": "of the source",
    }
    assert {key: card[key] for key in expected} == expected
    assert str(tmp_path) not in str(card)
    if critics:
        assert card["source_discriminator_sha256"] == checkpoint.file_digest(critics[0])


def test_the_mean_of_w(tmp_path):
    state = generator()
    mean = torch.linspace(-1, 1, W_DIM, dtype=torch.float64)
    torch.save({"g_ema": state, "latent_avg": mean}, tmp_path / "with.pt")
    torch.save({"g_ema": state}, tmp_path / "without.pt")
    read = [convert.read_foreign(tmp_path / f"{name}.pt")[1] for name in ("with", "without")]
    assert torch.equal(read[0]["model"]["mapping.w_avg"], mean)
    found = read[1]["model"]["mapping.w_avg"]
    z = torch.randn(100_000, W_DIM, generator=torch.Generator().manual_seed(3)).double()
    w = reference.mapping(state, z)
    error = w.std(0) / 100  # of a mean of 10,000
    assert ((found - w.mean(0)).abs() < 5 * error).all()
    again = convert.read_foreign(tmp_path / "without.pt")[1]["model"]["mapping.w_avg"]
    assert torch.equal(found, again)
    torch.save({"g_ema": state, "latent_avg": mean[:-1]}, tmp_path / "short.pt")
    with pytest.raises(WeightsError, match="latent_avg"):
        convert.read_foreign(tmp_path / "short.pt")


def test_noise_that_older_files_lack(tmp_path):
    torch.save({"g_ema": generator(noises=False)}, tmp_path / "old.pt")
    (first, second) = (convert.read_foreign(tmp_path / "old.pt")[1]["model"] for _ in "ab")
    maps = [key for key in first if key.endswith(".noise")]
    assert len(maps) == 5
    assert all(torch.equal(first[key], second[key]) for key in maps)
    assert first[maps[-1]].shape == (16, 16) and 0.8 < first[maps[-1]].std() < 1.2
    assert not torch.equal(first[maps[-1]], first[maps[-2]])
    some = generator()
    del some["noises.noise_3"]
    torch.save({"g_ema": some}, tmp_path / "some.pt")
    with pytest.raises(WeightsError, match=r"missing \['noises.noise_3'\]"):
        convert.read_foreign(tmp_path / "some.pt")


def test_forms_of_files(tmp_path):
    state, path = generator(), tmp_path / "a.pt"
    expected = convert.read_foreign(files(tmp_path, "rosinality")[0][0])[1]["model"]

    def same(content, **how):
        torch.save(content, path, **how)
        settings, states = convert.read_foreign(path)
        assert settings == SETTINGS and states.keys() == {"model"}
        return all(
            torch.equal(value, expected[key])
            for key, value in states["model"].items()
            if key != "mapping.w_avg"
        )

    assert same(state)  # without a name around it
    assert same(basicsr(state))
    assert same({"g": state})  # without an average
    assert same({"g_ema": state}, _use_new_zipfile_serialization=False)  # as before torch 1.6
    arguments = argparse.Namespace(size=16, path="x", iter=3)  # of later training scripts
    assert same({"g_ema": state, "args": arguments, "ada_aug_p": 0.1})
    assert not same({"g": generator(seed=9)})


def test_channel_settings_of_the_published_networks(tmp_path):
    """Structure alone: a size 64 network with a wide and a narrow part."""
    widths = (8, 8, 8, 4, 2)
    torch.save({"g_ema": reference.random_generator(widths, 6, 2)}, tmp_path / "a.pt")
    settings, _ = convert.read_foreign(tmp_path / "a.pt")
    assert settings == {"size": 64, "w_dim": 6, "mapping_layers": 2, "c_base": 128, "c_max": 8}
    torch.save({"g_ema": reference.random_generator((8, 8, 4, 4), 6, 2)}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="4 channels at side 16"):
        convert.read_foreign(tmp_path / "b.pt")
    torch.save({"g_ema": reference.random_generator((8,), 6, 2)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="got 4"):
        convert.read_foreign(tmp_path / "c.pt")


# ----- what is refused


def refused(tmp_path, content, match, kind=WeightsError):
    path = tmp_path / "bad.pt"
    torch.save(content, path)
    with pytest.raises(kind, match=match) as caught:
        convert.read_foreign(path)
    assert "bad.pt" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["rosinality", "basicsr"])
def test_every_missing_tensor_is_named(layout, tmp_path):
    whole, critic = generator(), reference.random_discriminator(WIDTHS)
    if layout == "basicsr":
        whole, critic = basicsr(whole), basicsr(critic)
    deepest = f"style{'_mlp' if layout == 'basicsr' else ''}.{LAYERS}.weight"
    for key in [*whole, *critic]:
        if key.endswith(".kernel") or key == deepest:
            continue
        both = {"g_ema": dict(whole), "d": dict(critic)}
        for state in both.values():
            state.pop(key, None)
        if key in whole and key in critic:
            continue
        refused(tmp_path, both, re.escape(key))


def test_unexpected_tensors_are_named(tmp_path):
    more = {"convs.9.odd": torch.zeros(1)}
    refused(tmp_path, {"g_ema": generator() | more}, r"unexpected \['convs.9.odd'\]")
    more = {"convs.0.conv2.1.odd": torch.zeros(1)}
    both = {"g_ema": generator(), "d": reference.random_discriminator(WIDTHS) | more}
    refused(tmp_path, both, r"d does not fit.*unexpected \['convs.0.conv2.1.odd'\]")
    # the mapping has a layer less than its bias says
    state = generator()
    del state[f"style.{LAYERS}.weight"]
    refused(tmp_path, {"g_ema": state}, rf"unexpected \['style.{LAYERS}.bias'\]")


def test_wrong_shapes_are_named(tmp_path):
    state = generator()
    state["convs.1.activate.bias"] = torch.zeros(17)
    refused(tmp_path, {"g_ema": state}, r"convs.1.activate.bias: file \(17,\), network \(16,\)")
    state = generator()
    state["convs.1.conv.weight"] = state["convs.1.conv.weight"].transpose(2, 3)
    refused(tmp_path, {"g_ema": state}, "convs.1.conv.weight: file")
    critic = reference.random_discriminator((16, 8, 8))  # another width than the generator's
    refused(tmp_path, {"g_ema": generator(), "d": critic}, r"shapes \['convs")
    critic = reference.random_discriminator((16, 16))
    refused(tmp_path, {"g_ema": generator(), "d": critic}, "missing .*convs.2")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("g_ema", "convs.0.conv.blur.kernel"),
        ("g_ema", "to_rgbs.1.upsample.kernel"),
        ("d", "convs.1.conv2.0.kernel"),
        ("d", "convs.2.skip.0.kernel"),
    ],
)
def test_another_resampling_filter_is_refused(name, key, tmp_path):
    both = {"g_ema": generator(), "d": reference.random_discriminator(WIDTHS)}
    wrong = both[name][key].clone()
    wrong[0, 0] += 0.01
    for kernel in (wrong, both[name][key] * 4, torch.ones(2, 2)):
        changed = {**both, name: {**both[name], key: kernel}}
        refused(tmp_path, changed, f"{re.escape(key)} is not the filter")


def test_the_clean_generator_is_refused(tmp_path):
    state = {
        key.replace("activate.bias", "bias"): value for key, value in basicsr(generator()).items()
    }
    refused(tmp_path, {"params_ema": state}, "clean generator.*another network")
    whole = {f"stylegan_decoder.{key}": value for key, value in state.items()}
    refused(tmp_path, {"params_ema": whole}, "whole GFP-GAN")


def test_files_of_something_else_are_refused(tmp_path):
    refused(tmp_path, {"conv.weight": torch.zeros(3)}, r"neither.*keys: conv.weight")
    refused(tmp_path, {"g_ema": {}}, "no state dict")
    refused(tmp_path, {}, "no state dict")
    refused(tmp_path, {3: torch.zeros(1)}, "no state dict")
    refused(tmp_path, {"g_ema": {"conv1.conv.weight": 3}}, "no state dict")
    refused(tmp_path, torch.zeros(3), "a Tensor, not networks")
    refused(tmp_path, {"params": basicsr(reference.random_discriminator(WIDTHS))}, "alone")
    refused(tmp_path, {"state": {"a": torch.zeros(1)}, "iter": 3}, "keys: iter, state")
    path = tmp_path / "text.pt"
    path.write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match="text.pt cannot be read"):
        convert.read_foreign(path)
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        convert.read_foreign(tmp_path / "absent.pt")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_files_with_code_are_not_executed(tmp_path):
    mark = tmp_path / "executed"
    content = {"g_ema": generator(), "args": Bomb(mark)}
    refused(tmp_path, content, "tensors and plain values alone")
    content = {"g_ema": generator(), "args": argparse.Namespace(x=Bomb(mark))}
    refused(tmp_path, content, "tensors and plain values alone")
    assert not mark.exists()


# ----- command


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (source,), *_ = files(tmp_path, "rosinality", torch.float32)
    words = ["weights", "convert", str(source), "--out", "prior.safetensors"]
    assert main.main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "prior.safetensors" in printed and "16 px" in printed
    card = checkpoint.read_card("prior.safetensors")
    assert card["name"] == "prior" and card["networks"] == ["model", "discriminator"]
    written = (tmp_path / "prior.safetensors").read_bytes()

    def error_of(*words):
        assert main.main([str(word) for word in words]) == common.EXIT_ERROR
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and not captured.out
        return captured.err

    assert "exists: use --overwrite" in error_of(*words)
    other = tmp_path / "other.pt"
    torch.save({"a": torch.zeros(1)}, other)
    for text, file in (("neither", other), ("no file", "absent.pt")):
        error = error_of("weights", "convert", file, "--out", "new.safetensors")
        assert text in error and str(file) in error
        assert not (tmp_path / "new.safetensors").exists()
    assert ".safetensors" in error_of("weights", "convert", source, "--out", "prior.pt")
    error_of("weights", "convert", other, "--out", "prior.safetensors", "--overwrite")
    assert (tmp_path / "prior.safetensors").read_bytes() == written

    paths, *_ = files(tmp_path, "basicsr", torch.float32)
    words = ["weights", "convert", paths[0], "--out", "prior.safetensors", "--overwrite"]
    assert main.main([*map(str, words), "--discriminator", str(paths[1])]) == 0
    capsys.readouterr()
    assert checkpoint.read_card("prior.safetensors")["source_layout"] == "basicsr"
    assert "no discriminator" in error_of(*words, "--discriminator", paths[0])
