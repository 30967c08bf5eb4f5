"""The embedded engine: llama.cpp's own OpenAI server in a process of its own.

    python -m hocket.engines.embedded --weights model.gguf --threads 1 --parallel 8 --context 2048

loads the weights, listens on a free port of 127.0.0.1, prints one line of JSON, `{"url": "http://127.0.0.1:41234"}`,
and serves until its standard input ends: so it dies with its parent, even when that is killed with -9.

The server is xllamacpp's `Server(CommonParams)`: llama.cpp's HTTP threads and batching loop run outside Python.
docs/decisions/embedded-engine.md tells why each setting below is what it is.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hocket.engines import weights
from hocket.errors import InputError

if TYPE_CHECKING:
    import xllamacpp

CHAT_TEMPLATES = {
    "plain": (
        "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
"name -> Jinja template for base models, whose files have none"


BAD_INPUT = 2
"the exit code where starting again would not help"

CHUNK = 256
"tokens of the largest batch: a longer prompt is prefilled in chunks, between which others decode and may be aborted"


class EmbeddedSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one embedded engine runs: the same for each of its replicas."""

    weights: str = "small"
    "a catalog name, hf:OWNER/REPO/FILE.gguf or a path"
    replicas: int = 1
    threads: int | None = None
    "CPU threads of each replica; None = half of the CPUs that this process may use, shared by the replicas"
    parallel: int = 8
    "slots: the largest batch of each replica"
    context: int = 2048
    "tokens of a slot: prompt and answer together"
    chat_template: str | None = None
    "a name of CHAT_TEMPLATES; None = what the weights bring or need"
    alias: str | None = None
    "the model name in answers; None = the name of the weights"
    cpus: list[int] | None = None
    "replica i is pinned to the `threads` CPUs that follow cpus[i*threads], round the list; None = not pinned"
    nice: int = 0
    "0 to 19: how far the processes give way to others on the same CPUs; a step is a fifth less of them"
    port: int = 0
    "of the first replica, the others follow; 0 = any free one"

    def check(self) -> None:
        """Raises InputError where a value makes no sense."""
        for name in ("replicas", "threads", "parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"embedded engine: {name} is {value}; it must be at least 1")
        if self.context < 64:
            raise InputError(f"embedded engine: context is {self.context} tokens a slot; it must be at least 64")
        if self.chat_template is not None and self.chat_template not in CHAT_TEMPLATES:
            known = ", ".join(CHAT_TEMPLATES)
            raise InputError(f"embedded engine: no chat template {self.chat_template!r}; known: {known}")
        if not 0 <= self.nice <= 19:
            raise InputError(f"embedded engine: nice is {self.nice}; it must be from 0 to 19")
        if self.cpus is not None:
            _check_cpus(self.cpus)

    @property
    def replica_threads(self) -> int:
        """CPU threads of each replica."""
        return self.threads if self.threads is not None else max(1, len(_usable_cpus()) // 2 // self.replicas)


def command(spec: EmbeddedSpec, path: Path, replica: int = 0) -> list[str]:
    """The command line that serves the weights at `path` as the given replica of `spec`."""
    template = spec.chat_template or weights.chat_template(spec.weights)
    arguments = {
        "--weights": str(path),
        "--threads": str(spec.replica_threads),
        "--parallel": str(spec.parallel),
        "--context": str(spec.context),
        "--port": str(spec.port + replica if spec.port else 0),
        "--alias": spec.alias or (spec.weights if spec.weights in weights.CATALOG else path.stem),
    }
    if template is not None:
        arguments["--chat-template"] = template
    if spec.cpus:
        first = replica * spec.replica_threads
        mine = {spec.cpus[(first + k) % len(spec.cpus)] for k in range(spec.replica_threads)}
        arguments["--cpus"] = ",".join(map(str, sorted(mine)))
    if spec.nice:
        arguments["--nice"] = str(spec.nice)
    return [sys.executable, "-m", "hocket.engines.embedded", *(word for pair in arguments.items() for word in pair)]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input ends. Exit code 2 and one line on standard error where that cannot begin."""
    args = _parser().parse_args(argv)
    # An interrupt on the terminal goes to the parent too; it decides, and its end is seen on standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if args.cpus:
            _check_cpus(args.cpus)
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, args.cpus)
        if args.nice:
            os.nice(args.nice)  # before there are threads: each inherits it
        server = _serve(args)
    except InputError as error:
        print(f"embedded engine: {error}", file=sys.stderr)
        return BAD_INPUT
    # llama.cpp's handler of SIGTERM stops its loop but not the process. Nothing here wants saving: die at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps({"url": server.listening_address, "pid": os.getpid()}), flush=True)
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os._exit(0)  # the destructor would wait for the running iteration


def _serve(args: argparse.Namespace) -> xllamacpp.Server:
    path = weights.pull(args.weights)
    # Threads of one step wait for each other hundreds of times. By default they spin, and where others share their
    # cores they spin for whole time slices: a token took ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {args.alias or path.stem}
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.ui = False
    params.endpoint_metrics = True
    params.embedding = True  # /v1/embeddings; measured to cost generation nothing
    # the usual one for decoders; and the mean comes out wrong where a batch splits prompts of unlike lengths
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    params.cors_origins = f"http://127.0.0.1:{args.port or 1}"  # no web page may talk to the engine
    params.n_threads_http = 2 * args.parallel + 8  # a waiting call holds one; /health must not wait behind them
    params.verbosity = 1  # errors only
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.n_gpu_layers = 0
    params.fit_params = False
    params.warmup = False
    params.n_parallel = args.parallel
    params.n_ctx = args.parallel * args.context
    params.n_batch = params.n_ubatch = CHUNK
    params.kv_unified = False
    params.cont_batching = True
    params.ctx_shift = False
    params.cache_prompt = True
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.swa_full = True
    params.n_ctx_checkpoints = 0
    if args.chat_template:
        params.chat_template = CHAT_TEMPLATES[args.chat_template]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise InputError(f"{path}: llama.cpp could not serve it ({error}); is it a complete GGUF text model?") from None


def _check_cpus(cpus: list[int]) -> None:
    allowed = _usable_cpus()
    if not cpus or not set(cpus) <= allowed:
        raise InputError(
            f"embedded engine: cpus {cpus} are not all among {sorted(allowed)}, which this process may use"
        )


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hocket.engines.embedded", description=__doc__)
    parser.add_argument(
        "--weights", required=True, help="path of a GGUF file, or a name that `hocket engine pull` takes"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=8, help="slots")
    parser.add_argument("--context", type=int, default=2048, help="tokens a slot")
    parser.add_argument("--chat-template", choices=sorted(CHAT_TEMPLATES))
    parser.add_argument("--alias", help="model name in answers")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--cpus", type=lambda text: [int(cpu) for cpu in text.split(",")], help="pin to these, as 0,1")
    parser.add_argument("--nice", type=int, default=0, help="0 to 19: give way to others on the same CPUs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
