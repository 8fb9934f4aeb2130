"""What hostile jobs leave behind for whoever comes after them: refused by the collector, or inert.

Each payload is written by a job at ``strict``. The control shows it going off where nobody collects: in a
program that uses the job's output folder as it lies there.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from guardrails.errors import BundleError
from sandbox.isolation import levels
from sandbox.isolation.collector import BUNDLE, collect
from sandbox.isolation.spec import JobSpec, Limits, Mount

_GOOD = """
import json, os, struct
out = os.environ["INTERLOCK_OUT"]
os.mkdir(out + "/model")
json.dump({"schema": "interlock/bundle/v1", "intent": "to try", "technique": "x", "seed": 1},
          open(out + "/proposal.json", "w"))
json.dump({}, open(out + "/model/config.json", "w"))
header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
open(out + "/model/model.safetensors", "wb").write(struct.pack("<Q", len(header)) + header + b"1234")
"""
_MARK = "import os; open(os.environ['MARK'], 'w').close()"


def _in_manifest(field: str, value: object) -> str:
    """A program that says something of its bundle."""
    return (
        f'm = json.load(open(out + "/proposal.json")); m[{field!r}] = {value!r}\n'
        'json.dump(m, open(out + "/proposal.json", "w"))'
    )


# Name → (what the job adds, how a careless program would use the output folder)
LOADED: dict[str, tuple[str, str]] = {
    "sitecustomize.py": (
        f'open(out + "/sitecustomize.py", "w").write({_MARK!r})',
        "import subprocess, sys, os\nsubprocess.run([sys.executable, '-c', ''], env={**os.environ, 'PYTHONPATH': OUT})",
    ),
    "a .pth file": (
        f'open(out + "/x.pth", "w").write({_MARK!r})',
        "import site\nsite.addsitedir(OUT)",
    ),
    "a module that hides another": (
        f'open(out + "/model/json.py", "w").write({_MARK!r})',
        "import sys\nsys.path.insert(0, OUT + '/model')\nsys.modules.pop('json', None)\nimport json",
    ),
    "a pickle": (
        (f'import pickle\nclass Evil:\n    def __reduce__(self): return exec, ({_MARK!r},)\n'
        'pickle.dump(Evil(), open(out + "/model/pytorch_model.bin", "wb"))'),
        "import pickle\npickle.load(open(OUT + '/model/pytorch_model.bin', 'rb'))",
    ),
    "a pickle named safetensors": (
        (f'import pickle\nclass Evil:\n    def __reduce__(self): return exec, ({_MARK!r},)\n'
        'pickle.dump(Evil(), open(out + "/model/other.safetensors", "wb"))'),
        "import pickle\npickle.load(open(OUT + '/model/other.safetensors', 'rb'))",
    ),
    "a pickle named vocabulary": (
        (f'import pickle\nclass Evil:\n    def __reduce__(self): return exec, ({_MARK!r},)\n'
        'pickle.dump(Evil(), open(out + "/model/vocab.json", "wb"))'),
        "import pickle\npickle.load(open(OUT + '/model/vocab.json', 'rb'))",
    ),
    "a compiled module": (
        ('os.makedirs(out + "/model/__pycache__")\n'
        f'import py_compile\nopen("/scratch/m.py", "w").write({_MARK!r})\n'
        'py_compile.compile("/scratch/m.py", out + "/model/m.pyc")'),
        "import sys\nsys.path.insert(0, OUT + '/model')\nimport m",
    ),
    "code of the model's own": (
        (f'open(out + "/model/modeling_own.py", "w").write({_MARK!r})\n'
        'json.dump({"auto_map": {"AutoConfig": "modeling_own.C"}}, open(out + "/model/config.json", "w"))'),
        ("import importlib.util, json\nname = json.load(open(OUT + '/model/config.json'))['auto_map']['AutoConfig']\n"
        "spec = importlib.util.spec_from_file_location('m', f\"{OUT}/model/{name.split('.')[0]}.py\")\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))"),
    ),
    "a template that reaches for code": (
        ('open(out + "/model/chat_template.jinja", "w").write('
        "\"{{ cycler.__init__.__globals__.os.open(mark, 65) }}\")"),
        "import jinja2, os\ntext = open(OUT + '/model/chat_template.jinja').read()\njinja2.Template(text).render(mark=os.environ['MARK'])",  # noqa: E501
    ),
}  # fmt: skip
# Refused too, but there is nothing to go off: they fill a disk, a memory or a screen.
MADE_TO_BREAK: dict[str, str] = {
    "a library for LD_PRELOAD": 'open(out + "/libevil.so", "wb").write(b"\\x7fELF")',
    "a header of exabytes": 'open(out + "/model/x.safetensors", "wb").write(struct.pack("<Q", 1 << 60) + b"{}")',
    "a header of all bits": 'open(out + "/model/x.safetensors", "wb").write(b"\\xff" * 64)',
    "a header within the file, but longer than allowed":
        'f = open(out + "/model/x.safetensors", "wb")\nf.write(struct.pack("<Q", 17 << 20) + b"{" + b" " * (17 << 20))',
    "tensors that overlap":
        'h = json.dumps({k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "ab"}).encode()\n'
        'open(out + "/model/x.safetensors", "wb").write(struct.pack("<Q", len(h)) + h + bytes(4))',
    "lists in lists": 'open(out + "/model/tokenizer.json", "w").write("[" * 100000 + "]" * 100000)',
    "very many values": 'open(out + "/model/tokenizer.json", "w").write("[" + "0," * 5000000 + "0]")',
    "a number of a million digits": 'open(out + "/model/tokenizer.json", "w").write("9" * 1000000)',
    "a vocabulary with one name twice": 'open(out + "/model/vocab.json", "w").write(\'{"a": 1, "a": 2}\')',
    "not a number": 'open(out + "/model/added_tokens.json", "w").write(\'{"x": NaN}\')',
    "an archive": 'import gzip\nopen(out + "/model/tokenizer.json.gz", "wb").write(gzip.compress(bytes(1 << 24)))',
    "an archive in disguise": 'import gzip\nopen(out + "/model/tokenizer.json", "wb").write(gzip.compress(bytes(1 << 24)))',
    "holes": 'open(out + "/data.jsonl", "wb").truncate(1 << 30)',
    "holes in weights": 'os.truncate(out + "/model/model.safetensors", 1 << 24)',
    "three hundred files":
        'os.mkdir(out + "/data")\nfor i in range(300): open(f"{out}/data/{i}.jsonl", "w").write("{}\\n")',
    "five thousand names": 'for i in range(5000): open(f"{out}/model/{i}", "w").close()',
    "deep folders": 'os.makedirs(out + "/model/" + "d/" * 9)',
    "a name with escapes": 'open(out + "/model/\\x1b[2J.json", "w").write("{}")',
    "a name with a new line": 'open(out + "/model/a\\nb.json", "w").write("{}")',
    "a name that reads backwards": 'open(out + "/model/\\u202enosj.exe", "w").write("{}")',
    "a name of two letters that look like one": 'open(out + "/model/c\\u043enfig.json", "w").write("{}")',
    "a name of 255 bytes": 'open(out + "/model/" + "n" * 250 + ".json", "w").write("{}")',
    "a name that is no text": 'open(os.fsencode(out) + b"/model/\\xff.json", "wb").write(b"{}")',
    "a folder that is closed": 'os.mkdir(out + "/data", 0o000)',
    "a file that is closed, beside": 'os.close(os.open(out + "/model/x.json", 65, 0))',
    "a folder where a file belongs": 'os.remove(out + "/model/config.json"); os.mkdir(out + "/model/config.json")',
    "an index that leads away":
        'json.dump({"weight_map": {"w": "../../../etc/passwd"}}, open(out + "/model/model.safetensors.index.json", "w"))',
    "data that is no record": 'os.mkdir(out + "/data"); open(out + "/data/a.jsonl", "w").write("[1]\\n")',
    "a line of megabytes":
        'os.mkdir(out + "/data"); open(out + "/data/a.jsonl", "w").write(\'{"a": "\' + "x" * (2 << 20) + \'"}\\n\')',
    "data outside the bundle, by manifest":
        'm = json.load(open(out + "/proposal.json")); m["data"] = ["../../etc/passwd"]\n'
        'json.dump(m, open(out + "/proposal.json", "w"))',
    "a base with a new line": _in_manifest("base", "sha256:" + 64 * "a" + "\n"),
    "a base that is only a new line": _in_manifest("base", "\n"),
    "a technique with a new line": _in_manifest("technique", "good\n"),
    "a seed that is not written as a whole number": _in_manifest("seed", 7.0),
    "a number beyond all numbers":
        't = open(out + "/proposal.json").read()\n'
        'open(out + "/proposal.json", "w").write(t[:-1] + \', "objective": {"x": 1e999}}\')',
    "two million records":
        'os.mkdir(out + "/data")\nfor n in "abcd": open(f"{out}/data/{n}.jsonl", "w").write("{}\\n" * 500_000)',
    "a template that takes hours to be searched":
        'open(out + "/model/chat_template.jinja", "w").write("range((" * 30_000 + "{% include x %}")',
    "a template of digits that takes hours to be searched":
        'open(out + "/model/chat_template.jinja", "w").write("1" * 240_000 + " {% include x %}")',
    "a configuration with a template of megabytes":
        'json.dump({"chat_template": "range(" * 1_000_000}, open(out + "/model/tokenizer_config.json", "w"))',
    "a claim that is half a character":
        'm = json.load(open(out + "/proposal.json")); m["intent"] = chr(0xd800)\n'
        'json.dump(m, open(out + "/proposal.json", "w"))',
}  # fmt: skip


def _job(tmp_path: Path, source: str) -> Path:
    (tmp_path / "program.py").write_text(source)
    spec = JobSpec(
        ("python", "-I", "-S", "/in/program.py"), (Mount(tmp_path / "program.py", "/in/program.py"),),
        tmp_path / "out", tmp_path / "log", Limits(wall_s=60, output_bytes=2 << 30, scratch_bytes=64 << 20),
    )  # fmt: skip
    outcome = levels.run_job(spec, "strict")
    assert outcome.ok, outcome
    return spec.out


def _refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        collect(tmp_path / "out", tmp_path / "collected", BUNDLE)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "collected").exists()


def test_a_good_result_is_taken(tmp_path: Path) -> None:
    """The control of every refusal below: nothing else is wrong with these outputs."""
    _job(tmp_path, _GOOD)
    assert len(collect(tmp_path / "out", tmp_path / "collected", BUNDLE)) == 3


@pytest.mark.parametrize("name", LOADED)
def test_what_would_run_when_used_is_refused(name: str, tmp_path: Path) -> None:
    adds, use = LOADED[name]
    out = _job(tmp_path, _GOOD + adds + "\n")
    _refused(tmp_path)
    mark = tmp_path / "went off"
    subprocess.run(
        [sys.executable, "-c", f"OUT = {str(out)!r}\n{use}\n"],
        env={"PATH": os.environ["PATH"], "MARK": str(mark)}, check=False, timeout=30, capture_output=True,
    )  # fmt: skip
    assert mark.exists(), "the control failed: this payload does nothing"


@pytest.mark.parametrize("name", MADE_TO_BREAK)
def test_what_would_break_its_reader_is_refused(name: str, tmp_path: Path) -> None:
    out = _job(tmp_path, _GOOD + MADE_TO_BREAK[name] + "\n")
    if name in ("a folder that is closed", "a file that is closed, beside") and os.geteuid() == 0:
        pytest.skip("nothing is closed to root")
    _refused(tmp_path)
    for path in out.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


_SWAPS = """
import os, time
os.mkdir(out + "/real")
for i in range(40): open(f"{out}/real/{i}", "wb").write(os.urandom(4096))
end = time.monotonic() + 1.5
while time.monotonic() < end:
    os.rename(out + "/real", out + "/moved")
    try: os.symlink("/", out + "/real")
    except OSError: pass
    try: os.unlink(out + "/real")
    except OSError: pass
    os.rename(out + "/moved", out + "/real")
