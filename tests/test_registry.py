"""Every row of the registry: built small, trained two steps, restores, saved and loaded back."""

import ast
import copy
import importlib
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frcore.config import ConfigError, load_settings
from frcore.faces.batch import Faces
from frcore.frozen.guide import build
from frcore.io import assets, checkpoint
from frcore.registry import DATA, METHODS, NETS, load_method, settings_fields

# role: the method of a helper net that can play it
HELPERS = {"parser": "fpn", "prior": "stylegan2"}
SHARED = ("size", "labels", "w_dim")  # settings in which a helper net follows its user
ALL = sorted(METHODS)
TRAINED = [name for name in ALL if METHODS[name].trained]
RESTORING = [name for name in ALL if not METHODS[name].generative]

STEPS = (0, 4, 8, 12)  # images seen; what starts at zero needs a step or two to pass gradients on


class Flat(nn.Module):
    """Stands in for a perceptual net: the image, shrunk, under the names of the layers."""

    def __init__(self, taps):
        super().__init__()
        self.taps = taps

    def forward(self, images):
        return {tap: F.avg_pool2d(images, 4) for tap in self.taps}


def tiny(name):
    """(module, settings, model, guide) of a method at its TINY size."""
    module, row = load_method(name), METHODS[name]
    settings = load_settings(module.Settings, {**module.TINY})
    torch.manual_seed(0)
    model = build(module, settings)
    guide = {}
    for role in row.roles:
        helper = load_method(HELPERS[role])
        both = set(SHARED) & set(helper.Settings.model_fields) & set(type(settings).model_fields)
        same = {key: getattr(settings, key) for key in both}
        checked = load_settings(helper.Settings, {**helper.TINY, **same})
        guide[role] = helper.build(checked).eval().requires_grad_(False)
        if hasattr(helper, "build_discriminator"):  # as of a weights file that holds one
            critic = helper.build_discriminator(checked).eval().requires_grad_(False)
            guide[f"{role}_discriminator"] = critic
    perceptual = getattr(settings, "perceptual", None)
    guide["identity"] = Recogniser()
    if perceptual:
        guide["perceptual"] = Flat(getattr(module, "TAPS", {}).get(perceptual, ("any",)))
    return module, settings, model, guide


class Recogniser(nn.Module):
    """In the place of the recognition net: numbers of a face that hang on its pixels."""

    def descriptors(self, images, crop_scale, crop_shift):
        return images.flatten(2).mean(2) + images.square().flatten(2).mean(2)


def side(settings) -> int:
    return getattr(settings, "size", 32)


