"""The local model's process: ``python -I -m choir.local_model.main --channel-fd N``.

Start message ``{"socket": PATH, "key": KEY}`` and optionally ``"weights": PATH`` and ``"shared": true``. Serves OpenAI
chat and responses and Anthropic messages on the unix socket PATH (mode 0600, shared 0660) to those who know KEY, until
the channel closes.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from pathlib import Path
from typing import Any

from choir.channel import Channel, ChannelClosed, Message
from choir.errors import StartError
from choir.local_model import weights
from choir.service import serve

MODEL = "SmolLM2-135M"
CONTEXT_TOKENS = 8192
"""What the model was trained for; shared by PARALLEL calls."""
PARALLEL = 2
TEMPERATURE = 0.0
REPEAT_PENALTY = 1.1
"""Unless the caller says otherwise. So small a model wanders off when it may choose, and goes in circles when not."""
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""ChatML, as the model's own, less its own system message: with that it answers "L'Étoile" to "What is the capital of
France?", without it "Paris" (first token's probability 0.59, the next one's 0.09)."""
MAX_TOKENS = 1024
"""Unless the caller says otherwise: it may never come to an end by itself."""
MAX_SOCKET_PATH = 107
"""Bytes, unix(7): ``sun_path`` is 108 with its closing zero. llama.cpp would cut a longer one."""


def run(channel: Channel, message: Message, descriptors: list[int]) -> None:
    """Load, answer ready, serve until ``channel`` closes, end the process.

    Raises:
        StartError: ``socket_path_too_long``, ``socket_taken``, ``local_model_not_installed``,
            ``local_weights_missing`` or ``local_model_failed``.
    """
    path = str(message["socket"])
    make_way(path)
    given = message.get("weights")
    found = Path(given) if given else weights.find()
    if not weights.runtime_available():
        raise weights.not_installed()
    if found is None or not found.is_file():
        raise weights.missing()
    # The process is the server's alone: everything it makes is private, but for the socket of a service.
    os.umask(0o117 if message.get("shared") else 0o177)
    # llama.cpp listens before it has loaded, and answers 503 until then: who connects to `path` shall not see that.
    loading = loading_path(path)
    _server = load(loading, str(message["key"]), found)  # serves while it is referred to
    os.rename(loading, path)
    with contextlib.suppress(ChannelClosed):
        channel.send({"ready": True, "model": MODEL})
        wait_for_end(channel)
    os.unlink(path)
    os._exit(0)  # llama.cpp would first finish the answers it is at


def make_way(path: str) -> None:
    """Check that a server can listen at ``path``, and remove a dead socket there.

    Raises:
        StartError: ``socket_path_too_long`` or ``socket_taken``.
    """
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise StartError(
            "socket_path_too_long",
            f"The path of the local model's socket has {length} bytes; the kernel takes at most {MAX_SOCKET_PATH}.",
            "Choose a shorter state folder with --state DIR or CHOIR_STATE.",
        )
    if not path.endswith(".sock"):
        raise StartError(
            "socket_taken", f"{path} does not end in .sock, by which llama.cpp tells a socket from a host."
        )
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartError("socket_taken", f"{path} is in the way: it is not a socket.", "Move it away.")
        os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(loading_path(path))


def loading_path(path: str) -> str:
    """Where the server listens until the model is loaded: beside ``path``, and no longer."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name[1:]}"


def load(path: str, key: str, gguf: Path) -> Any:
    """A llama.cpp server that listens and has its model loaded; it ends when it is dropped.

    Raises:
        StartError: ``local_model_failed``.
    """
    import xllamacpp  # 15 MB of llama.cpp, in this process alone

    parameters = xllamacpp.CommonParams()
    parameters.hostnames = [path]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.model.path = str(gguf)
    parameters.model_alias = {MODEL}
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = PARALLEL
    parameters.kv_unified = True
    parameters.n_predict = MAX_TOKENS
    parameters.sampling.temp = TEMPERATURE
    parameters.sampling.penalty_repeat = REPEAT_PENALTY
    parameters.chat_template = CHAT_TEMPLATE
    parameters.use_jinja = True
    parameters.ui = False
    parameters.offline = True
    parameters.verbosity = 1  # errors alone, nothing about calls
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise StartError(
            "local_model_failed", f"llama.cpp did not start with {gguf.name}.", "Its own message is in the log above."
        ) from error


def wait_for_end(channel: Channel) -> None:
    """Until the other end of ``channel`` is gone; whatever else it says is not for this process."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        poll.poll()
        channel.receive()


if __name__ == "__main__":
    serve(run)
