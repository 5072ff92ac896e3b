"""setup.py's choices, the compiled module, and what importing the package costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import blip3v
from blip3v import native
from blip3v.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
NATIVE_SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module; it calls setup() only as a script."""
    spec = importlib.util.spec_from_file_location("blip3v_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def fake_toolkit(folder: Path, release: str) -> Path:
    """A toolkit whose nvcc answers like the real one; gives a wrapper of it in another folder."""
    real = folder / "toolkit" / "bin" / "nvcc"
    real.parent.mkdir(parents=True)
    real.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "tools, release {release}, V{release}.1"; exit; fi\n'
        f'echo "#$ TOP={folder}/toolkit/bin/.." >&2\n'
    )
    real.chmod(0o755)
    wrapper = folder / "wrapper" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


# --- setup.py ---------------------------------------------------------------------------------------------


def test_unknown_value_of_blip3v_cuda_stops_the_build(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", "--build-temp", tmp_path, "--build-lib", tmp_path]
    env = {**os.environ, "BLIP3V_CUDA": "banana"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode != 0
    assert "blip3v: BLIP3V_CUDA=banana is not understood: use auto, 0 or 1" in run.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_zero_means_no_cuda_wherever_nvcc_is(build: ModuleType, tmp_path: Path) -> None:
    env = {"BLIP3V_CUDA": "0", "PATH": str(fake_toolkit(tmp_path, "13.0").parent)}
    assert build.choose_toolkit(env) == (None, "BLIP3V_CUDA=0")


@pytest.mark.parametrize("wish", ["", "auto"])
def test_auto_without_nvcc_builds_cpp_and_says_why(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda env: None)
    assert build.choose_toolkit({"BLIP3V_CUDA": wish}) == (None, "no nvcc found")


def test_one_without_nvcc_is_an_error(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda env: None)
    with pytest.raises(build.BuildError, match="no nvcc: install the CUDA toolkit or set CUDA_HOME"):
        build.choose_toolkit({"BLIP3V_CUDA": "1"})


def test_a_wrapper_of_nvcc_is_followed_to_its_toolkit(build: ModuleType, tmp_path: Path) -> None:
    wrapper = fake_toolkit(tmp_path, "13.0")
    toolkit, reason = build.choose_toolkit({"PATH": f"{wrapper.parent}:/bin"})
    assert reason == ""
    assert toolkit.nvcc == tmp_path / "toolkit" / "bin" / "nvcc"
    assert toolkit.version == (13, 0)


def test_cuda_home_goes_before_path_and_must_hold_nvcc(build: ModuleType, tmp_path: Path) -> None:
    wrapper = fake_toolkit(tmp_path, "13.0")
    env = {"PATH": f"{wrapper.parent}:/bin", "CUDA_HOME": str(tmp_path / "toolkit")}
    assert build.find_nvcc(env) == tmp_path / "toolkit" / "bin" / "nvcc"
    with pytest.raises(build.BuildError, match="holds no bin/nvcc"):
        build.find_nvcc({**env, "CUDA_HOME": str(tmp_path)})


def test_an_old_toolkit_is_named(build: ModuleType, tmp_path: Path) -> None:
    env = {"PATH": f"{fake_toolkit(tmp_path, '11.8').parent}:/bin"}
    toolkit, reason = build.choose_toolkit(env)
    assert toolkit is None and "CUDA 11.8, older than 12.3" in reason
    with pytest.raises(build.BuildError, match=r"CUDA 11\.8: sm_90a code needs 12\.3"):
        build.choose_toolkit({**env, "BLIP3V_CUDA": "1"})


def test_cutlass_path_must_be_a_checkout(build: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="is it a CUTLASS checkout"):
        build.find_cutlass({"CUTLASS_PATH": str(tmp_path)})
    (tmp_path / "include" / "cutlass").mkdir(parents=True)
    (tmp_path / "include" / "cutlass" / "version.h").touch()
    assert build.find_cutlass({"CUTLASS_PATH": str(tmp_path)}) == tmp_path.resolve()


def test_max_jobs(build: ModuleType) -> None:
    assert build.max_jobs({"MAX_JOBS": "3"}) == 3
    assert 1 <= build.max_jobs({}) <= (os.cpu_count() or 1)
    for text in ("0", "-1", "many"):
        with pytest.raises(build.BuildError, match="MAX_JOBS"):
            build.max_jobs({"MAX_JOBS": text})


# --- sources ----------------------------------------------------------------------------------------------


def test_native_sources_know_no_torch_and_keep_asm_in_common_and_sim() -> None:
    assert NATIVE_SOURCES
    for path in NATIVE_SOURCES:
        text = path.read_text()
        assert not re.search(r"#\s*include\s*[<\"](torch|ATen|c10)/", text), path
        if path.parent.name != "common" and "sim" not in path.parts:
            assert not re.search(r"\b(asm|__asm__)\b", text), path


def test_version_stands_in_one_place() -> None:
    version = importlib.metadata.version("blip3v")
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'^version = "(.+)"', pyproject, re.MULTILINE) == [version]
    assert blip3v.__version__ == version
    assert native.load().build_info()["version"] == version
    sources = [*NATIVE_SOURCES, *(ROOT / "blip3v").rglob("*.py"), ROOT / "setup.py", ROOT / "CMakeLists.txt"]
    for path in sources:
        assert f'"{version}"' not in path.read_text(), f"{path} spells the version again"


# --- the compiled module ----------------------------------------------------------------------------------


def test_build_info() -> None:
    info = native.load().build_info()
    assert set(info) == {
        "version", "compiler", "with_cuda", "cuda_version", "cuda_archs", "cutlass_version",
    }  # fmt: skip
    assert re.match(r"(gcc|clang) \d+", info["compiler"])
    if info["with_cuda"]:
        assert re.fullmatch(r"\d+\.\d+", info["cuda_version"])
        assert info["cuda_archs"] == ("90a",)
        assert re.fullmatch(r"\d+\.\d+\.\d+", info["cutlass_version"])
        assert "sm_90a" in native.describe_build()
    else:
        assert (info["cuda_version"], info["cuda_archs"], info["cutlass_version"]) == (None, (), None)
        assert "C++ only" in native.describe_build()


@pytest.mark.parametrize("name", ["driver_version", "device_count", "devices", "self_test"])
def test_a_machine_that_cannot_gets_a_message(name: str) -> None:
    module = native.load()
    try:
        answer = getattr(module, name)()
    except RuntimeError as error:
        assert re.match(rf"blip3v: ({name}|device_count)\b.*: ", str(error))
        assert native.kernels_run()[0] is False
    else:
        assert module.build_info()["with_cuda"]
        assert answer is not None


def test_cpp_only_code_says_how_to_get_cuda(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    (tmp_path / "main.cpp").write_text(
        '#include <iostream>\n#include "common/device.h"\n#include "common/self_test.h"\n'
        "template <typename F> void report(F f) {\n"
        '  try { f(); } catch (const std::exception& e) { std::cout << e.what() << "\\n"; }\n}\n'
        "int main() {\n  using namespace blip3v;\n  report([] { driver_version(); });\n"
        "  report([] { device_count(); });\n  report([] { devices(); });\n"
        "  report([] { self_test(0); });\n}\n"
    )
    csrc = ROOT / "csrc"
    sources = [tmp_path / "main.cpp", csrc / "common" / "device.cpp"]
    command = [
        compiler,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{csrc}",
        *sources,
        "-o",
        tmp_path / "main",
    ]
    subprocess.run(command, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    remedy = "this build is C++ only: reinstall with BLIP3V_CUDA=1 where nvcc is installed"
    names = ["driver_version", "device_count", "devices", "self_test"]
    assert printed.splitlines() == [f"blip3v: {name}: {remedy}" for name in names]


def test_a_missing_module_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blip3v._C", None)
    native.load.cache_clear()
    native.kernels_run.cache_clear()
    try:
        with pytest.raises(UserError, match=r"blip3v\._C cannot be imported .*pip install"):
            native.load()
        ok, reason = native.kernels_run()
        assert not ok and "pip install" in reason
    finally:
        native.load.cache_clear()
        native.kernels_run.cache_clear()


@pytest.mark.gpu
def test_kernels_run_on_this_gpu() -> None:
    """A GPU was promised: the build must hold kernels for it and they must run."""
    ok, proof = native.kernels_run()
    assert ok, proof
    assert "sm_90a kernel wrote 512 words correctly" in proof
    first = native.load().devices()[0]
    assert first["compute_capability"] == (9, 0)
    assert first["memory_bytes"] > 2**33 and first["multiprocessors"] > 100


# --- the package ------------------------------------------------------------------------------------------


def test_importing_the_package_is_light() -> None:
    code = "import sys, blip3v.cli.main; print({'torch', 'transformers', 'tyro', 'rich'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_public_names_are_listed_and_unknown_ones_refused() -> None:
    assert set(blip3v.__all__) <= set(dir(blip3v))
    with pytest.raises(AttributeError, match="no attribute 'Blip4'"):
        blip3v.Blip4  # noqa: B018
