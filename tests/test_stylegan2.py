"""StyleGAN2 against numbers of the published code and against a second, literal implementation."""

import math

import pytest
import stylegan2_reference as reference
import torch
from torch.nn import functional as F

from frcore.methods import stylegan2 as helper
from frcore.nets import losses
from frcore.nets import stylegan2 as nets
from frcore.restore import convert

WIDTHS = (16, 16, 8)  # channels at the sides 4, 8, 16
SETTINGS = helper.Settings(size=16, w_dim=12, mapping_layers=3, c_base=128, c_max=16)


def loaded(network, table, state):
    """`network` in float64 with the values of a state dict of the reference."""
    own = network.double().state_dict()
    values = {ours: state[theirs].reshape(own[ours].shape) for theirs, ours in table.items()}
    answer = network.load_state_dict(values, strict=False)
    assert not answer.unexpected_keys and set(answer.missing_keys) <= {"mapping.w_avg"}
    return network


def pair_of_generators():
    """The same weights twice: frcore's network, the reference's state, and names of both."""
    state = reference.random_generator(WIDTHS, SETTINGS.w_dim, SETTINGS.mapping_layers)
    table = convert.ROSINALITY.generator(len(WIDTHS), SETTINGS.mapping_layers)
    return loaded(helper.build(SETTINGS), table, state), state, table


def pair_of_discriminators():
    state = reference.random_discriminator(WIDTHS)
    table = convert.ROSINALITY.critic(len(WIDTHS))
    return loaded(helper.build_discriminator(SETTINGS), table, state), state, table


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    model = helper.build(SETTINGS.model_copy(update=changes))
    with torch.no_grad():
        for layer in model.synthesis.convs():
            layer.noise_strength.fill_(0.5)
    return model


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def count(module) -> int:
    return sum(item.numel() for item in module.parameters())


def on_meta(make, *arguments, **words):
    with torch.device("meta"):  # no memory and no random numbers
        return make(*arguments, **words)


# ----- sizes


@pytest.mark.parametrize(
    ("size", "c_base", "c_max", "w_dim", "mapping", "synthesis", "total", "discriminator"),
    [
        (64, 32768, 512, 512, 2_101_248, 24_931_352, 27_032_600, 26_488_833),
        (128, 32768, 512, 512, 2_101_248, 27_227_421, 29_328_669, 28_389_121),
        (256, 32768, 512, 512, 2_101_248, 27_933_090, 30_034_338, 28_864_129),
        (512, 32768, 512, 512, 2_101_248, 28_175_335, 30_276_583, 28_982_849),
        (1024, 32768, 512, 512, 2_101_248, 28_268_812, 30_370_060, 29_012_513),
        (64, 16384, 512, 512, 2_101_248, 21_718_296, 23_819_544, 23_407_361),
        (128, 16384, 512, 512, 2_101_248, 22_423_965, 24_525_213, 23_882_369),
        (256, 16384, 512, 512, 2_101_248, 22_666_210, 24_767_458, 24_001_089),
        (512, 16384, 512, 512, 2_101_248, 22_759_687, 24_860_935, 24_030_753),
        (64, 16384, 256, 512, 2_101_248, 7_157_272, 9_258_520, 6_625_281),
        (64, 16384, 128, 128, 132_096, 1_563_416, 1_695_512, 1_657_857),
    ],
)
def test_parameter_counts(
    size, c_base, c_max, w_dim, mapping, synthesis, total, discriminator
):  # fmt: skip
    settings = helper.Settings(size=size, c_base=c_base, c_max=c_max, w_dim=w_dim)
    model = on_meta(helper.build, settings)
    assert count(model.mapping) == mapping
    assert count(model.synthesis) == synthesis
    assert count(model) == total
    assert count(on_meta(helper.build_discriminator, settings)) == discriminator


def test_parameter_counts_of_parts():
    shallow, deep = (on_meta(nets.Generator, 1024, mapping_layers=m) for m in (2, 8))
    assert count(shallow) == 28_794_124  # what the published code prints
    assert count(deep) - count(shallow) == 1_575_936
    assert count(on_meta(nets.StyledConv, 512, 512, 512, 8)) == 2_622_465
    assert count(on_meta(nets.StyledConv, 96, 40, 512, 8, up=True)) == (
        9 * 96 * 40 + 512 * 96 + 96 + 40 + 1
    )
    assert count(on_meta(nets.ToRGB, 512, 512)) == 264_195


