"Data sets that users bring: what is interrupted leaves nothing, what is damaged is named, and memory holds each image once."

import hashlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from vcae_nb.core import project_root, VcaeError
from vcae_nb.data import datasets, images
from vcae_nb.data.datasets import dataset_of, load_dataset, read_mnist
from vcae_nb.data.images import (
    about_prepared, cache_path, hold_out, new_name, pixels, prepare_celeba, prepare_images,
    prepared, prepared_names,
)
from vcae_nb.data.resident import as_stored, Composed, Dataset, read_array
from vcae_nb.data.shapes3d import (
    convert_shapes3d, download_shapes3d, labels_of, RealShapes3D, RenderedShapes3D,
)
from vcae_nb.method.models import Spec
from vcae_nb.method.runs import data_of, fit

VCAE = Path(sys.executable).parent / "vcae"
fork = multiprocessing.get_context("fork")  # a child that has its imports already
rgb = torch.rand(50, 3, 8, 6, generator=torch.Generator().manual_seed(0))


def quiet(pictures, **_):
    return pictures


def picture(i, size=(178, 218)):
    "Smooth colours, another for each i."
    y, x = np.mgrid[: size[1], : size[0]]
    planes = [np.sin(x / (20 + i % 7)), np.cos(y / (30 + i % 5)), np.sin((x + y) / 40 + i)]
    return Image.fromarray((127 + 100 * np.stack(planes, -1)).astype(np.uint8))


def encoded(image, format="PNG", **settings):
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def discs(folder, shade, n=12, size=16):
    "Pictures of one size in bytes."
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new("RGB", (size, size), (shade, i, 0)).save(folder / f"{i}.bmp")
    return folder


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
    faces = [picture(i) for i in range(10)]
    for i in range(1, 261):
        faces[i % 10].save(folder / "img_align_celeba" / f"{i:06d}.jpg")
    lines = [f"{i:06d}.jpg {0 if i <= 220 else 1 if i <= 230 else 2}\n" for i in range(1, 261)]
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return folder


def left_in(folder):
    "What lies in a folder, but for locks."
    return sorted(p.name for p in folder.glob("[!.]*"))


# Interruptions


def slowly(pictures, desc="", **_):
    "The pictures; a file says when the second block is being kept, and from then on they are late."
    for i, made in enumerate(pictures):
        if desc == "kept" and i == images.BLOCK + 10:
            (images.data_root() / "begun").touch()
        if desc == "kept" and i > images.BLOCK:
            time.sleep(0.05)
        yield made


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_interrupted(number, layout, data):
    process = fork.Process(target=prepare_celeba, args=(layout, "faces", slowly))
    process.start()
    deadline = time.monotonic() + 60
    while not (data / "begun").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number)
    assert prepared_names() == []
    assert left_in(data) == ["begun", *["faces"][: number == signal.SIGKILL]]
    other = discs(data.parent / "other", 10)  # the name is free for other pictures
    prepare_images(other, "faces", size=16, progress=quiet)
    assert len(prepared("faces").train) == 10 and left_in(data) == ["begun", "faces"]