def batch_of(settings, seen=0, n=4):
    generator = torch.Generator().manual_seed(seen)
    s = side(settings)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    truth = F.interpolate(coarse, size=(s, s), mode="bicubic").clamp(0, 1)
    degraded = F.interpolate(F.avg_pool2d(truth, 4), scale_factor=4, mode="bilinear")
    labels = torch.randint(0, getattr(settings, "labels", 2), (n, s, s), generator=generator)
    places = {"images_seen": seen, "step": seen // n}
    return {"truth": truth, "degraded": degraded, "labels": labels, **places}


def restoring(name):
    """The same, as it is used for restoring."""
    module, settings, model, guide = tiny(name)
    return module, settings, model.eval(), guide


def seeded(images, seed):
    """Faces with a generator each, the first of which has `seed`."""
    return Faces(
        images, None, [torch.Generator().manual_seed(seed + i) for i in range(len(images))]
    )


@pytest.mark.parametrize("name", ALL)
def test_row_and_module_agree(name):
    row, module = METHODS[name], load_method(name)
    output = "sample" if row.generative else "restore"
    for export in ("Settings", "TINY", "build", output):
        assert hasattr(module, export), export
    assert hasattr(module, "make_trainer") == row.trained
    assert hasattr(module, "pairs") == (row.role == "degrader")
    assert row.role in ("method", "baseline", "helper", "degrader")
    assert row.data in DATA
    assert (row.data == "none") == (not row.trained)
    assert row.title and row.paper
    assert set(row.roles) <= set(module.Settings.model_fields)
    assert set(row.roles) <= set(HELPERS), "name a method for the new role in HELPERS"
    parts = {*row.parts({}, training=True).values(), *NETS.values()}
    assert parts <= set(assets.catalogue())
    assert list(inspect.signature(module.build).parameters) == ["settings"]
    words = ["model", "faces", "guide"]
    if row.generative:
        words = ["model", "n", "generator", "truncation"]
    assert list(inspect.signature(getattr(module, output)).parameters)[:4] == words
    # the graph reads the fields without importing torch
    assert settings_fields(row.module) == list(module.Settings.model_fields)
    for preset in ("TINY", "PAPER"):
        load_settings(module.Settings, getattr(module, preset, {}))


@pytest.mark.parametrize("name", ALL)
def test_unknown_setting_is_refused_with_the_nearest(name):
    module = load_method(name)
    with pytest.raises(ConfigError, match="no_such_setting"):
        load_settings(module.Settings, {"no_such_setting": 1})


@pytest.mark.parametrize("name", TRAINED)
def test_a_few_steps_change_every_network_and_stay_finite(name):
    module, settings, model, guide = tiny(name)
    trainer = module.make_trainer(model, settings, guide)
    assert trainer.networks["model"] is model
    for network in trainer.networks.values():
        network.train()
    before = {key: copy.deepcopy(net.state_dict()) for key, net in trainer.networks.items()}
    frozen = {key: copy.deepcopy(net.state_dict()) for key, net in guide.items()}
    for seen in STEPS:
        losses = trainer.step(batch_of(settings, seen))
        assert losses
        for key, value in losses.items():
            assert torch.isfinite(value.detach()).all(), key
            assert value.numel() == 1, key
    for key, network in trainer.networks.items():
        for parameter, tensor in network.named_parameters():
            assert torch.isfinite(tensor).all(), f"{key}.{parameter}"
        changed, learning = (
            {name for name, tensor in network.named_parameters() if test(name, tensor)}
            for test in (
                lambda name, tensor, key=key: not torch.equal(tensor, before[key][name]),
                lambda _, tensor: tensor.requires_grad,
            )
        )
        assert changed <= learning, f"{key}: frozen tensors change: {changed - learning}"
        share = len(changed) / len(learning)
        assert share > 0.8, f"{key}: only {share:.0%} of the tensors learn"
    for key, network in guide.items():
        assert all(torch.equal(v, frozen[key][k]) for k, v in network.state_dict().items()), key


@pytest.mark.parametrize("name", TRAINED)
def test_labels_are_read_where_the_row_says_so(name):
    module, settings, model, guide = tiny(name)
    trainer = module.make_trainer(model, settings, guide)
    batch = batch_of(settings)
    del batch["labels"]
    if METHODS[name].needs_labels:
        with pytest.raises(KeyError, match="labels"):
            trainer.step(batch)
    else:
        trainer.step(batch)


@pytest.mark.parametrize("name", RESTORING)
def test_restores_two_faces_the_same_alone_and_together(name):
    module, settings, model, guide = restoring(name)
    degraded = batch_of(settings, n=2)["degraded"]
    with torch.no_grad():
        together, alone = (
            module.restore(model, seeded(images, 1), guide) for images in (degraded, degraded[:1])
        )
    assert together.shape == degraded.shape
    assert torch.isfinite(together).all()
    assert together.min() >= 0
    assert together.max() <= 1
    torch.testing.assert_close(together[:1], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", RESTORING)
def test_stochastic_rows_draw_and_others_do_not(name):
    module, settings, model, guide = restoring(name)
    degraded = batch_of(settings, n=1)["degraded"]

    def restored(seed, net=model):
        faces = seeded(degraded, seed)
        before = faces.generators[0].get_state()
        with torch.no_grad():
            result = module.restore(net, faces, guide)
        return result, not torch.equal(before, faces.generators[0].get_state())

    (first, drew), (second, _) = restored(1), restored(2)
    assert drew == METHODS[name].stochastic
    assert torch.equal(first, second) != METHODS[name].stochastic
    if METHODS[name].stochastic and "stochastic" in module.Settings.model_fields:
        still = settings.model_copy(update={"stochastic": False})
        assert not restored(1, module.build(still).eval())[1]


@pytest.mark.parametrize("name", [name for name in TRAINED if name in RESTORING])
def test_saved_and_loaded_back_restores_the_same(name, tmp_path):
    module, settings, model, guide = tiny(name)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.rand_like(parameter)  # some layers start at zero
    card = {"method": name, "settings": settings.model_dump()}
    path = tmp_path / "w.safetensors"
    checkpoint.save_weights(path, {"model": model.state_dict()}, card)
    networks, read = checkpoint.load_weights(path)
    torch.manual_seed(99)
    again = module.build(load_settings(module.Settings, read["settings"]))
    degraded = batch_of(settings, n=2)["degraded"]

    def restored(net):
        with torch.no_grad():
            return module.restore(net.eval(), seeded(degraded, 1), guide)

    assert not torch.equal(restored(again), restored(model))
    checkpoint.load_strict(again, networks["model"], "w")
    assert torch.equal(restored(again), restored(model))


# read by the training loop and not by the method itself
LOOP_READS = {"perceptual", "size", "score_samples"}


@pytest.mark.parametrize("name", ALL)
def test_every_setting_is_read(name):
    module = importlib.import_module(METHODS[name].module)
    tree = ast.parse(inspect.getsource(module))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    roles = set(METHODS[name].roles)  # settings that name another entry, read by the graph
    unread = set(module.Settings.model_fields) - read - roles - LOOP_READS
    assert not unread


NUMBERS = [
    (name, field)
    for name in TRAINED
    for field, info in load_method(name).Settings.model_fields.items()
    if field.endswith(("_weight", "learning_rate"))
]


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_weights_and_rates_change_training(name, field):
    module = load_method(name)
    usual = getattr(tiny(name)[1], field)

    def trained(value):
        _, settings, model, guide = tiny(name)
        settings = settings.model_copy(update={field: value})
        torch.manual_seed(0)
        trainer = module.make_trainer(model, settings, guide)
        for seen in STEPS:
            torch.manual_seed(seen)
            trainer.step(batch_of(settings, seen))
        nets = trainer.networks.values()
        return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])

    before = trained(usual)
    assert torch.equal(before, trained(usual))  # what differs below is the setting's doing
    assert not torch.equal(before, trained(3 * usual or 0.5))