@pytest.mark.parametrize(
    ("size", "rows"), [(32, 8), (64, 10), (128, 12), (256, 14), (512, 16), (1024, 18)]
)
def test_rows_and_noise_maps(size, rows):
    model = on_meta(nets.Generator, size, 8, 1, 4 * size, 8)
    assert nets.rows_of(size) == model.rows == rows
    sides = [4, *(side for side in model.synthesis.sides[1:] for _ in "ab")]
    assert len(sides) == rows - 1
    assert [tuple(c.noise.shape) for c in model.synthesis.convs()] == [(s, s) for s in sides]
    assert model.synthesis.sides[-1] == size


@pytest.mark.parametrize(
    ("c_base", "expected"),
    [
        (32768, [512, 512, 512, 512, 512, 256, 128, 64, 32]),
        (16384, [512, 512, 512, 512, 256, 128, 64, 32, 16]),
        (8192, [512, 512, 512, 256, 128, 64, 32, 16, 8]),
    ],
)
def test_channels(c_base, expected):
    sides = [4 * 2**i for i in range(9)]
    assert [nets.channels_at(side, c_base, 512) for side in sides] == expected
    model = on_meta(nets.Generator, 1024, c_base=c_base)
    critic = on_meta(nets.Discriminator, 1024, c_base=c_base)
    assert [block.conv.bias.numel() for block in model.synthesis.blocks] == expected
    assert [block.to_rgb.conv.weight.shape[1] for block in model.synthesis.blocks] == expected
    assert [block.conv1.bias.numel() for block in critic.blocks] == expected[:0:-1]
    assert [block.conv2.bias.numel() for block in critic.blocks] == expected[-2::-1]


@pytest.mark.parametrize("size", [4, 48, 2048])
def test_sizes_that_are_no_power_of_two_are_refused(size):
    with pytest.raises(ValueError, match=str(size)):
        on_meta(nets.Generator, size)
    with pytest.raises(ValueError, match=str(size)):
        on_meta(nets.Discriminator, size)


# ----- resampling


def test_upsampling_keeps_ones_but_for_the_border():
    y = nets.upsample2(torch.ones(1, 2, 5, 6))[0, 1]
    expected = torch.ones(10, 12)
    expected[[0, -1]] *= 0.75
    expected[:, [0, -1]] *= 0.75
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    assert y[0, 0] == 0.5625


def test_impulse_response_of_upsampling():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 3, 4] = 1
    y = nets.upsample2(x)[0, 0]
    taps = torch.tensor([1.0, 3, 3, 1])
    expected = torch.zeros(16, 16)
    expected[5:9, 7:11] = torch.outer(taps, taps) * 4 / 64
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


def test_downsampling():
    y = nets.downsample2(torch.ones(1, 2, 8, 6))[0, 1]
    assert y.shape == (4, 3)
    torch.testing.assert_close(y[1:-1, 1:-1], torch.ones(2, 1))
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 4, 4] = 64
    # pixels 2i - 1 to 2i + 2 make pixel i
    assert nets.downsample2(x)[0, 0, 1:4, 1:4].tolist() == [[1, 3, 0], [3, 9, 0], [0, 0, 0]]


@pytest.mark.parametrize(("h", "w"), [(4, 4), (6, 10)])
def test_resampling_equals_the_reference(h, w):
    x = normal(2, 3, h, w, dtype=torch.float64)
    same = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(nets.upsample2(x), reference.up2(x), **same)
    torch.testing.assert_close(nets.downsample2(x), reference.down2(x), **same)
    torch.testing.assert_close(nets.blur(x, (2, 1), 4.0), reference.fir(x, 2, 1, 4), **same)
    assert nets.blur(x, (2, 2)).shape == (2, 3, h + 1, w + 1)


