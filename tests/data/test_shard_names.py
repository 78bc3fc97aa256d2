from pathlib import Path

import pytest

from fastdcgan.data.archives.shard_names import expand_shards, make_absolute, names_shards

NAMES = "a0 a1 a2 a8 a9 a10 b-08 b-09 b-10 b-11 train/0 train/1 extra/0 c[1] {x}"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in NAMES.split():
        path = tmp_path / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "again.tar").symlink_to("a1.tar")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("a1.tar", "a1"),
        ("./a1.tar", "a1"),
        ("a{0..2}.tar", "a0 a1 a2"),
        ("a{2..0}.tar", "a2 a1 a0"),
        ("a{8..10}.tar", "a8 a9 a10"),
        ("b-{08..11}.tar", "b-08 b-09 b-10 b-11"),
        ("b-{8..08}.tar", "b-08"),
        ("a{10,0}.tar", "a10 a0"),
        ("{train/{0..1},extra/0}.tar", None),  # braces within braces
        ("{train,extra}/0.tar", "train/0 extra/0"),
        ("{train,extra}/*.tar", "train/0 train/1 extra/0"),
        ("{extra,train}/{0..0}.tar", "extra/0 train/0"),
        ("tr*/{1,0}.tar", "train/1 train/0"),
        ("**/0.tar", "extra/0 train/0"),
        ("a?.tar", "a0 a1 a2 a8 a9"),
        ("a[01].tar", "a0 a1"),
        ("c[1].tar", "c[1]"),  # it is there
        ("{x}.tar", "{x}"),  # braces around no range and no list stand for themselves
        ("a{1,1,0}.tar", "a1 a0"),
        ("{a1,again}.tar", "a1"),
    ],
)
def test_what_a_spec_stands_for(spec: str, found: str | None) -> None:
    assert names_shards(spec)
    if found is None:
        with pytest.raises(ValueError, match="no such shard"):
            expand_shards(spec)
    else:
        assert expand_shards(spec) == [f"{name}.tar" for name in found.split()]


def test_home_and_folders(tmp_path: Path) -> None:
    assert expand_shards("~/a{0..1}.tar") == [str(tmp_path / "a0.tar"), str(tmp_path / "a1.tar")]
    assert names_shards("train")
    assert expand_shards("train") == ["train/0.tar", "train/1.tar"]
    assert not names_shards("."), "it has folders in it"
    (tmp_path / "train" / "x.JPG").write_bytes(b"")
    assert not names_shards("train"), "it has pictures in it"


@pytest.mark.parametrize("spec", ["missing", "again.jpg", "x.npy", "notes", "\0"])
def test_other_specs_are_no_shards(spec: str) -> None:
    assert not names_shards(spec)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("d.tar", "no such shard: d.tar"),
        ("a{1..5}.tar", r"no such shard: a3.tar \(3 of 5 are missing\)"),
        ("d*.tar", r"no such shard: d\*.tar"),
        ("{train,other}/*.tar", r"no such shard: other/\*.tar \(1 of 2 are missing\)"),
        ("{0..999}/{0..9999}.tar", "stands for 10,000,000 shards; more than 1,000,000 are not opened"),
    ],
)
def test_a_missing_shard_is_named(spec: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        expand_shards(spec)


def test_absolute(tmp_path: Path) -> None:
    assert make_absolute("a{0..1}.tar") == f"{tmp_path}/a{{0..1}}.tar"
    assert make_absolute("~/train/../train/*.tar") == f"{tmp_path}/train/*.tar"
    assert make_absolute("{train,extra}/0.tar") == f"{tmp_path}/{{train,extra}}/0.tar"


def test_more_alternatives_than_a_name_may_have_characters(tmp_path: Path) -> None:
    shards = [str(tmp_path / f"train-{'x' * 20}-{number}.tar") for number in range(20)]
    for shard in shards:
        Path(shard).touch()
    spec = str(tmp_path / f"{{{','.join(Path(shard).stem for shard in shards)}}}.tar")
    assert names_shards(spec)
    assert expand_shards(spec) == shards