def test_two_processes_make_one_set(layout, data):
    children = [fork.Process(target=prepare_celeba, args=(layout, "faces", quiet)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert left_in(data) == ["faces"] and len(prepared("faces").train) == 220


def test_a_full_disk(layout, data, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a small disk")
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", data]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(VcaeError, match="GB are needed; free some space"):
            prepare_celeba(layout, "faces", quiet)
        much = shutil._ntuple_diskusage(10**9, 0, 10**9)  # others fill it meanwhile
        monkeypatch.setattr(shutil, "disk_usage", lambda path: much)
        with pytest.raises(VcaeError, match="the disk is full; free some space"):
            prepare_celeba(layout, "faces", quiet)
        assert prepared_names() == [] and not list(data.glob("*/*.npy"))
    finally:
        subprocess.run(["umount", data], check=True)


def test_a_folder_of_the_same_name_is_not_touched(data):
    mine = discs(data / "album", 10)
    with pytest.raises(VcaeError, match="album is where the set would stand, and it holds 0.bmp"):
        prepare_images(mine, "album", size=16, progress=quiet)
    assert len(left_in(mine)) == 12


# Memory


def test_memory_holds_each_image_once(data, tmp_path):
    n, child_of = 8000, data / "plain"
    discs(tmp_path / "few", 10, 10, 64)
    out = prepare_images(tmp_path / "few", "plain", progress=quiet)
    row = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 64, 64, 3)
    images.write_array(out / "train.npy", (n, 64, 64, 3), (row for _ in range(n)))
    manifest = images.read_manifest(out)
    digest = images._read(out, "plain", []).digest
    facts = {k: v for k, v in manifest.items() if k not in ("identity", "files", "sha256")}
    images.finish(out, manifest["identity"], **(facts | {"digest": digest, "train": n}))
    receive, send = fork.Pipe(duplex=False)

    def child():
        lines = lambda key: next(line for line in open("/proc/self/status") if line.startswith(key))
        status = lambda key: int(lines(key).split()[1]) << 10
        before = status("VmRSS")
        made = prepared("plain")
        send.send((before, status("VmHWM"), made.digest))

    process = fork.Process(target=child)
    process.start()
    before, peak, found = receive.recv()
    process.join()
    size = n * row.size
    assert found == digest and child_of == out
    assert 0.9 * size < peak - before < 1.3 * size


def test_decoding_keeps_memory_flat(monkeypatch):
    "No more pictures are in flight than a block, however slowly they are written."
    monkeypatch.setattr(images, "BLOCK", 10)
    flown = []
    for landed, _ in enumerate(images._in_order([str(i) for i in range(100)], flown.append)):
        assert len(flown) - landed <= 10
    assert len(flown) == 100


# CelebA and its layout


def zipped(layout, target, **files):
    "The pictures as a zip, with some files replaced, added, or left out where they are None."
    content = {str(p.relative_to(layout)): p.read_bytes() for p in layout.rglob("*.*")} | files
    with zipfile.ZipFile(target, "w") as z:
        for name, what in content.items():
            if what is not None:
                z.writestr(name, what)
    return target


@pytest.fixture
def small(layout, tmp_path, monkeypatch):
    "CelebA made small: fourteen pictures, without their partition."
    monkeypatch.setattr(images, "CELEBA_RANGES", {"train": (1, 8), "valid": (9, 10), "test": (11, 14)})
    folder = tmp_path / "small" / "img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(1, 15):
        shutil.copy(layout / "img_align_celeba" / f"{i:06d}.jpg", folder)
    return folder.parent


FIRST, PART = "img_align_celeba/000001.jpg", "list_eval_partition.txt"
GOOD = "".join(f"{i:06d}.jpg {0 if i < 9 else 1 if i < 11 else 2}\n" for i in range(1, 15))
JPG = encoded(picture(0), "JPEG")
SHORTER = {FIRST: None, PART: GOOD.replace("000001.jpg 0\n", "").encode()}


@pytest.mark.parametrize(
    "files, message",
    [
        ({FIRST: None}, r"holds 13 pictures where CelebA has 14 \(000001.jpg missing\); .*--partial NAME"),
        ({"img_align_celeba/000015.jpg": JPG}, "holds 15 pictures .*000015.jpg not of CelebA"),
        ({"img_align_celeba/again/000001.jpg": JPG}, "holds 000001.jpg twice: img_align_celeba/"),
        ({"img_align_celeba/me.jpg": JPG}, "holds img_align_celeba/me.jpg; CelebA's aligned pictures are"),
        ({FIRST: JPG[: len(JPG) // 2]}, "1 bad file in .*: img_align_celeba/000001.jpg cannot be decoded .*truncated.*Fetch them again"),
        ({FIRST: b"", "img_align_celeba/000002.jpg": encoded(picture(0, (64, 64)), "JPEG")}, "2 bad files in .*000001.jpg is not an image; .*000002.jpg is 64x64, not 178x218"),
        ({PART: GOOD.replace("01.jpg 0", "01.jpg 2").encode()}, "list_eval_partition of .* is not CelebA's: it differs at 000001.jpg"),
        ({PART: GOOD.replace("000014.jpg 2\n", "").encode()}, "is not CelebA's: it differs at 000014.jpg"),
        ({PART: b"\xff\xfe0"}, "line 1 of .*list_eval_partition.txt"),
        ({PART: b"a.jpg 0\nb.jpg"}, "line 2 of .* is 'b.jpg'; expected the name of a picture"),
        ({PART: b"a.jpg 0\na.jpg 1"}, "names a.jpg a second time"),
    ],
)
def test_what_is_not_celeba(files, message, small, data, tmp_path):
    with pytest.raises(VcaeError, match=message):
        prepare_celeba(zipped(small, tmp_path / "bad.zip", **files), progress=quiet)
    assert prepared_names() == [] and left_in(data) == []


@pytest.mark.parametrize(
    "files, name, message",
    [
        (SHORTER, "celeba-part", "would be taken for CelebA"),
        (SHORTER, "mnist", "the name of another data set"),
        ({FIRST: None}, "fewer", "there is no list_eval_partition.txt in .* or beside it"),
        (SHORTER | {PART: GOOD.encode()}, "fewer", "has a line, but there is no picture, for 000001.jpg"),
        ({PART: SHORTER[PART]}, "more", "has no line for 000001.jpg"),
        ({PART: GOOD.replace(" 2\n", " 1\n").encode()}, "untested", "fewer than two pictures to test"),
        ({PART: GOOD.encode()}, "part", "part is there already, made with other files; choose another name"),
        ({FIRST: None, PART: SHORTER[PART].replace(b"08.jpg 0", b"08.jpg 2")}, "part", "made with other files"),
        ({"img_align_celeba": None, **{f"img_align_celeba/{i:06d}.jpg": None for i in range(1, 15)}}, "none", "holds no picture of CelebA"),
    ],
)
def test_what_is_not_in_celebas_layout(files, name, message, small, data, tmp_path):
    prepare_celeba(zipped(small, tmp_path / "part.zip", **SHORTER), "part", quiet)
    with pytest.raises(VcaeError, match=message):
        prepare_celeba(zipped(small, tmp_path / "bad.zip", **files), name, quiet)
    assert prepared_names() == ["part"]


def test_the_same_from_zip_and_folder(layout, data):
    with zipfile.ZipFile(data.parent / "some.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for path in sorted(layout.rglob("*.*")):
            z.write(path, Path("celeba") / path.relative_to(layout))
    prepare_celeba(layout / "img_align_celeba", "from-folder", quiet)
    prepare_celeba(data.parent / "some.zip", "from-zip", quiet)
    one, two = (about_prepared(cache_path(name)) for name in ("from-folder", "from-zip"))
    assert {key for key in one if one[key] != two[key]} == {"name", "sha256"}
    assert (one["train"], one["valid"], one["test"]) == (220, 10, 30)


def test_a_byte_that_changed_in_a_zip(small, data, tmp_path):
    content = bytearray(zipped(small, tmp_path / "a.zip").read_bytes())
    content[content.index(b"000003.jpg") + 3000] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(VcaeError, match="1 bad file .*000003.jpg cannot be read .*Bad CRC-32"):
        prepare_celeba(tmp_path / "a.zip", progress=quiet)


# Folders of one's own


def test_names_of_data_sets():
    for bad, message in [("../faces", "cannot name"), ("Faces", "lower-case"), ("mnist", "another data set"),
                         ("celeba", "another"), ("celeba-small", "taken for CelebA"), ("a\nb", "cannot name")]:
        with pytest.raises(VcaeError, match=message):
            new_name(bad)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(size=4), "between 8 and 1024"),
        (dict(size=64, crop=32), "a crop must not be smaller"),
        (dict(crop=200), "3 bad files .*is 178x218, smaller than a crop of 200"),
        (dict(size=200), "would have to be enlarged to 200x200.*choose another --size"),
        (dict(test=1.0), "between 0 and 1"),
        (dict(test=0.5), "1 pictures to train on and 2 to test on"),
    ],
)
def test_settings_that_cannot_be(settings, message, data, tmp_path):
    for i in range(3):
        picture(i).convert("L").save(tmp_path / f"{i}.png")
    with pytest.raises(VcaeError, match=message):
        prepare_images(tmp_path, "album", progress=quiet, **settings)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(VcaeError, match="holds no pictures; the formats are"):
        prepare_images(tmp_path / "nothing", "album", progress=quiet)
    assert left_in(data) == []


def test_grey_where_no_picture_has_colour(data, tmp_path):
    for i in range(10):
        picture(i).convert("L").save(tmp_path / f"{i}.png")
    prepare_images(tmp_path, "greys", progress=quiet)
    picture(9).save(tmp_path / "9.png")
    prepare_images(tmp_path, "one-in-colour", progress=quiet)
    assert (prepared("greys").shape, prepared("one-in-colour").shape) == ((1, 64, 64), (3, 64, 64))


def test_each_kind_of_picture():
    half = Image.new("L", (64, 64), 255)
    half.paste(0, (0, 0, 32, 64))
    for image in (half, half.convert("1"), half.convert("P"), half.convert("RGBA")):
        assert (pixels(encoded(image)) == np.asarray(half)[..., None]).all(), image.mode
    frames = encoded(half, "GIF", save_all=True, append_images=[half.rotate(90)])
    assert (pixels(frames, channels=1) == np.asarray(half)[..., None]).all()
    for content, message in [
        (JPG[: len(JPG) // 2], "cannot be decoded .*truncated"),
        (b"<html>quota exceeded</html>", "is not an image"),
        (encoded(half.convert("F"), "TIFF"), "has pixels of kind F, not of 8 bits a channel"),
        (encoded(half.convert("I"), "TIFF"), "has pixels of kind I, not of 8 bits a channel"),
    ]:
        with pytest.raises(VcaeError, match=message):
            pixels(content)


def test_pictures_that_are_not_square(data, tmp_path):
    for i in range(5):
        Image.new("RGB", (40, 20), (255, 255, 255)).save(tmp_path / f"{i}.png")
    prepare_images(tmp_path, "cropped", size=16, progress=quiet)
    prepare_images(tmp_path, "padded", size=40, pad=True, progress=quiet)
    assert prepared("cropped").train.min() == 255
    rows = prepared("padded").train[0, :, 20, 0]
    assert rows[:9].max() == 0 and rows[11:29].min() == 255 and rows[31:].max() == 0


def test_labels_are_folders_side_by_side(data, tmp_path):
    for k, bird in enumerate(("robin", "wren")):
        discs(tmp_path / "birds" / bird, 100 + k, 10)
    prepare_images(tmp_path / "birds", "birds", size=16, progress=quiet)
    d = prepared("birds")
    assert d.classes == ("robin", "wren") and (d.train[:, 0, 0, 0] == 100 + d.train_labels).all()
    assert (d.test[:, 0, 0, 0] == 100 + d.test_labels).all()


def test_what_has_gone_bad(data, tmp_path):
    out = prepare_images(discs(tmp_path / "own", 10), "album", size=16, progress=quiet)
    draw, whole = random.Random(0), {p.name: p.read_bytes() for p in out.iterdir()}
    for name in ("train.npy", "test.npy", "manifest.json"):
        for _ in range(15):
            bad = bytearray(whole[name])
            head = 128 if name.endswith(".npy") else 0  # a blank more or less there changes nothing
            bad[draw.randrange(head, len(bad))] ^= 1 << draw.randrange(8)
            for content in (bad, whole[name][: draw.randrange(len(bad) - 1)]):
                (out / name).write_bytes(content)
                images._resident.cache_clear()
                with pytest.raises(VcaeError, match="album.* is damaged"):
                    prepared("album")
        (out / name).write_bytes(whole[name])
    out.rename(data / "scrap")
    with pytest.raises(VcaeError, match="scrap was prepared as 'album' and renamed; call it album again"):
        prepared("scrap")
    with pytest.raises(VcaeError, match="unknown prepared data set .*Did you mean 'scrap'"):
        prepared("scrapp")
    with pytest.raises(VcaeError, match="CelebA is not prepared in .*; `vcae data celeba PATH`"):
        load_dataset("celeba")
    shutil.rmtree(data / "scrap")
    with pytest.raises(VcaeError, match="nothing is prepared in .* --name album"):
        prepared("album")


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
    assert (about["train"], about["valid"], about["test"]) == (12, 3, 3)
    assert "1 files are taken for no pictures" in capsys.readouterr().out
    ready = [f"birds/{s}/{i}.png" for s in ("test", "train") for i in range(3)]
    with pytest.raises(VcaeError, match="birds/x.png is in neither"):
        hold_out([*ready, "birds/x.png"])


# Files from elsewhere


def test_pictures_that_cannot_be_opened(data, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for i in range(5):
        picture(i).save(folder / f"ä {i}\u202f.png")
    (folder / "locked.png").symlink_to("/proc/self/mem")  # readable by name, not by content
    os.mkfifo(folder / "pipe.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(VcaeError, match="4 bad files in .*endless.png .*no regular file.*gone.png .*No such file.*locked.png .*pipe.png .*no regular file"):
        prepare_images(folder, "own-images", progress=quiet)
    for name in ("locked", "pipe", "endless", "gone"):
        (folder / f"{name}.png").unlink()
    for name, message in [(b"\xff.png", "not text in UTF-8; rename it"), (b"\x1b[2J.png", "control characters; rename it")]:
        bad = os.fsencode(folder) + b"/" + name
        open(bad, "wb").close()
        with pytest.raises(VcaeError, match=message):
            prepare_images(folder, "own-images", progress=quiet)
        os.unlink(bad)
    prepare_images(folder, "own-images", progress=quiet)
    assert len(prepared("own-images").train) == 3


def test_what_is_no_folder_and_no_zip(data, tmp_path):
    whole = zipped(discs(tmp_path / "own", 10), tmp_path / "whole.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[:-100])
    (tmp_path / "page.zip").write_text("\n<!DOCTYPE html><title>Quota exceeded</title>")
    (tmp_path / "other.zip").write_bytes(b"7z\xbc\xaf")
    (tmp_path / "empty.zip").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.zip")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as z, pytest.warns(UserWarning):
        z.writestr("a.png", b"")
        z.writestr("a.png", b"")
    with zipfile.ZipFile(tmp_path / "escape.zip", "w") as z:
        z.writestr("\x1b[2J.png", b"")
    for name, message in [
        ("gone.zip", "cannot read .*gone.zip: No such file"),
        ("short.zip", "short.zip is a zip whose end is missing; fetch it again"),
        ("page.zip", "page.zip is a web page"),
        ("other.zip", "other.zip is neither a folder nor a zip"),
        ("empty.zip", "empty.zip is neither a folder nor a zip"),
        ("pipe.zip", "pipe.zip is neither a folder nor a zip"),
        ("twice.zip", "twice.zip holds a.png twice"),
        ("escape.zip", "control characters; rename it"),
        ("~nosuchuser/x", "is neither a folder nor a zip"),
        ("x" * 5000, "cannot read"),
    ]:
        with pytest.raises(VcaeError, match=message):
            prepare_images(name if "~" in name else tmp_path / name, "album", progress=quiet)
    assert left_in(data) == []


def test_zips_are_bounded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LIMIT", 10**6)
    bomb = encoded(picture(0)) + bytes(2 * 10**6)
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(5):
            z.writestr(f"{i}.png", bomb)
    with pytest.raises(VcaeError, match="5 bad files .*0.png is larger than 0 MB"):
        prepare_images(tmp_path / "large.zip", "album", progress=quiet)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(2):
            z.writestr(f"{i}.png", bytes(100 * 10**6))
    with pytest.raises(VcaeError, match="bomb.zip has 0.2 MB and would unfold to 200 MB"):
        prepare_images(tmp_path / "bomb.zip", "album", progress=quiet)


def test_absolute_names_in_a_zip(data, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        for i in range(6):
            z.writestr(("/tmp/" if i % 2 else "a/") + f"{i}.png", encoded(picture(i)))
    prepare_images(tmp_path / "a.zip", "album", progress=quiet)
    assert len(prepared("album").train) == 4 and not list(tmp_path.glob("*.png"))


def test_absurd_arrays(tmp_path):
    head = lambda shape: np.lib.format.magic(1, 0) + (lambda h: len(h).to_bytes(2, "little") + h)(
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode())
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object))
    for content in (head("(10**30,)"), head("(9" + "9" * 18 + ",)"), head("(-4,)"), head("(")[:40], b"",
                    pickled.getvalue(), b"PK\x03\x04", head("()")):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(VcaeError, match="a.npy is damaged .*; make it again"):
            read_array(tmp_path / "a.npy", "make it again")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(VcaeError, match="no regular file"):
        read_array(tmp_path / "pipe.npy", "")


def test_manifests_from_elsewhere(data):
    for content in ({}, {"identity": 3}, {"identity": {"made_by": "vcae data"}}):
        (data / "strange").mkdir(parents=True, exist_ok=True)
        images.finish(data / "strange", content.get("identity"))
        with pytest.raises(VcaeError, match="is not a data set that `vcae data` prepared"):
            prepared("strange")


# 3D-Shapes


@pytest.fixture(scope="module")
def h5(tmp_path_factory):
    "The first 480 images, in the layout of the real file."
    path = tmp_path_factory.mktemp("shapes3d") / "small.h5"
    with h5py.File(path, "w") as f:
        first = RenderedShapes3D().images(torch.arange(480)).numpy()
        f.create_dataset("images", data=first, chunks=(160, 4, 4, 1), compression="gzip")
        f.create_dataset("labels", data=labels_of(torch.arange(480)).numpy())
    return path


def settings(path, **more):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(size=path.stat().st_size, digest=digest, n=480, block=160, progress=quiet) | more


def test_files_that_are_not_3d_shapes(h5, tmp_path):
    text, empty, wrong = (tmp_path / name for name in ("page.html", "empty.h5", "wrong.h5"))
    text.write_text("<html>quota exceeded</html>")
    h5py.File(empty, "w").close()
    shutil.copy(h5, wrong)
    with h5py.File(wrong, "a") as f:
        f["labels"][7] = 0
    for path, how, message in [
        (tmp_path / "gone.h5", settings(h5), "is not there; give the path"),
        (text, settings(h5), "has 27 bytes where 3dshapes.h5 has"),
        (h5, settings(h5, digest="0" * 64), "expected 000000000000…"),
        (text, settings(text), "is not an HDF5 file"),
        (empty, settings(empty), "it has no images and no labels"),
        (h5, settings(h5, n=960), r"its images are \(480, 64, 64, 3\) uint8, not \(960"),
        (wrong, settings(wrong), "its labels are not the six factors in order"),
    ]:
        with pytest.raises(VcaeError, match=message):
            convert_shapes3d(path, tmp_path / "out", **how)
        assert not (tmp_path / "out").exists()


def test_an_interrupted_conversion(h5, tmp_path, monkeypatch):
    def pulled(blocks):
        yield next(iter(blocks))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_shapes3d(h5, tmp_path / "out", **settings(h5, progress=pulled))
    with pytest.raises(VcaeError, match="out is not there; convert 3dshapes.h5 first"):
        RealShapes3D(tmp_path / "out")
    with monkeypatch.context() as patch:
        little = shutil._ntuple_diskusage(10**9, 10**9, 10**6)
        patch.setattr(shutil, "disk_usage", lambda path: little)
        with pytest.raises(VcaeError, match="0.0 GB free and 0.0 GB are needed; free some space"):
            convert_shapes3d(h5, tmp_path / "out", **settings(h5))
    real = RealShapes3D(convert_shapes3d(h5, tmp_path / "out", **settings(h5)))
    assert torch.equal(real.images(torch.arange(480)), RenderedShapes3D().images(torch.arange(480)))


def test_every_flipped_bit_of_the_array_is_noticed(h5, tmp_path):
    out, draw = convert_shapes3d(h5, tmp_path / "out", **settings(h5)), random.Random(0)
    whole = (out / "images.npy").read_bytes()
    for _ in range(25):
        bad = bytearray(whole)
        bad[draw.randrange(200 if _ % 5 == 0 else len(bad))] ^= 1 << draw.randrange(8)
        (out / "images.npy").write_bytes(bad)
        with pytest.raises(VcaeError, match="is damaged"):
            RealShapes3D(out)


def test_a_file_to_fetch(tmp_path):
    (tmp_path / "source").write_bytes(b"it is")
    url, digest = (tmp_path / "source").as_uri(), hashlib.sha256(b"it is").hexdigest()
    with pytest.raises(VcaeError, match="was not expected .*it was deleted, try again"):
        download_shapes3d(tmp_path / "new" / "file", url, "0" * 64)
    with pytest.raises(VcaeError, match="could not be fetched .*; try again, or fetch it by other means"):
        download_shapes3d(tmp_path / "new" / "file", url + "-gone", digest)
    assert left_in(tmp_path / "new") == []
    assert download_shapes3d(tmp_path / "new" / "file", url, digest).read_bytes() == b"it is"


# MNIST


def test_mnist_that_is_damaged(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in datasets.MNIST_SHA256:
        (raw / name).write_bytes(b"not an idx file")
    with pytest.raises(VcaeError, match="train-images-idx3-ubyte is damaged; delete it and fetch it again"):
        read_mnist(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST", lambda *_, **__: 1 / 0)
    with pytest.raises(VcaeError, match="could not be downloaded into .* fetch its four idx files by hand"):
        read_mnist(tmp_path, download=True)
    monkeypatch.setenv("VCAE_DATA", str(tmp_path / "gone"))
    datasets.mnist.cache_clear()
    with pytest.raises(VcaeError, match="VCAE_DATA names a folder that does not exist"):
        load_dataset("mnist")


def test_every_flipped_bit_of_mnist_is_noticed(tmp_path):
    "In the true files, where they are at hand."
    there = project_root() / "data" / "MNIST" / "raw"
    there = Path(os.environ.get("VCAE_DATA", there.parent.parent)) / "MNIST" / "raw"
    if not there.is_dir():
        pytest.skip("the four files of MNIST are not at hand")
    draw = random.Random(0)
    for name in ("t10k-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        shape = (10_000, 28, 28) if "images" in name else (60_000,) if "train" in name else (10_000,)
        datasets._read_idx(there / name, shape)
        whole = (there / name).read_bytes()
        for _ in range(10):
            bad, at = bytearray(whole), draw.randrange(len(whole))
            bad[at] = bad[at] ^ 2 << draw.randrange(7)  # 0 and 1 are one pixel
            (tmp_path / name).write_bytes(bad)
            with pytest.raises(VcaeError, match=f"{name} is damaged"):
                datasets._read_idx(tmp_path / name, shape)


# What a user has


BYTES = (rgb * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize(
    "parts, message",
    [
        ((BYTES.permute(0, 3, 1, 2), BYTES), r"a Dataset holds images as uint8 \(n, height, width, 1 or 3\)"),
        ((BYTES.float(), BYTES.float()), "got torch.float32 .*dataset_of takes other forms"),
        ((BYTES.to_sparse(), BYTES), "pass x.to_dense"),
        ((BYTES[:0], BYTES), "a Dataset holds images"),
        ((BYTES, BYTES[:, 1:]), r"train and test items must have one shape; got \(50, 8, 6, 3\) and"),
        ((BYTES, BYTES, torch.arange(10)), "one for each of the 50 train items; got torch.int64"),
        ((BYTES, BYTES, torch.arange(50), torch.rand(50)), "one for each of the 50 test items"),
        (((BYTES > 100).to(torch.uint8), BYTES), "are 0 and 1 alone, nearly black where white is 255; pass them as bool"),
        ((torch.full((4, 2), torch.nan), torch.zeros(4, 2)), "not finite"),
    ],
)
def test_a_data_set_checks_what_it_is_given(parts, message):
    with pytest.raises(VcaeError, match=message):
        Dataset("mine", *parts)


def test_a_data_set_shares_no_memory():
    for made in (BYTES.clone(), torch.rand(20, 4), BYTES.numpy().copy()):
        d, e = Dataset("mine", made, made), dataset_of(made, made)
        before = d.train.clone(), e.train.clone()
        made[:] = 7
        assert torch.equal(d.train, before[0]) and torch.equal(e.train, before[1])


def test_labels_count():
    one, two = (dataset_of(rgb, rgb, train_labels=[k] * 50, test_labels=[0] * 50) for k in (1, 2))
    assert one.digest != two.digest and one.train_labels.tolist() == [1] * 50
    held = dataset_of(rgb, train_labels=range(50))
    assert torch.equal(as_stored(rgb)[held.test_labels], held.test)
    with pytest.raises(VcaeError, match="labels"):
        dataset_of(rgb, train_labels=range(49))


@pytest.mark.parametrize(
    "bad, message",
    [
        (rgb * 255, "divide by 255"),
        (rgb / 0, "not finite"),
        (torch.rand(4, 5, 8, 8), "1 or 3 channels"),
        (torch.rand(5), r"of shape \(5,\)"),
        (torch.rand(8, 8, 3), "looks like one photograph"),
        ("album", r"got str.*Spec\(dataset='album'\)"),
        ((rgb * 255).int(), "convert them by .to"),
        (rgb.int() + 1000, "rescale them"),
        (rgb * 2 - 1, "rescale them"),
        (rgb[:3], "3 items are too few; train and test need at least two each, so 4 at least"),
        ((rgb, torch.arange(50)), "train_labels=y"),
        ([rgb[0], rgb[0, :, 1:]], "have 2 sizes"),
        ([object()] * 4, "expected a tensor or an array of pictures"),
        ([], "of shape"),
        (None, "expected a tensor or an array"),
        (iter(rgb), "expected a tensor or an array"),
        (np.ma.masked_array(np.ones((5, 4)), False), "fill it first"),
        (pd.DataFrame({"a": ["x"] * 9}), "columns that are not numbers"),
        (torch.full((5, 3), 1e300, dtype=torch.double), "too large for 32-bit floats"),
    ],
)
def test_what_is_no_data_set(bad, message):
    with pytest.raises(VcaeError, match=message):
        dataset_of(bad)


def test_forms_that_people_have(data, tmp_path):
    whole = dataset_of(rgb).digest
    same = [list(rgb), list(rgb.numpy()), TensorDataset(rgb), DataLoader(TensorDataset(rgb), 7),
            torch.utils.data.Subset(TensorDataset(rgb), range(50)), rgb.permute(0, 2, 3, 1).double()]
    assert {dataset_of(x).digest for x in same} == {whole}
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)))
    assert dataset_of(frame).shape == (3,)
    pictures = [picture(i, (20, 30)) for i in range(12)]
    assert dataset_of(pictures).shape == (3, 30, 20) and dataset_of(pictures, size=16).shape == (3, 16, 16)
    veil = rgb.new_zeros(5, 4, 8, 8)
    assert as_stored(veil).min() == 255  # transparent: white
    d = dataset_of(discs(tmp_path / "My Pictures", 10), size=16)
    assert d.name == "my-pictures" and load_dataset("my-pictures").digest == d.digest
    assert dataset_of(str(tmp_path / "My Pictures"), size=16).digest == d.digest  # read, not made again


def flipped(x):
    return x[..., ::-1]


@pytest.mark.parametrize("make", [flipped, lambda x: x.astype(">f8") / 255, lambda x: x.astype("uint16"), lambda x: x > 100])
def test_arrays_as_other_libraries_make_them(make):
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    made = make(x)
    if made.dtype == "uint16":
        with pytest.raises(VcaeError, match=r"convert them by .to\(torch.uint8\)"):
            as_stored(made)
        assert (as_stored(made * 257).numpy() == x).all()
    else:
        assert as_stored(made).shape == (4, 8, 8, 3) and as_stored(made).max() > 200


# Training on them


def test_training_on_what_was_prepared(layout, data):
    "A spec finds prepared images by their name, like any other data set."
    prepare_images(layout, "album", size=16, progress=quiet)
    spec = Spec(model="VCAE", dataset="album", z_dim=2, width=1 / 64, steps=2)
    run = fit(spec, device="cpu", root=data / "runs")
    assert run.data_sha256 == about_prepared(cache_path("album"))["digest"]
    assert tuple(run.decode(run.encode(prepared("album").test)).shape[1:]) == (3, 16, 16)
    with pytest.raises(VcaeError, match="unknown data set 'albun'.*Did you mean 'album'"):
        fit(Spec(dataset="albun"), root=data / "runs")


def test_other_images_are_not_taken_for_the_runs_own(data, tmp_path):
    prepare_images(discs(tmp_path / "own", 10), "album", size=16, progress=quiet)
    spec = Spec(model="VCAE", dataset="album", z_dim=2, width=1 / 64, steps=2)
    run = fit(spec, device="cpu", root=data / "runs")
    assert data_of(run).digest == run.data_sha256
    shutil.rmtree(cache_path("album"))
    prepare_images(discs(tmp_path / "own", 200), "album", size=16, progress=quiet)
    with pytest.raises(VcaeError, match="other images, or they have changed since"):
        data_of(run)


# The command


def test_the_command(layout, data):
    "One line on stdout."
    command = [VCAE, "data", "celeba", layout, "--partial", "faces"]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("faces: 220 train, 10 valid, 30 test; 64x64x3, SHA-256 ")
    assert prepared_names() == ["faces"]


def test_the_command_refuses(layout, data):
    "One line on stderr, and exit code 1."
    command = [VCAE, "data", "celeba", layout]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("vcae: ")
    assert "holds 260 pictures where CelebA has 202,599 (000261.jpg, 000262.jpg" in done.stderr
    assert prepared_names() == []