"""


def test_swapping_a_folder_for_a_link_while_it_is_measured(tmp_path: Path) -> None:
    """The walk follows no link, whenever it comes: neither the count nor the time of a sample runs away."""
    (tmp_path / "program.py").write_text(_GOOD + _SWAPS)
    spec = JobSpec(
        ("python", "-I", "-S", "/in/program.py"), (Mount(tmp_path / "program.py", "/in/program.py"),),
        tmp_path / "out", tmp_path / "log", Limits(wall_s=30, output_bytes=64 << 20),
    )  # fmt: skip
    outcome = levels.run_job(spec, "none")  # where links can be made
    assert outcome.ok, outcome
    assert outcome.compute.disk_bytes < 8 << 20
    assert outcome.compute.wall_s < 10


def test_the_header_that_is_checked_is_the_one_the_library_reads(tmp_path: Path) -> None:
    """What the collector takes, the library loads: as the same names, types and shapes."""
    library = pytest.importorskip("safetensors.numpy")
    _job(tmp_path, _GOOD)
    collect(tmp_path / "out", tmp_path / "collected", BUNDLE)
    tensors = library.load_file(tmp_path / "collected" / "model" / "model.safetensors")
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {"w": ("float32", (1,))}
    assert struct.pack("<f", tensors["w"][0]) == b"1234"
    assert json.loads((tmp_path / "collected" / "model" / "config.json").read_text()) == {}
