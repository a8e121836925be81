"""Measures exported networks on this machine: `python measure.py` reads `jobs.json`, writes `measured.json`.

It needs Python, NumPy and the runtime (onnxruntime or openvino), and nothing of segdistill. Each network runs
in a process of its own, in turns with a reference, so that a machine that slows down slows both alike.
Started again, it goes on with what is not measured yet.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WARMUP = 3
"""Passes of each network before those that count."""

TOO_SLOW = 1.5
"""Budgets that the quickest pass of a network exceeds, so that it is not measured with larger inputs too."""

Record = dict[str, Any]


def main() -> int:
    """Measure what `jobs.json` lists, or serve as the process of one network."""
    if len(sys.argv) > 1:
        serve(json.loads(sys.argv[1]))
        return 0
    folder = Path(__file__).resolve().parent
    content = (folder / "jobs.json").read_bytes()
    jobs = json.loads(content)
    out = folder / "measured.json"
    record: Record = {
        "kind": "segdistill latency 1",
        "jobs_sha256": hashlib.sha256(content).hexdigest(),
        "machine": f"{platform.node()}: {processor()}, {os.cpu_count()} cores, {platform.platform()}",
        "entries": [],
    }
    if out.is_file():
        earlier = json.loads(out.read_text())
        if earlier["jobs_sha256"] == record["jobs_sha256"]:
            record = earlier
    done = {entry["name"] for entry in record["entries"]}
    left = [job for job in jobs["networks"] if job["name"] not in done]
    if not left:
        return 0
    reference, record["runtime"] = open_reference(folder, jobs)
    for number, job in enumerate(left, start=1):
        entry = skip(jobs, job, record["entries"]) or measure(folder, jobs, job, reference)
        record["entries"].append(entry)
        draft = out.with_name(".measured.json.tmp")
        draft.write_text(json.dumps(record, indent=1))
        draft.replace(out)
        print(f"measured {number} of {len(left)}: {job['name']}", file=sys.stderr, flush=True)
    reference.end()
    return 0


def open_reference(folder: Path, jobs: Record) -> tuple["Process", str]:
    """The first network that opens, which all are measured in turns with, and the runtime's version.

    Raises:
        SystemExit: none opens.
    """
    first = ""
    for job in jobs["networks"]:
        network = Process(folder, jobs, job)
        try:
            return network, network.start()
        except RuntimeError as error:
            network.end()
            first = first or f"{job['name']}: {error}"
    sys.exit(f"no network could be opened; the first, {first}")


def skip(jobs: Record, job: Record, entries: list[Record]) -> Record | None:
    """The entry of a network that is not measured: the same file is too slow with a smaller input."""
    budget = most_seconds(jobs, entries)
    if budget is None:
        return None
    others = {other["name"]: other for other in jobs["networks"]}
    for entry in entries:
        other = others[entry["name"]]
        smaller = np.prod(other["shape"]) <= np.prod(job["shape"])
        slow = min(entry.get("seconds", [0.0])) > TOO_SLOW * budget
        if other["file"] == job["file"] and smaller and slow:
            return {"name": job["name"], "slower_than": entry["name"]}
    return None


def most_seconds(jobs: Record, entries: list[Record]) -> float | None:
    """The budget of a pass, perhaps a multiple of the first network's; None where there is none."""
    if jobs["most_times"] is None:
        return jobs["most_seconds"]
    first = next((entry for entry in entries if entry["name"] == jobs["networks"][0]["name"]), {})
    return jobs["most_times"] * float(np.median(first["seconds"])) if "seconds" in first else None


def measure(folder: Path, jobs: Record, job: Record, reference: "Process") -> Record:
    """Seconds of the passes of one network and of the reference's beside them, and its peak memory.

    Half of the passes are made in a second process: where a process has its memory makes a difference.
    """
    pairs: list[tuple[float, float]] = []
    peaks: list[int | None] = []
    for repeats in filter(None, (jobs["repeats"] // 2, -(-jobs["repeats"] // 2))):
        network = Process(folder, jobs, job)
        try:
            network.start()
            passes = [(network.seconds(), reference.seconds()) for _ in range(WARMUP + repeats)]
            pairs += passes[WARMUP:]
            peaks.append(network.ask("memory"))
        except RuntimeError as error:
            return {"name": job["name"], "error": str(error)}
        finally:
            network.end()
    seconds, reference_seconds = np.array(pairs).T.tolist()
    known = [peak for peak in peaks if peak is not None]
    return {
        "name": job["name"], "seconds": seconds, "reference_seconds": reference_seconds,
        "peak_bytes": max(known, default=None),
    }  # fmt: skip


class Process:
    """A network in a process of its own.

    Args:
        folder: of the files.
        jobs: runtime, precision, threads.
        job: file and input of the network.
    """

    def __init__(self, folder: Path, jobs: Record, job: Record) -> None:
        told = {name: jobs[name] for name in ("runtime", "precision", "threads")}
        told |= {"path": str(folder / job["file"]), "shape": job["shape"], "dtype": job["dtype"]}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> str:
        """Wait until it is open; returns the runtime's version."""
        return self._answer()

    def seconds(self) -> float:
        """Time of one pass, after one that is not timed: what ran in between has emptied the caches."""
        return self.ask("run")

    def ask(self, word: str) -> Any:
        """Send a word, and wait for what it answers."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except OSError:
            raise RuntimeError("its process died") from None
        return self._answer()

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process died ({self.process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]


def serve(told: Record) -> None:
    """Open a network, then answer each line of standard input with one of standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**content: object) -> None:
        try:
            answers.write(json.dumps(content) + "\n")
            answers.flush()
        except BrokenPipeError:  # whoever asked was stopped
            os._exit(1)

    try:
        run, version = OPENERS[told["runtime"]](told)
        values = np.random.default_rng(0).integers(0, 255, told["shape"]).astype(told["dtype"])
        run(values)
    except Exception as error:  # runtimes raise nearly anything
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return
    answer(value=version)
    for line in sys.stdin:
        if line.strip() == "memory":
            answer(value=peak_memory())
            continue
        run(values)
        start = time.perf_counter()
        run(values)
        answer(value=time.perf_counter() - start)


def open_onnx(told: Record) -> tuple[Callable[[Any], Any], str]:
    """An ONNX file as one pass, and the runtime's version."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = told["threads"]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as segdistill runs it
    session = onnxruntime.InferenceSession(told["path"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values}), f"onnxruntime {onnxruntime.__version__}"


def open_openvino(told: Record) -> tuple[Callable[[Any], Any], str]:
    """An OpenVINO model as one pass at one shape, and the runtime's version."""
    import openvino

    core = openvino.Core()
    model = core.read_model(told["path"])
    model.reshape(told["shape"])
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if told["precision"] == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": told["threads"],
        "PERFORMANCE_HINT": "LATENCY",
    }
    graph = core.compile_model(model, "CPU", settings)
    return lambda values: graph(values)[0], f"openvino {openvino.__version__}"


OPENERS = {"onnx": open_onnx, "openvino": open_openvino}


def peak_memory() -> int | None:
    """Largest resident memory of this process in bytes; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
