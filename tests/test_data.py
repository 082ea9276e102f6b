"Data sets that users bring: what is interrupted leaves nothing, what is damaged is named, and memory holds each image once."

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcae_nb import Spec, cli, fit, images
from vcae_nb.core import project_root, VcaeError
from vcae_nb.data.resident import as_stored
from vcae_nb.data.images import (
    about_prepared, cache_path, drawn_face, prepare_celeba, prepare_images, prepared,
    prepared_names, preparing, write_cache,
)
from vcae_nb.method.runs import data_of

VCAE = Path(sys.executable).parent / "vcae"
fork = multiprocessing.get_context("fork")  # a child that has its imports already


def quiet(pictures, **_):
    return pictures


@pytest.fixture
def data(tmp_path, monkeypatch):
    "A data folder of its own."
    monkeypatch.setenv("VCAE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    "260 pictures in CelebA's layout, and their partition."
    folder = tmp_path_factory.mktemp("layout")
    (folder / "img_align_celeba").mkdir()
    faces = [drawn_face(i) for i in range(10)]
    for i in range(1, 261):
        faces[i % 10].save(folder / "img_align_celeba" / f"{i:06d}.jpg")
    lines = [f"{i:06d}.jpg {0 if i <= 220 else 1 if i <= 230 else 2}\n" for i in range(1, 261)]
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return folder


def slowly(pictures, **_):
    "The pictures; a file says when the second block has begun, and from then on they are late."
    for i, picture in enumerate(pictures):
        if i == images.BLOCK + 10:
            (images.data_root() / "begun").touch()
        if i > images.BLOCK:
            time.sleep(0.05)
        yield picture


def begin(layout, data):
    "A process in the middle of a preparation."
    process = fork.Process(target=prepare_celeba, args=(layout, "faces", slowly))
    process.start()
    deadline = time.monotonic() + 60
    while not (data / "begun").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("number, left", [(signal.SIGKILL, [".faces.h5.part"]), (signal.SIGTERM, []), (signal.SIGINT, [])])
def test_interrupted(number, left, layout, data):
    process = begin(layout, data)
    with pytest.raises(VcaeError, match="another process is preparing"):
        prepare_celeba(layout, "faces", quiet)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number)
    assert prepared_names() == [] and [p.name for p in data.glob(".*.part")] == left
    out = prepare_celeba(layout, "faces", quiet)
    assert not list(data.glob(".*.part")) and len(prepared("faces").train) == 220
    assert about_prepared(out)["digest"] == prepared("faces").digest


def test_a_full_disk(layout, data, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a small disk")
    data.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", data], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(VcaeError, match="GB are needed; free some space"):
            prepare_celeba(layout, "faces", quiet)
        monkeypatch.setattr(images.shutil, "disk_usage", lambda path: images.shutil._ntuple_diskusage(10**9, 0, 10**9))  # others fill it meanwhile
        with pytest.raises(VcaeError, match="the disk is full; free some space"):
            prepare_celeba(layout, "faces", quiet)
        assert prepared_names() == [] and not list(data.glob(".*.part"))
    finally:
        subprocess.run(["umount", data], check=True)


def test_memory_holds_each_image_once(data):
    shape, n = (64, 64, 3), 8000
    row = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8).reshape(shape)
    splits = {"train": [f"{i}" for i in range(n)], "test": [f"{i}" for i in range(n, n + 10)]}
    about = images.about_of("plain", "images", "0", 64, None)
    with preparing(cache_path("plain")) as part:
        assert write_cache(part, splits, lambda name: row, shape, about, quiet) == {}
    receive, send = fork.Pipe(duplex=False)

    def child():
        status = lambda key: next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))
        before = status("VmRSS")
        data = prepared("plain")
        send.send((before, status("VmHWM"), data.digest))

    process = fork.Process(target=child)
    process.start()
    before, peak, digest = receive.recv()
    process.join()
    size = n * row.size
    assert digest == about_prepared(cache_path("plain"))["digest"]
    assert 0.9 * size < peak - before < 1.3 * size


def test_decoding_keeps_memory_flat(data, monkeypatch):
    "No more pictures are in flight than a block, however slowly they are written."
    monkeypatch.setattr(images, "BLOCK", 10)
    flown = []

    def work(name):
        flown.append(name)
        return np.zeros((8, 8, 3), np.uint8)

    for landed, _ in enumerate(images.in_order([str(i) for i in range(100)], work)):
        assert len(flown) - landed <= 10
    assert len(flown) == 100


