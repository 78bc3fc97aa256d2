import pytest

from fastdcgan.storage.wording import counted


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 copies"), (1, "1 copy"), (2, "2 copies"), (12_345, "12,345 copies")]
)
def test_one_is_said_as_one(count: int, said: str) -> None:
    assert counted(count, "copy", "copies") == said
    assert counted(count, "file") == said.replace("copies", "files").replace("copy", "file")