# ----- modulated convolution


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_one_kernel_for_all_equals_a_kernel_for_each(up, demodulate):
    x, s = normal(3, 24, 8, 8), normal(3, 24, seed=1) + 1
    weight = normal(16, 24, 3, 3, seed=2) / math.sqrt(24 * 9)
    ours = nets.modulated_conv(x, weight, s, demodulate, up, gain=1.5)
    theirs = reference.modulated(x, weight, s, demodulate, up) * 1.5
    assert ours.shape == theirs.shape and ours.shape[-1] == (16 if up else 8)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("up", [False, True])
def test_demodulation_undoes_the_size_of_the_styles(up):
    x, s = normal(2, 32, 8, 8), normal(2, 32, seed=1) + 1
    weight = normal(32, 32, 3, 3, seed=2) / math.sqrt(32 * 9)
    y, tripled = (nets.modulated_conv(x, weight, k * s, up=up) for k in (1, 3))
    assert (y - tripled).abs().max() < 1e-5
    plain = nets.modulated_conv(x, weight, 3 * s, demodulate=False, up=up)
    assert (plain - y).abs().max() > 1


def test_demodulated_convolution_keeps_unit_variance():
    torch.manual_seed(0)
    layer = nets.ModulatedConv(64, 64, 3, 32)
    y = layer(normal(8, 64, 16, 16), normal(8, 32, seed=1))
    assert 0.9 < y[..., 1:-1, 1:-1].std() < 1.1


# ----- at initialisation


def test_stored_values_at_initialisation():
    torch.manual_seed(0)
    settings = SETTINGS.model_copy(update={"w_dim": 64})
    for network in (helper.build(settings), helper.build_discriminator(settings)):
        for name, value in network.state_dict().items():
            if name.endswith((".affine.bias", ".bias", "noise_strength", "w_avg")):
                expected = 1.0 if name.endswith(".affine.bias") else 0.0
                assert (value == expected).all(), name
            else:  # N(0, 1); the mapping's divided by its rate
                std = 100 if name.startswith("mapping.") else 1
                error = std / math.sqrt(value.numel())
                assert abs(value.mean()) < 5 * error, name
                assert abs(value.square().mean().sqrt() - std) < 5 * error, name


def test_mapping_at_initialisation():
    values = []
    for seed in range(4):
        torch.manual_seed(seed)
        with torch.no_grad():
            w = nets.Mapping(512, 8)(normal(128, 512, seed=100 + seed))
        values.append((w.std(), w.mean()))
    std, mean = torch.tensor(values).mean(0)
    assert abs(std - 1.05) < 0.1 and abs(mean - 0.5) < 0.08


def test_mapping_ignores_the_length_of_z():
    mapping, z = tiny().mapping, normal(2, SETTINGS.w_dim)
    torch.testing.assert_close(mapping(z), mapping(7 * z))


def test_networks_at_initialisation():
    """Means over initialisations: a single one may be off by a factor of two."""
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        model, critic = nets.Generator(64, 64, 8, 4096, 64), nets.Discriminator(64, 4096, 64)
        features = {}
        ws = model.to_rows(model.mapping(model.draw(2)))
        image = model.synthesis(ws, features=features)
        length = losses.path_lengths(image, ws).mean()
        with torch.no_grad():
            real, fake = critic(torch.rand(2, 3, 64, 64) * 2 - 1), critic(image)
            # the last layer's sign is arbitrary: both signs are one initialisation each
            loss = (losses.logistic_d(real, fake) + losses.logistic_d(-real, -fake)) / 2
        logits = torch.cat([real, fake])
        assert logits.abs().min() > 0
        values = (features[64].std(), image.std(), logits.square().mean().sqrt(), loss, length)
        found.append([value.item() for value in values])
    feature, image, logit, loss, length = torch.tensor(found).mean(0).tolist()
    assert 0.35 < feature < 0.55  # 0.44
    assert 1 < image < 2
    assert 0.2 < logit < 2
    assert 1.4 < loss < 1.7
    assert 0.5 < length < 3  # 1.3


# ----- the whole networks against the reference