def test_the_same_from_zip_and_folder(layout, data):
    with zipfile.ZipFile(data.parent / "some.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for path in sorted(layout.rglob("*.*")):
            z.write(path, Path("celeba") / path.relative_to(layout))
    prepare_celeba(layout / "img_align_celeba", "from-folder", quiet)
    prepare_celeba(data.parent / "some.zip", "from-zip", quiet)
    one, two = (about_prepared(cache_path(name)) for name in ("from-folder", "from-zip"))
    assert {key for key in one if one[key] != two[key]} == {"name"} and (one["train"], one["valid"], one["test"]) == (220, 10, 30)


def test_a_picture_that_cannot_be_opened(layout, data, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for i in range(5):
        drawn_face(i).save(folder / f"ä {i}\u202f.png")
    (folder / "locked.png").symlink_to("/proc/self/mem")  # readable by name, not by content
    with pytest.raises(VcaeError, match="1 bad file in .*: locked.png "):
        prepare_images(folder, "own-images", progress=quiet)
    os.rename(folder / "locked.png", os.fsencode(folder) + b"/\xff.png")
    with pytest.raises(VcaeError, match="not text in UTF-8; rename it"):
        prepare_images(folder, "own-images", progress=quiet)
    os.unlink(os.fsencode(folder) + b"/\xff.png")
    prepare_images(folder, "own-images", progress=quiet)
    assert len(prepared("own-images").train) == 3


def test_the_command(layout, data):
    "One line on stdout."
    done = subprocess.run([VCAE, "data", "celeba", layout, "--partial", "faces"], cwd=project_root(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stdout.startswith("faces: 220 train, 10 valid, 30 test; 64x64x3, SHA-256 ")
    assert prepared_names() == ["faces"]


def test_the_command_refuses(layout, data, monkeypatch, capfd):
    "One line on stderr, and exit code 1."
    monkeypatch.setattr(sys, "argv", ["vcae", "data", "celeba", str(layout)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    out, err = capfd.readouterr()
    assert leaving.value.code == 1 and out == "" and len(err.splitlines()) == 1
    assert err.startswith("vcae: ") and "holds 260 pictures where CelebA has 202,599 (000261.jpg, 000262.jpg" in err
    assert prepared_names() == []


def test_training_on_what_was_prepared(layout, data):
    "A spec finds prepared images by their name, like any other data set."
    prepare_images(layout, "album", size=16, progress=quiet)
    run = fit(Spec(model="VCAE", dataset="album", z_dim=2, width=1 / 64, steps=2), device="cpu", root=data / "runs")
    assert (run.manifest["dataset"], run.manifest["dataset_sha256"]) == ("album", about_prepared(cache_path("album"))["digest"])
    assert tuple(run.decode(run.encode(prepared("album").test)).shape[1:]) == (3, 16, 16)
    with pytest.raises(VcaeError, match="unknown data set 'albun'.*Did you mean 'album'"):
        fit(Spec(dataset="albun"), root=data / "runs")


def discs(folder, shade, n=12):
    "Pictures of one size in bytes."
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new("RGB", (16, 16), (shade, i, 0)).save(folder / f"{i}.bmp")
    return folder


def test_changed_pictures_of_the_same_size_are_noticed(data, tmp_path):
    prepare_images(discs(tmp_path / "own", 10), "album", size=16, progress=quiet)
    prepare_images(tmp_path / "own", "album", size=16, progress=quiet)
    discs(tmp_path / "own", 200)
    with pytest.raises(VcaeError, match="made with other files"):
        prepare_images(tmp_path / "own", "album", size=16, progress=quiet)


def test_folders_of_splits(data, tmp_path, capsys):
    discs(tmp_path / "elsewhere", 10)
    discs(tmp_path / "own" / "Test", 200, 3)
    discs(tmp_path / "own" / "val", 100, 3)
    with pytest.raises(VcaeError, match="there are the folders test, val, and not both"):
        prepare_images(tmp_path / "own", "album", size=16, progress=quiet)
    (tmp_path / "own" / "Train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "own")
    (tmp_path / "own" / "notes.heic").touch()
    about = about_prepared(prepare_images(tmp_path / "own", "album", size=16, progress=quiet))
    assert (about["train"], about["valid"], about["test"]) == (12, 3, 3) and "1 files are taken for no pictures" in capsys.readouterr().out


def test_a_traversal_does_not_take_other_images_for_the_runs_own(data, tmp_path):
    prepare_images(discs(tmp_path / "own", 10), "album", size=16, progress=quiet)
    run = fit(Spec(model="VCAE", dataset="album", z_dim=2, width=1 / 64, steps=2), device="cpu", root=data / "runs")
    assert data_of(run).digest == run.manifest["dataset_sha256"]
    cache_path("album").unlink()
    prepare_images(discs(tmp_path / "own", 200), "album", size=16, progress=quiet)
    with pytest.raises(VcaeError, match="other images, or they have changed since"):
        data_of(run)


@pytest.mark.parametrize("make", [lambda x: x[..., ::-1], lambda x: x.astype(">f8") / 255, lambda x: x.astype("uint16"), lambda x: x > 100])
def test_arrays_as_other_libraries_make_them(make):
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    made = make(x)
    if made.dtype == "uint16":
        with pytest.raises(VcaeError, match=r"convert them by .to\(torch.uint8\)"):
            as_stored(made)
    else:
        assert as_stored(made).shape == (4, 8, 8, 3) and as_stored(made).max() > 200
