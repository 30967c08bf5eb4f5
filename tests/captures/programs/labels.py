"""Where a program's calls go: the base URL says what they are (see recorder.py)."""

import os

QUESTIONS = [
    "What is a hocket?",
    "Who wrote the first round?",
    "How does a bell keep time?",
    "Why do choirs breathe in turns?",
]


def url(case: str, job: str, stage: str, thread: str = "main") -> str:
    return f"{os.environ['RECORDER']}/l/{case}/{job}/{stage}/{thread}/v1"


def question(number: int) -> str:
    """Two jobs in a row ask the same."""
    return QUESTIONS[number // 2 % len(QUESTIONS)]


SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Look it up.",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    },
}
TWICE = ' script: search {"q": "a"} | search {"q": "b"} search {"q": "c"} | say That is it.'