def test_generator_equals_the_reference():
    model, state, _ = pair_of_generators()
    z = normal(3, SETTINGS.w_dim, dtype=torch.float64)
    w = reference.mapping(state, z)
    torch.testing.assert_close(model.mapping(z), w, rtol=1e-9, atol=1e-9)
    ws = w[:, None] + normal(3, model.rows, SETTINGS.w_dim, seed=1, dtype=torch.float64)
    torch.testing.assert_close(
        model.synthesis(ws, "fixed"), reference.generator(state, ws), rtol=0, atol=1e-9
    )
    maps = [n.double() for n in model.synthesis.draw_noise(3)]
    for noise in (maps, [None] * len(maps), [None, *maps[1:-1], None]):
        theirs = reference.generator(state, ws, noise)
        torch.testing.assert_close(model.synthesis(ws, noise), theirs, rtol=0, atol=1e-9)
    assert theirs.std() > 0.1


@pytest.mark.parametrize("n", [1, 3, 8])
def test_discriminator_equals_the_reference(n):
    critic, state, _ = pair_of_discriminators()
    image = normal(n, 3, 16, 16, dtype=torch.float64)
    logits = critic(image)
    assert logits.shape == (n, 1) and (n == 1 or logits.std() > 1e-3)
    torch.testing.assert_close(logits, reference.discriminator(state, image), rtol=0, atol=1e-9)


def test_float32_is_near_the_reference():
    model, state, _ = pair_of_generators()
    critic, critic_state, _ = pair_of_discriminators()
    z = normal(4, SETTINGS.w_dim, dtype=torch.float64)
    ws = model.to_rows(reference.mapping(state, z))
    image = reference.generator(state, ws)
    ours = model.float()(z.float(), noise="fixed")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), image, rtol=0, atol=1e-4)
    logits = critic.float()(image.float()).double()
    torch.testing.assert_close(
        logits, reference.discriminator(critic_state, image), rtol=0, atol=1e-4
    )


def reference_gradients(state, table, loss_of):
    """Gradients of `loss_of(state)` under frcore's names; those of the reference are summed."""
    state = {key: value.clone().requires_grad_(key in table) for key, value in state.items()}
    loss = loss_of(state)
    learnt = {ours: state[theirs] for theirs, ours in table.items() if not ours.endswith(".noise")}
    gradients = torch.autograd.grad(loss, list(learnt.values()), allow_unused=True)
    return loss, dict(zip(learnt, gradients))


