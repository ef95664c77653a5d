"""What programs do to the page that no browser does, and the command as a process: `make browser` runs this too."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from browser_fixtures import ObservedPage
from browser_page import PATIENCE

from crfrnn.web.guard import MOST_REQUEST_BYTES
from crfrnn.web.turns import Turns

pytest_plugins = ["browser_fixtures"]


def asked(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Status and text of a request; with a body it is a POST of JSON."""
    data = None if body is None else json.dumps(body).encode()
    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{address}{path}", data, named)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def called(address: str, name: str, data: list[Any], event: Any = None, user: str = "stranger") -> tuple[int, str]:
    """Status and text of what a handler of the page answers to a program."""
    config = json.loads(asked(address, "config")[1])
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == name)
    body = {"data": data, "fn_index": number, "session_hash": user, "event_data": event, "trigger_id": None}
    return asked(address, "gradio_api/run/predict", body)


def inputs(address: str, name: str, of: str = "value") -> list[Any]:
    """What the page sends to a handler when nothing was moved; or another property of these inputs."""
    config = json.loads(asked(address, "config")[1])
    wanted = next(each["inputs"] for each in config["dependencies"] if each["api_name"] == name)
    found = {each["id"]: each["props"].get(of) for each in config["components"]}
    return [found[each] for each in wanted]


def test_programs_get_no_further_than_the_page(address: str, outside: list[object]) -> None:
    """With a new page, and with one whose controls the server has changed."""
    file = {"path": "http://example.com/a.png", "meta": {"_type": "gradio.FileData"}}
    for _ in range(2):
        given = inputs(address, "moved")
        for place in range(len(given)):
            for path in ("http://example.com/a.png", "/etc/passwd", "file:///etc/passwd"):
                hostile = [*given[:place], [{"deep": {**file, "path": path}}], *given[place + 1 :]]
                status, text = called(address, "moved", hostile)
                assert status == 400
                assert "the page takes no file by name" in text
        assert called(address, "opened", ["scribbles", "crfrnn"], {"example": "coffee"})[0] == 200
    assert outside == []
    for path in ("upload", "file=http://example.com/a.png", "file=/etc/passwd", "proxy=http://example.com/a"):
        assert asked(address, f"gradio_api/{path}")[0] == 404
    assert asked(address, "", host="example.com")[0] == 400  # a page elsewhere whose name leads to this machine
    assert asked(address, "monitoring")[0] in (403, 404)
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=PATIENCE)
    connection.putrequest("POST", "/gradio_api/run/predict")
    connection.putheader("content-length", str(MOST_REQUEST_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413  # before anything of it is sent
    connection.close()


def test_wrong_values_get_an_answer_in_words(address: str) -> None:
    user = {"user": "somebody"}
    given = inputs(address, "moved")
    assert "choose a photo" in called(address, "moved", given, **user)[1]
    for name in ("sourced", "saved"):
        status, text = called(address, name, inputs(address, name), **user)
        assert status == 200
        assert "choose a photo" in text
    source = inputs(address, "opened")
    for event in ({"example": "../../etc/passwd"}, {"example": ["coffee"]}, {"example": 3}):
        assert "there is no example" in called(address, "opened", source, event, **user)[1]
    for event, words in (
        (None, "did not arrive as a file"),
        ([], "did not arrive as a file"),
        ({"name": "../../a.png"}, "a.png did not arrive as a file"),
        ({"name": {}, "data": {}}, "did not arrive as a file"),
        ({"name": "a.png", "data": "%"}, "did not arrive whole"),
        ({"name": "Ω" * 5000 + ".svg", "data": "PHN2Zy8+"}, "cannot be taken"),
    ):
        text = called(address, "opened", source, event, **user)[1]
        assert words in text
        assert "Traceback" not in text
    assert "chelsea.png" in called(address, "opened", source, {"example": "chelsea"}, **user)[1]
    for strokes in ([{}], 3, "[]", [{"label": 99, "width": 3, "points": [[1, 1]]}]):
        assert 'class=\\"doubt' in called(address, "moved", [strokes, *given[1:]], **user)[1]
    iterations = inputs(address, "moved", "elem_id").index("iterations")
    for far in (10**9, -1, "10", None, [10], True):
        values = [*given[:iterations], far, *given[iterations + 1 :]]
        status, text = called(address, "moved", values, **user)
        assert status == 200
        assert "must be" in text
        assert "pixels" not in text
    for place in (1, 2, len(given) - 1):  # the preset, a slider and a choice
        for odd in (None, [], {}, "\0", 1e300, {"deep": [[]]}):
            status, text = called(address, "moved", [*given[:place], odd, *given[place + 1 :]], **user)
            assert status == 200
            assert "doubt" in text
            assert "pixels" not in text
    assert "451×300 pixels" in json.loads(called(address, "moved", given, **user)[1])["data"][2]


@pytest.mark.parametrize("name", ["opened", "scored", "sourced", "moved", "watched", "saved"])
def test_too_few_values_are_refused_in_words(address: str, capfd: pytest.CaptureFixture[str], name: str) -> None:
    given = inputs(address, name)
    for few in ([], given[:-1]):
        status, text = called(address, name, few)
        assert status == 400
        assert f"the page sends {len(given)} values here, and {len(few)} came" in text
    assert called(address, name, given, {"example": "coffee"})[0] == 200
    assert capfd.readouterr().err == ""


def test_programs_call_only_what_the_server_does(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, text = called(address, "js_fn", inputs(address, "js_fn"))
    assert status == 400
    assert "the page does this in the browser" in text
    for event in (None, 3, {}, {"value": []}):
        assert called(address, "turned", [], event)[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["opened", "scored", "sourced", "moved", "watched", "saved"])
def test_where_too_many_wait_that_is_said(
    address: str, served: ObservedPage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(served, "turns", Turns(at_once=0, most_waiting=0))
    status, text = called(address, name, inputs(address, name), {"example": "coffee"})
    assert status == 200
    assert "computations wait already" in text


def test_the_command(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "crfrnn", "web", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    line = process.stdout.readline()
    found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/) in a browser\n", line)
    assert found is not None, line
    status, text = asked(found[1], "")
    assert status == 200
    assert "crfrnn" in text
    assert "googleapis" not in text
    assert asked(found[1], "", host="example.com")[0] == 400
    other = subprocess.run(
        [sys.executable, "-m", "crfrnn", "web", "--port", found[1].rstrip("/").rpartition(":")[2]],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert other.returncode == 1
    assert "cannot listen at 127.0.0.1, port" in other.stderr
    assert "Traceback" not in other.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors == "crfrnn web: interrupted\n"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["web.server", "web.page"])
def test_importing_writes_nothing_beside_the_modules(name: str) -> None:
    """Gradio writes stubs beside classes that are derived from its own."""
    import importlib

    module = importlib.import_module(f"crfrnn.{name}")
    assert not Path(module.__file__).with_suffix(".pyi").exists()
