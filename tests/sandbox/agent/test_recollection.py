from __future__ import annotations

from choir.sandbox.agent.events import CALL, RESULT
from choir.sandbox.agent.recollection import STEP_CHARACTERS, told


def test_what_is_remembered_of_the_steps() -> None:
    steps = [
        (CALL, {"call": "1", "tool": "shell", "arguments": {"command": "ls"}}),
        (CALL, {"call": "2", "tool": "write_file", "arguments": {"path": "a", "content": "x" * 9999}}),
        (RESULT, {"call": "1", "text": "a b"}),
    ]
    assert told(steps) == ["shell: ls\na b", f"write_file: {('a ' + 'x' * 9999)[:STEP_CHARACTERS]}\n[stopped]"]