def assert_same_gradients(network, expected, without=()):
    for name, parameter in network.named_parameters():
        theirs = expected.pop(name)
        if name in without:
            for gradient in (parameter.grad, theirs):
                assert gradient is None or not gradient.any()
            continue
        assert theirs.any(), name
        scale = theirs.abs().max().item()
        torch.testing.assert_close(
            parameter.grad,
            theirs.reshape(parameter.shape),
            rtol=1e-7,
            atol=1e-9 * scale,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert not expected


def test_gradients_of_both_losses_equal_the_reference():
    model, state, table = pair_of_generators()
    critic, critic_state, critic_table = pair_of_discriminators()
    z = normal(4, SETTINGS.w_dim, dtype=torch.float64)

    def fake_of(state):
        ws = reference.mapping(state, z)[:, None].expand(-1, 2 * len(WIDTHS), -1)
        return reference.generator(state, ws)

    loss = losses.logistic_g(critic(model(z, noise="fixed")))
    loss.backward()
    theirs, expected = reference_gradients(
        state,
        table,
        lambda s: (
            -torch.log(torch.sigmoid(reference.discriminator(critic_state, fake_of(s)))).mean()
        ),
    )
    torch.testing.assert_close(loss, theirs)
    assert_same_gradients(model, expected)

    real, fake = normal(4, 3, 16, 16, seed=3, dtype=torch.float64), fake_of(state)
    critic.zero_grad()
    loss = losses.logistic_d(critic(real), critic(fake))
    loss.backward()

    def loss_of(s):
        real_p, fake_p = (torch.sigmoid(reference.discriminator(s, x)) for x in (real, fake))
        return -(torch.log(real_p).mean() + torch.log(1 - fake_p).mean())

    theirs, expected = reference_gradients(critic_state, critic_table, loss_of)
    torch.testing.assert_close(loss, theirs)
    assert_same_gradients(critic, expected)


def test_second_derivatives_of_r1_equal_the_reference():
    critic, state, table = pair_of_discriminators()
    real = normal(4, 3, 16, 16, dtype=torch.float64).requires_grad_(True)
    penalty = losses.r1_penalty(real, critic(real))
    penalty.backward()

    def penalty_of(state):
        logits = reference.discriminator(state, real)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return sum((of_image**2).sum() for of_image in gradient) / len(real)

    theirs, expected = reference_gradients(state, table, penalty_of)
    assert penalty > 1e-6
    torch.testing.assert_close(penalty, theirs, rtol=1e-9, atol=0)
    # behind the standard deviation all is piecewise linear: what is added there has no slope
    assert_same_gradients(critic, expected, without={"conv.bias", "fc.bias", "out.bias"})


def test_second_derivatives_of_path_length_equal_the_reference():
    model, state, table = pair_of_generators()
    z = normal(3, SETTINGS.w_dim, dtype=torch.float64)
    target = 0.7

    ws = model.to_rows(model.mapping(z))
    torch.manual_seed(5)
    lengths = losses.path_lengths(model.synthesis(ws, "fixed"), ws)
    (lengths - target).square().mean().backward()

    def penalty_of(state):
        ws = reference.mapping(state, z)[:, None].expand(-1, model.rows, -1)
        image = reference.generator(state, ws)
        torch.manual_seed(5)
        y = torch.randn(image.shape, dtype=image.dtype) / 16
        (gradient,) = torch.autograd.grad((image * y).sum(), ws, create_graph=True)
        each = [torch.sqrt((g**2).sum() / model.rows) for g in gradient]
        torch.testing.assert_close(lengths, torch.stack(each), rtol=1e-9, atol=0)
        return sum((length - target) ** 2 for length in each) / len(each)

    _, expected = reference_gradients(state, table, penalty_of)
    # a constant added to the image has no slope in w
    without = {f"synthesis.blocks.{b}.to_rgb.bias" for b in range(len(WIDTHS))}
    assert_same_gradients(model, expected, without)


# ----- rows of W+


def test_every_layer_reads_its_row():
    model = on_meta(nets.Generator, 64, 8, 1, 512, 8)
    model = model.to_empty(device="cpu").eval()
    read = {}

    def record(name):
        return lambda module, arguments: read.update({name: int(arguments[1][0, 0])})

    for side, block in zip(model.synthesis.sides, model.synthesis.blocks):
        for name in ("up", "conv", "to_rgb"):
            if getattr(block, name) is not None:
                getattr(block, name).register_forward_pre_hook(record((side, name)))
    ws = torch.arange(10.0)[None, :, None].expand(1, 10, 8)
    model.synthesis(ws, "none")
    expected = {(4, "conv"): 0, (4, "to_rgb"): 1}
    for b, side in enumerate((8, 16, 32, 64), 1):
        expected |= {(side, "up"): 2 * b - 1, (side, "conv"): 2 * b, (side, "to_rgb"): 2 * b + 1}
    assert read == expected


def test_the_last_row_changes_the_last_image_layer_alone():
    torch.manual_seed(0)
    model = nets.Generator(64, 8, 1, 512, 8)
    ws = normal(1, 10, 8)
    other = ws.clone()
    other[:, 9] += 1
    before, after = {}, {}
    image = model.synthesis(ws, "fixed", features=before)
    changed = model.synthesis(other, "fixed", features=after)
    assert all(torch.equal(before[side], after[side]) for side in (4, 8, 16, 32, 64))
    last = model.synthesis.blocks[-1].to_rgb
    expected = last(before[64], other[:, 9]) - last(before[64], ws[:, 9])
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(changed - image, expected)


def test_every_row_matters_and_is_needed():
    model = tiny()
    ws = normal(1, model.rows, SETTINGS.w_dim).requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.synthesis(ws, "fixed").square().sum(), ws)
    assert (gradient.abs().amax(2) > 0).all()
    for wrong in (ws[:, :-1], ws[:, 0]):
        with pytest.raises(ValueError, match="6 x D"):
            model.synthesis(wrong)


def test_mixing_takes_later_rows_from_the_second():
    model = tiny()
    z1, z2 = normal(4, SETTINGS.w_dim), normal(4, SETTINGS.w_dim, seed=1)
    ws = model.mix(z1, z2, torch.tensor([1, 3, 5, 6]))
    w1, w2 = model.mapping(z1), model.mapping(z2)
    for i, crossover in enumerate((1, 3, 5, 6)):
        for row in range(6):
            expected = (w1 if row < crossover else w2)[i]
            torch.testing.assert_close(ws[i, row], expected)


