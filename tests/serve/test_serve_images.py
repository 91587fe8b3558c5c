"""Images from a file to an answer: the digits example, fitted by a real turn and asked over real sockets."""

import base64
import dataclasses
import importlib.util
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tritonclient.http as triton
from PIL import Image as Pillow

from everloop.cli.app import run_app
from everloop.errors import PackageError
from everloop.forms import Image
from everloop.loop.server import ServingProcess
from everloop.measure.images import probed
from everloop.records import TensorColumn
from everloop.serve.tensors import check_decoder
from everloop.store.home import Home
from everloop.testing.serving import Client, signature_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example after its first turn; file 3 holds a broken image."""
    folder = tmp_path_factory.mktemp("digits")
    shutil.copy(EXAMPLE, folder)
    spec = importlib.util.spec_from_file_location("digits_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(folder / "digits")
    file = folder / "digits" / "000600.parquet"
    rows = pl.read_parquet(file)
    pictures = rows["png"].to_list()
    pictures[7], pictures[8] = pictures[7][:40], None
    rows.with_columns(pl.Series("png", pictures, dtype=pl.Binary)).write_parquet(file)
    assert run_app(["run", str(folder / "digits.py")]) == 0
    return folder


@pytest.fixture(scope="module")
def server(digits: Path) -> Iterator[int]:
    with ServingProcess.start(Home(digits / ".everloop"), ["digits"]) as process:
        yield process.port


@pytest.fixture
def client(server: int) -> Iterator[Client]:
    with Client(server) as connection:
        yield connection


def pictures(digits: Path) -> tuple[list[bytes], list[int]]:
    rows = pl.read_parquet(digits / "digits" / "001500.parquet")
    return rows["png"].to_list(), rows["digit"].to_list()


def ask(client: Client, rows: Any) -> tuple[int, Any]:
    return client.post("/predict/digits", rows)


def test_broken_and_missing_images_are_set_aside_with_their_reason(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["data", "show", "quarantine", "--json", "--home", str(digits / ".everloop")]) == 0
    said = capsys.readouterr().out
    assert "png is no image: a PNG of … bytes that is damaged" in said
    assert "png is no image: empty" in said


def test_an_image_is_sent_as_base64(client: Client, digits: Path) -> None:
    files, truth = pictures(digits)
    status, answers = ask(client, [{"png": base64.b64encode(each).decode()} for each in files[:100]])
    assert status == 200
    assert np.mean([a["decision"] == t for a, t in zip(answers, truth, strict=False)]) > 0.8


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({}, "'png' is missing"),
        ({"png": ""}, "'png' is missing"),
        ({"png": None}, "PNG or JPEG"),
        ({"png": 5}, "PNG or JPEG"),
        ({"png": "not base64!"}, "PNG or JPEG"),
        ({"png": base64.b64encode(b"hello").decode()}, "neither PNG nor JPEG"),
        ({"png": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()}, "damaged"),
    ],
)
def test_what_is_no_image_is_refused_and_nobody_else_suffers(
    client: Client, digits: Path, sent: dict[str, Any], said: str
) -> None:
    status, answer = ask(client, sent)
    assert status == 400
    assert said in answer["error"]
    files, _ = pictures(digits)
    assert ask(client, {"png": base64.b64encode(files[0]).decode()})[0] == 200


def test_a_client_of_triton_sends_bytes(server: int, client: Client, digits: Path) -> None:
    files, _ = pictures(digits)
    _, answers = ask(client, [{"png": base64.b64encode(each).decode()} for each in files[:3]])
    with triton.InferenceServerClient(f"localhost:{server}") as asking:
        told = asking.get_model_metadata("digits")["inputs"][0]
        assert (told["datatype"], told["shape"]) == ("BYTES", [-1])
        for binary in (True, False):
            given = triton.InferInput("png", [3], "BYTES")
            data = files[:3] if binary else [base64.b64encode(each) for each in files[:3]]
            given.set_data_from_numpy(np.array(data, dtype=object), binary_data=binary)
            answer = asking.infer("digits", [given])
            assert answer.as_numpy("decision").tolist() == [each["decision"] for each in answers]
        broken = triton.InferInput("png", [1], "BYTES")
        broken.set_data_from_numpy(np.array([b"\xff\xd8 no more"], dtype=object))
        with pytest.raises(triton.InferenceServerException, match="damaged"):
            asking.infer("digits", [broken])


def test_files_are_scored_offline(client: Client, digits: Path, tmp_path: Path) -> None:
    files, _ = pictures(digits)
    _, answer = ask(client, {"png": base64.b64encode(files[0]).decode()})
    pl.DataFrame({"number": [9_001, 9_002], "png": [files[0], b"no"]}).write_parquet(tmp_path / "in.parquet")
    words = [
        "batch", "digits", str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), "--home",
        str(digits / ".everloop"), "--skip-bad", "--keep", "key",
    ]  # fmt: skip
    assert run_app(words) == 0
    scored = pl.read_parquet(tmp_path / "out.parquet")
    assert scored["predicted"].to_list() == [answer["decision"]]


def test_a_server_whose_decoder_does_otherwise_refuses_the_package() -> None:
    form = Image(height=4, width=4, channels=1, fit="stretch", mean=(0.0,), deviation=(1.0,))
    column = TensorColumn(name="png", datatype="UINT8", shape=(4, 4, 1), image=form, probe=probed(form))
    other = TensorColumn(name="png", datatype="UINT8", shape=(4, 4, 1), image=form, probe=(0,) * len(column.probe))
    plain = signature_of({"x": "number"})
    check_decoder(dataclasses.replace(plain, tensors=(column,)))
    with pytest.raises(PackageError, match="Pillow"):
        check_decoder(dataclasses.replace(plain, tensors=(other,)))


def flat(side: int) -> bytes:
    """A PNG of one colour: 100 KB hold 33 megapixels."""
    file = io.BytesIO()
    Pillow.new("L", (side, side), 200).save(file, "PNG")
    return file.getvalue()


def encoded(*files: bytes) -> list[dict[str, str]]:
    return [{"png": base64.b64encode(each).decode()} for each in files]


def test_a_large_picture_is_decoded_beside_the_loop(server: int, client: Client, digits: Path) -> None:
    small = encoded(pictures(digits)[0][0])
    large = encoded(*[flat(5000)] * 4)
    with Client(server) as other, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, other, large)
        while not asked.done():  # as often as it goes while four times 25 megapixels are decoded
            status, _ = ask(client, small)
            assert status == 200
            if asked.running():
                break
        before = asked.done()
        status, answers = asked.result()
    assert not before, "the small one waited for the large ones"
    assert status == 200
    assert len(answers) == 4
    status, of_small = ask(client, encoded(flat(8)))
    assert answers[3]["probability"] == pytest.approx(
        of_small[0]["probability"], abs=1e-6
    )  # in a batch of another size


def test_a_large_picture_comes_by_v2_too(client: Client, digits: Path) -> None:
    files = [flat(600), pictures(digits)[0][0]]
    data = [base64.b64encode(each).decode() for each in files]
    status, answer = client.post(
        "/v2/models/digits/infer", {"inputs": [{"name": "png", "datatype": "BYTES", "shape": [2], "data": data}]}
    )
    assert status == 200, answer
    _, rows = ask(client, encoded(*files))
    _, alone = ask(client, encoded(files[1]))
    assert rows[1]["probability"] == pytest.approx(alone[0]["probability"], abs=1e-6)


def test_what_grows_when_it_is_decompressed_is_refused(client: Client) -> None:
    status, answer = ask(client, encoded(flat(6000)))
    assert (status, "6000 × 6000 pixels" in answer["error"]) == (400, True)
    status, answer = ask(client, encoded(*[flat(5700)] * 5))
    assert (status, "162,450,000 pixels together" in answer["error"]) == (413, True)
    status, answer = ask(client, encoded(flat(400)[:200], flat(400)))
    assert (status, "damaged" in answer["error"] and "in row 0" in answer["error"]) == (400, True)