# ----- truncation, mean of w


def test_truncation():
    model, z = tiny(), normal(3, SETTINGS.w_dim)
    w = model.mapping(z)
    model.mapping.track(w)
    mean = model.mapping.w_avg
    assert mean.any()
    middle = model.synthesis(model.to_rows(mean.expand(3, -1)), "fixed")
    assert torch.equal(model(z, 0.0, "fixed"), middle)
    assert torch.equal(model(z, 1.0, "fixed"), model.synthesis(model.to_rows(w), "fixed"))
    torch.testing.assert_close(model.truncate(w, 0.7), mean + 0.7 * (w - mean))
    rows = model.to_rows(w)
    torch.testing.assert_close(model.truncate(rows, 0.7)[:, 2], model.truncate(w, 0.7))


def test_mean_of_w_is_tracked():
    mapping = tiny().mapping
    first, second = normal(4, SETTINGS.w_dim), normal(5, SETTINGS.w_dim, seed=1)
    mapping.track(first)
    torch.testing.assert_close(mapping.w_avg, 0.005 * first.mean(0))
    mapping.track(second, decay=0.9)
    expected = 0.9 * 0.005 * first.mean(0) + 0.1 * second.mean(0)
    torch.testing.assert_close(mapping.w_avg, expected)
    assert "w_avg" in mapping.state_dict() and "w_avg" not in dict(mapping.named_parameters())


# ----- noise


def test_fixed_noise_repeats_bit_by_bit():
    model, z = tiny(), normal(2, SETTINGS.w_dim)
    assert torch.equal(model(z, noise="fixed"), model(z, noise="fixed"))
    maps = [layer.noise[None, None] for layer in model.synthesis.convs()]
    assert torch.equal(model(z, noise="fixed"), model(z, noise=maps))


def test_random_noise_differs_between_calls_and_images():
    model = tiny()
    z = normal(1, SETTINGS.w_dim).expand(2, -1)
    first, second = model(z), model(z)  # "random" is the default
    assert (first - second).abs().max() > 1e-2
    assert (first[0] - first[1]).abs().max() > 1e-2


def test_no_noise_is_noise_of_no_strength():
    model, z = tiny(), normal(2, SETTINGS.w_dim)
    image = model(z, noise="none")
    assert (image - model(z, noise="fixed")).abs().max() > 1e-2
    for layer in model.synthesis.convs():
        layer.noise_strength.data.zero_()
    assert torch.equal(image, model(z, noise="random"))


def test_noise_maps_are_shared_between_generators():
    model, other = tiny(0), tiny(1)
    learnt = {key: v for key, v in model.state_dict().items() if not key.endswith(".noise")}
    other.load_state_dict(learnt, strict=False)
    z = normal(2, SETTINGS.w_dim)
    maps = model.synthesis.draw_noise(2, torch.Generator().manual_seed(3))
    again = other.synthesis.draw_noise(2, torch.Generator().manual_seed(3))
    assert [tuple(m.shape) for m in maps] == [(2, 1, s, s) for s in (4, 8, 8, 16, 16)]
    assert all(torch.equal(a, b) for a, b in zip(maps, again))
    assert torch.equal(model(z, noise=maps), other(z, noise=maps))
    assert not torch.equal(model(z, noise="fixed"), other(z, noise="fixed"))


def test_wrong_noise_is_refused():
    model, z = tiny(), normal(1, SETTINGS.w_dim)
    maps = model.synthesis.draw_noise(1)
    for wrong in (maps[:-1], [*maps, maps[-1]], []):
        with pytest.raises(ValueError, match=f"5 noise maps, got {len(wrong)}"):
            model(z, noise=wrong)
    with pytest.raises(ValueError, match="constant"):
        model(z, noise="constant")


# ----- features in and out


def test_features_make_the_image():
    model, features = tiny(), {}
    ws = model.to_rows(model.mapping(normal(2, SETTINGS.w_dim)))
    image = model.synthesis(ws, "fixed", features=features)
    assert {side: tuple(x.shape) for side, x in features.items()} == {
        4: (2, 16, 4, 4), 8: (2, 16, 8, 8), 16: (2, 8, 16, 16),
    }  # fmt: skip
    made = torch.zeros(2, 3, 2, 2)
    for b, block in enumerate(model.synthesis.blocks):
        made = reference.up2(made) + block.to_rgb(features[4 * 2**b], ws[:, 2 * b + 1])
    torch.testing.assert_close(made, image, rtol=1e-4, atol=1e-5)


def test_edit_stands_behind_the_up_convolution():
    model, seen, features = tiny(), {}, {}
    ws = model.to_rows(model.mapping(normal(2, SETTINGS.w_dim)))

    def look(side, x):
        seen[side] = x
        return x

    image = model.synthesis(ws, "fixed", edit=look, features=features)
    assert torch.equal(image, model.synthesis(ws, "fixed"))
    assert list(seen) == [4, 8, 16]
    constant = model.synthesis.constant.expand(2, -1, -1, -1)
    assert torch.equal(seen[4], constant)
    for b, side in ((1, 8), (2, 16)):
        up = model.synthesis.blocks[b].up
        expected = up(features[side // 2], ws[:, 2 * b - 1], up.noise[None, None])
        torch.testing.assert_close(seen[side], expected)

    edited = {}
    model.synthesis(ws, "fixed", lambda side, x: 2 * x if side == 8 else x, edited)
    conv = model.synthesis.blocks[1].conv
    torch.testing.assert_close(edited[8], conv(2 * seen[8], ws[:, 2], conv.noise[None, None]))
    assert torch.equal(edited[4], features[4]) and not torch.equal(edited[16], features[16])


# ----- discriminator


def test_standard_deviation_of_the_minibatch_by_hand():
    # two images of two pixels: deviations from the mean 1, 2 | 3, 4
    x = torch.tensor([[[[0.0, 1.0]], [[2.0, 3.0]]], [[[2.0, 5.0]], [[8.0, 11.0]]]])
    y = nets.minibatch_stddev(x)
    assert torch.equal(y[:, :2], x) and y.shape == (2, 3, 1, 2)
    torch.testing.assert_close(y[:, 2:], torch.full((2, 1, 1, 2), 2.5))


def test_groups_of_the_minibatch():
    x = normal(8, 5, 4, 4)
    y = nets.minibatch_stddev(x, 4)[:, 5]
    values = reference.stddev_channel(x, 4)
    for i in range(8):
        torch.testing.assert_close(y[i], values[i].expand(4, 4))
    torch.testing.assert_close(y[0], y[2])  # every second image is in the group of the first
    assert (y[0] - y[1]).abs().min() > 1e-3
    alone = nets.minibatch_stddev(x[:1], 4)[:, 5]
    torch.testing.assert_close(alone, torch.full_like(alone, 1e-4))  # nothing deviates


def test_batches_that_cannot_be_grouped_are_refused():
    with pytest.raises(ValueError, match="6 cannot be cut into groups of 4"):
        nets.minibatch_stddev(torch.zeros(6, 2, 4, 4), 4)
    assert nets.minibatch_stddev(torch.zeros(3, 2, 4, 4), 4).shape == (3, 3, 4, 4)


def test_r1_reaches_every_weight():
    torch.manual_seed(0)
    critic = helper.build_discriminator(SETTINGS)
    real = normal(4, 3, 16, 16).requires_grad_(True)
    losses.r1_penalty(real, critic(real)).backward()
    for name, parameter in critic.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name


def test_discriminator_is_piecewise_linear_but_for_the_batch():
    """A known answer: doubling image and biases doubles the logit of a batch of one."""
    critic = pair_of_discriminators()[0]
    image = normal(1, 3, 16, 16, dtype=torch.float64)
    before = critic(image)
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            if name.endswith("bias"):
                parameter *= 2
        # the extra channel, 1e-4 here, stays as it is
        critic.conv.weight[:, -1] *= 2
    torch.testing.assert_close(critic(2 * image), 2 * before)


# ----- the method's own


@pytest.mark.parametrize(
    ("every", "rate", "beta"), [(4, 0.0016, 0.99199), (16, 0.001882, 0.99059), (0, 0.002, 0.99)]
)
def test_adam_for_lazy_regularisation(every, rate, beta):
    optimizer = helper.lazy_adam([torch.zeros(1, requires_grad=True)], 0.002, (0.0, 0.99), every)
    options = optimizer.defaults
    assert options["lr"] == pytest.approx(rate, abs=5e-7)
    assert options["betas"] == (0.0, pytest.approx(beta, abs=5e-6))
    assert options["eps"] == 1e-8


def test_samples_depend_on_their_seed_alone():
    model = tiny()
    few, many = (
        helper.sample(model, 5, torch.Generator().manual_seed(7), batch=batch) for batch in (2, 5)
    )
    torch.testing.assert_close(few, many)
    assert few.shape == (5, 3, 16, 16) and few.min() >= 0 and few.max() <= 1
    z = torch.randn(5, SETTINGS.w_dim, generator=torch.Generator().manual_seed(7))
    expected = (model(z, noise="fixed") + 1) / 2
    torch.testing.assert_close(few, expected.clamp(0, 1))


def test_a_step_of_training():
    torch.manual_seed(0)
    settings = helper.Settings(**helper.TINY, r1_every=2, path_every=2)
    trainer = helper.make_trainer(helper.build(settings), settings, {})
    before = {
        name: {key: value.clone() for key, value in network.state_dict().items()}
        for name, network in trainer.networks.items()
    }
    batch = {"truth": torch.rand(4, 3, 16, 16), "images_seen": 0}
    found = trainer.step({**batch, "step": 0})
    assert {"r1", "path_penalty", "generator", "discriminator"} <= found.keys()
    assert all(torch.isfinite(value) for value in found.values())
    # a <- a + 0.01 (mean length - a), from 0
    assert 0 < trainer.path_mean < 0.1 and trainer.extra()["path_mean"] == trainer.path_mean
    plain = trainer.step({**batch, "step": 1})
    assert not {"r1", "path_penalty"} & plain.keys()
    for name, network in trainer.networks.items():
        moved = [
            key
            for key, value in network.state_dict().items()
            if not torch.equal(value, before[name][key])
        ]
        still = before[name].keys() - set(moved)
        assert all(key.endswith(".noise") for key in still), still


def test_first_derivative_by_finite_differences():
    """Path lengths are those of a Jacobian that is measured, not differentiated."""
    model, _, _ = pair_of_generators()
    ws = normal(1, model.rows, SETTINGS.w_dim, dtype=torch.float64).requires_grad_(True)
    torch.manual_seed(2)
    length = losses.path_lengths(model.synthesis(ws, "fixed"), ws)
    torch.manual_seed(2)
    y = torch.randn(1, 3, 16, 16, dtype=torch.float64) / 16
    step, slopes = 1e-6, torch.zeros(model.rows, SETTINGS.w_dim, dtype=torch.float64)
    with torch.no_grad():
        for row in range(model.rows):
            moved = ws.repeat(2 * SETTINGS.w_dim, 1, 1)
            shift = torch.eye(SETTINGS.w_dim, dtype=torch.float64) * step
            moved[:, row] += torch.cat([shift, -shift])
            up, down = (model.synthesis(moved, "fixed") * y).sum((1, 2, 3)).chunk(2)
            slopes[row] = (up - down) / (2 * step)
    expected = slopes.square().sum(1).mean().sqrt()
    torch.testing.assert_close(length[0], expected, rtol=1e-5, atol=0)


def test_convolutions_of_the_discriminator_halve_the_side():
    x = normal(1, 4, 8, 8)
    for kernel in (1, 3):
        layer = nets.EqualConv(4, 6, kernel, down=True, activate=False)
        assert layer(x).shape == (1, 6, 4, 4)
    torch.manual_seed(0)
    layer = nets.EqualConv(64, 64, 3)
    inside = F.leaky_relu(torch.tensor(-1.0), 0.2) * math.sqrt(2)
    layer.weight.data.zero_()
    layer.bias.data.fill_(-1)
    torch.testing.assert_close(layer(normal(1, 64, 4, 4)), inside.expand(1, 64, 4, 4))
